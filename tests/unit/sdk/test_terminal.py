"""What all command lines share: exit codes, tables, errors in one line."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from seamfill.errors import (
    BackfillViolated,
    CoordinatorUnavailable,
    CoverageIncomplete,
    InvalidInput,
    OutcomeUnknown,
    RequestRefused,
    SeamfillError,
    SeamlessSLAExceeded,
    StoreRefused,
)
from seamfill.terminal import Exit, Program, execute, exit_code, plain_table


def refused(status: int) -> RequestRefused:
    return RequestRefused("no", status=status, reason="x")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("f", "bad"), 2),
        (refused(400), 2),
        (refused(404), 3),
        (refused(409), 4),
        (refused(429), 1),
        (CoordinatorUnavailable(), 5),
        (OutcomeUnknown(), 6),
        (SeamlessSLAExceeded("x", phase="p", node_id="n", elapsed_ms=1, budget_ms=1), 6),
        (BackfillViolated(), 7),
        (CoverageIncomplete(), 7),
        (StoreRefused(), 1),
    ],
)
def test_the_exit_code_tells_what_kind_of_no_it_was(error: SeamfillError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_told_in_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise InvalidInput("--start", "is no time")

    with pytest.raises(SystemExit) as caught:
        execute(fail(), program="tool")
    assert caught.value.code == Exit.USAGE
    out, err = capsys.readouterr()
    assert (out, err) == ("", "tool: --start: is no time\n")


def test_a_command_that_is_interrupted_ends_with_130() -> None:
    @click.group(cls=Program)
    def tool() -> None:
        pass

    @tool.command()
    def work() -> None:
        raise KeyboardInterrupt

    ended = CliRunner().invoke(tool, ["work"])
    assert (ended.exit_code, ended.stdout) == (Exit.INTERRUPTED, "")
    assert ended.stderr == "tool: interrupted\n"


def test_a_plain_table_is_aligned_and_has_no_trailing_blanks() -> None:
    table = plain_table(("A", "LONG"), [("xyz", 1), ("x", 22)])
    assert table.splitlines() == ["A    LONG", "xyz  1", "x    22"]
