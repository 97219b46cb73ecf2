"""What all command lines of seamfill have in common.

Owns exit codes, time and output options, tables, and how an error is told. Must not know any
command. Data goes to stdout, messages to stderr; the caller's ``cli.py`` decides about logs.

Exit codes: 0 ok · 1 failure · 2 usage · 3 not found · 4 conflict or fenced · 5 no leader or
unreachable · 6 wait timed out or outcome unknown · 7 finished but incomplete · 8 validation
failed · 130 interrupted.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from seamfill.entry import INTERRUPTED
from seamfill.errors import (
    BackfillViolated,
    ConformancePipelineError,
    CoordinatorUnavailable,
    CoverageIncomplete,
    InvalidInput,
    OutcomeUnknown,
    RequestRefused,
    Restated,
    SchemaValidationError,
    SeamfillError,
    SeamlessSLAExceeded,
    UnknownSymbol,
)
from seamfill.times import parse_time

__all__ = [
    "FILE",
    "TIME",
    "Exit",
    "Output",
    "Program",
    "emit",
    "execute",
    "exit_code",
    "output_option",
    "plain_table",
    "say",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

FILE: Final = click.Path(dir_okay=False, path_type=Path)


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    TIMED_OUT = 6
    INCOMPLETE = 7
    INVALID = 8
    INTERRUPTED = INTERRUPTED


class Output(StrEnum):
    """How results are printed: for people, wider for people, one document, one line per event."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    JSONL = "jsonl"


class _Time(click.ParamType[int]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        field = param.opts[-1] if param is not None and param.opts else "time"
        try:
            return parse_time(str(value), field)
        except InvalidInput as exc:
            self.fail(exc.message.removeprefix(f"{field}: "), param, ctx)


TIME: Final = _Time()
"""ISO 8601 with a zone, or epoch milliseconds; gives epoch ms."""


def output_option(*allowed: Output) -> Callable[[F], F]:
    """Add ``-o/--output-format`` as the parameter ``output``; the first one is the default."""
    formats = allowed or (Output.TABLE, Output.JSON, Output.JSONL)
    return click.option(
        "-o",
        "output",
        type=click.Choice([each.value for each in formats]),
        default=formats[0].value,
        show_default=True,
        callback=lambda _ctx, _param, value: Output(value),
        help="How the result is printed on stdout.",
    )


class Program(click.Group):
    """A console script's commands: an interrupted one ends with 130, where click's ends with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say(f"{ctx.info_name}: interrupted")
            raise SystemExit(Exit.INTERRUPTED) from None


def execute(work: Coroutine[Any, Any, T], *, program: str) -> T:
    """Run a command to its end; tell an error in one line on stderr and exit with its code."""
    try:
        return asyncio.run(work)
    except SeamfillError as exc:
        say(f"{program}: {exc.message}")
        raise SystemExit(exit_code(exc)) from exc
    except KeyboardInterrupt:
        say(f"{program}: interrupted")
        raise SystemExit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(Exit.OK) from None


def exit_code(error: SeamfillError) -> Exit:
    """Return the exit code that tells a script what kind of "no" this was."""
    match error:
        case RequestRefused(status=404):
            return Exit.NOT_FOUND
        case RequestRefused(status=409):
            return Exit.CONFLICT
        case RequestRefused(status=status) if status in (400, 413, 415):
            return Exit.USAGE
        case InvalidInput():
            return Exit.USAGE
        case UnknownSymbol():
            return Exit.NOT_FOUND
        case Restated():
            return Exit.CONFLICT
        case CoordinatorUnavailable():
            return Exit.UNREACHABLE
        case OutcomeUnknown() | SeamlessSLAExceeded():
            return Exit.TIMED_OUT
        case BackfillViolated() | CoverageIncomplete():
            return Exit.INCOMPLETE
        case ConformancePipelineError() | SchemaValidationError():
            return Exit.INVALID
        case _:
            return Exit.FAILURE


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    click.echo(text, err=True)


def emit(document: object, output: Output) -> None:
    """Print one JSON document: indented for ``json``, on one line for ``jsonl``."""
    data = msgspec.json.encode(document)
    if output is Output.JSON:
        data = msgspec.json.format(data, indent=2)
    click.echo(data.decode())
    sys.stdout.flush()


def plain_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns without any drawing, so that they can be cut and sorted."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
