"""The table of problems: complete, honest, and the same as its reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamfill_coordinator.machine.outcomes import Rejected, RejectReason
from seamfill_coordinator.problems import CODES, problem, refusal

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "problems.md"


@pytest.mark.parametrize("reason", RejectReason)
def test_every_refusal_of_the_machine_has_an_answer(reason: RejectReason) -> None:
    answer = refusal(Rejected(reason=reason))
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("code", CODES)
def test_the_reference_lists_every_code(code: str) -> None:
    entry = CODES[code]
    retryable = "yes" if entry.retryable else "no"
    line = f"| `{code}` | {entry.status} | {retryable} | {entry.title}. |"
    assert line in REFERENCE.read_text().splitlines()


def test_what_was_not_done_and_what_is_unknown_are_never_merged() -> None:
    for code, entry in CODES.items():
        if entry.status == 503:
            assert not problem(code).in_doubt
        if entry.status == 504:
            assert problem(code).in_doubt
