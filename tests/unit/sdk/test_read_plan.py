"""Plans of reads: which phases a situation calls for, and what becomes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.sdk_rig import MINUTE_MS, SERIES, T0, make_bars
from seamfill.bars import Bars, content_digest
from seamfill.intervals import TimeRange
from seamfill.protocol.backfills import CoverageAnswer, CoveredView, GapView, ViolatedView
from seamfill.protocol.values import GapReason
from seamfill.read_plan import (
    ReadPlan,
    Strategy,
    Survey,
    Verdict,
    find_lost,
    judge,
    plan_read,
    survey,
)
from seamfill.sla import BASELINE, TOLERANT_PARTIAL

END = T0 + 60 * MINUTE_MS


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


def covered(low: int, high: int, gen: int = 0) -> CoveredView:
    bars = make_bars(at(low), at(high))
    return CoveredView(
        start_ms=at(low),
        end_ms=at(high),
        gen=gen,
        rows=len(bars),
        content_digest=content_digest(bars),
    )


def answer(
    *parts: CoveredView, gaps: tuple[GapView, ...] = (), violated: tuple[ViolatedView, ...] = ()
) -> CoverageAnswer:
    return CoverageAnswer(
        series=SERIES,
        start_ms=T0,
        end_ms=END,
        rev=9,
        coverage_rev=8,
        spec=None,
        covered=parts,
        gaps=gaps,
        violated=violated,
        in_flight=(),
    )


def look(said: CoverageAnswer, low: int = 0, high: int = 60, *, dense: bool = True) -> Survey:
    return survey(said, at(low), at(high), interval_ms=MINUTE_MS, is_dense=dense)


def test_what_nobody_speaks_of_is_unfilled() -> None:
    gap = GapView(start_ms=at(20), end_ms=at(25), reason=GapReason.VENUE_OUTAGE)
    found = look(answer(covered(0, 20), covered(30, 60), gaps=(gap,)))
    assert found.unfilled == (TimeRange(at(25), at(30)),)
    assert not found.is_explained


def test_a_failed_redo_leaves_the_older_bars_standing() -> None:
    failed = ViolatedView(start_ms=T0, end_ms=END, reason="gone", redo_failed=True)
    assert look(answer(covered(0, 60), violated=(failed,))).is_explained


def test_a_part_of_a_covered_range_is_checked_by_count_not_by_the_digest_of_the_whole() -> None:
    (segment,) = look(answer(covered(0, 60)), 10, 20).segments
    assert (segment.rows, segment.content_digest) == (10, None)
    (sparse,) = look(answer(covered(0, 60)), 10, 20, dense=False).segments
    assert (sparse.rows, sparse.content_digest) == (None, None)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.FAIL_FAST, ReadPlan(submit=False, backfill_wait_ms=0)),
        (Strategy.PARTIAL_FILL, ReadPlan(submit=True, backfill_wait_ms=0)),
        (Strategy.AUTO_BACKFILL, ReadPlan(submit=True, backfill_wait_ms=45_000)),
        (Strategy.SEAMLESS, ReadPlan(submit=True, backfill_wait_ms=45_000)),
    ],
)
def test_the_strategy_chooses_whether_to_ask_and_to_wait(
    strategy: Strategy, expected: ReadPlan
) -> None:
    assert plan_read(look(answer()), strategy, BASELINE, left_ms=60_000) == expected
    nothing = plan_read(look(answer(covered(0, 60))), strategy, BASELINE, left_ms=60_000)
    assert nothing == ReadPlan(submit=False, backfill_wait_ms=0)


def test_waiting_never_takes_more_than_is_left() -> None:
    plan = plan_read(look(answer()), Strategy.AUTO_BACKFILL, BASELINE, left_ms=700)
    assert plan.backfill_wait_ms == 700


def test_a_read_that_serves_around_holes_keeps_time_to_serve() -> None:
    plan = plan_read(look(answer()), Strategy.SEAMLESS, TOLERANT_PARTIAL, left_ms=400)
    assert plan.backfill_wait_ms == 300


def test_only_a_violation_that_time_heals_is_tried_again_by_itself() -> None:
    def violated(reason: str) -> Survey:
        return look(
            answer(
                covered(0, 50),
                violated=(ViolatedView(start_ms=at(50), end_ms=END, reason=reason),),
            )
        )

    assert violated("no_right_neighbour").wants_backfill
    assert not violated("attempts_exhausted").wants_backfill


def test_verdicts() -> None:
    whole = look(answer(covered(0, 60)))
    open_ = look(answer(covered(0, 50)))
    bad = look(
        answer(covered(0, 50), violated=(ViolatedView(start_ms=at(50), end_ms=END, reason="x"),))
    )
    partial = dataclasses.replace(BASELINE, on_violation=TOLERANT_PARTIAL.on_violation)
    seamless, auto = Strategy.SEAMLESS, Strategy.AUTO_BACKFILL
    assert judge(whole, auto, BASELINE, out_of_time=True) is Verdict.COMPLETE
    assert judge(open_, auto, BASELINE, out_of_time=True) is Verdict.OVER_BUDGET
    assert judge(open_, auto, partial, out_of_time=True) is Verdict.OVER_BUDGET
    assert judge(open_, seamless, BASELINE, out_of_time=True) is Verdict.OVER_BUDGET
    assert judge(open_, seamless, partial, out_of_time=True) is Verdict.PARTIAL
    assert judge(open_, Strategy.FAIL_FAST, partial, out_of_time=False) is Verdict.UNFILLED
    assert judge(bad, seamless, BASELINE, out_of_time=False) is Verdict.VIOLATED
    assert judge(bad, Strategy.PARTIAL_FILL, BASELINE, out_of_time=False) is Verdict.PARTIAL


@given(st.sets(st.integers(0, 59)))
def test_exactly_the_absent_bars_of_a_dense_series_are_lost(absent: set[int]) -> None:
    said = look(answer(covered(0, 30), covered(30, 60, gen=1)))
    whole = make_bars(T0, END)
    kept = ~np.isin(whole.ts_ms, [at(each) for each in absent])
    bars = Bars(
        ts_ms=whole.ts_ms[kept],
        open=whole.open[kept],
        high=whole.high[kept],
        low=whole.low[kept],
        close=whole.close[kept],
        volume=whole.volume[kept],
    )
    lost = find_lost(bars, said.segments, interval_ms=MINUTE_MS, is_dense=True)
    found = {ms for each in lost for ms in range(each.start_ms, each.end_ms, MINUTE_MS)}
    assert found == {at(each) for each in absent}


def test_rows_with_another_digest_make_their_whole_segment_lost() -> None:
    said = look(answer(covered(0, 30), covered(30, 60, gen=1)))
    bars = Bars.concat([make_bars(T0, at(30)), make_bars(at(30), END, shift=1.0)])
    lost = find_lost(bars, said.segments, interval_ms=MINUTE_MS, is_dense=True)
    assert list(lost) == [TimeRange(at(30), END)]
