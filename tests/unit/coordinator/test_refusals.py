"""The log of refusals: what it says, and that strangers can not fill it."""

from __future__ import annotations

import logging

import pytest

from seamfill_coordinator.raft.refusals import REFUSALS_PER_WINDOW, WINDOW_S, RefusalLog

LOG = logging.getLogger("test.refusals")


def facts(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [record.__dict__["seamfill_facts"] for record in caplog.records]


def test_a_window_has_so_many_lines_and_the_next_tells_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = RefusalLog(LOG)
    for _ in range(REFUSALS_PER_WINDOW + 5):
        log.refused("bad_message", "10.0.0.9:4", "junk", now_s=100.0)
    assert len(caplog.records) == REFUSALS_PER_WINDOW
    log.refused("cluster", "10.0.0.9:5", "other", now_s=100.0 + WINDOW_S)
    assert facts(caplog)[-1] == {
        "reason": "cluster",
        "address": "10.0.0.9:5",
        "detail": "'other'",
        "refused_unlogged": 5,
    }


def test_a_strangers_words_are_cut_and_can_not_forge_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    RefusalLog(LOG).refused("bad_message", "10.0.0.9:4", "a\nb" * 10_000, now_s=0.0)
    detail = str(facts(caplog)[0]["detail"])
    assert "\n" not in detail
    assert len(detail) < 500
