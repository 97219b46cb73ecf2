"""The stories in ``scenarios/``: each must read as it is written.

``pytest tests/machine --rewrite`` writes the present answers into the texts; the diff is reviewed
like code. Answers that the design states were written by hand first.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from machine.story import Story

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 15


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_reads_as_written(path: Path, rewrite: bool) -> None:
    text = path.read_text(encoding="utf-8")
    told = Story.retell(text)
    if rewrite:
        path.write_text(told, encoding="utf-8")
    else:
        assert told == text
