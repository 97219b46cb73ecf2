"""What a read has to do: coverage and budgets in, phases and verdicts out.

Owns the reading of a ``CoverageAnswer`` (``survey``), the choice of phases (``plan_read``), the
judgement of what is left unexplained (``judge``) and the comparison of rows with what coverage
promised (``find_lost``). Must not wait, fetch or look at a clock; the provider only runs this plan.
Pure.

Invariants: a survey's segments, gaps, violated and unfilled ranges are disjoint and together are
exactly the range asked for; a read is complete when nothing is violated, unfilled or lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final, assert_never

import numpy as np

from seamfill.bars import Bars, content_digest
from seamfill.connectors import GenRange
from seamfill.intervals import IntervalSet, TimeRange
from seamfill.protocol.backfills import CoverageAnswer, CoveredView, GapView, ViolatedView
from seamfill.sla import OnViolation, SLAPolicy

__all__ = [
    "ReadPlan",
    "Segment",
    "Strategy",
    "Survey",
    "Verdict",
    "find_lost",
    "judge",
    "plan_read",
    "survey",
]

# The one violation that time heals: ten minutes into an outage nothing can be proved, so every
# later request tries again (market-data.md, What a hole is).
RETRIED_BY_ITSELF: Final = "no_right_neighbour"


class Strategy(StrEnum):
    """What a read does about bars that are not there yet."""

    FAIL_FAST = "fail_fast"
    """Raise on any bar that is neither verified nor proved absent."""
    AUTO_BACKFILL = "auto_backfill"
    """Have them filled, and wait within the budget; raise when it is not enough."""
    PARTIAL_FILL = "partial_fill"
    """Have them filled, but serve at once what is there."""
    SEAMLESS = "seamless"
    """Have them filled and wait; at the budget the policy's ``on_violation`` decides."""


class Verdict(StrEnum):
    """What becomes of a read."""

    COMPLETE = auto()
    PARTIAL = auto()
    """Serve it with ``complete=False``."""
    VIOLATED = auto()
    """Raise: bars could neither be filled nor be proved absent."""
    UNFILLED = auto()
    """Raise: bars are missing and nothing waits for them any more."""
    OVER_BUDGET = auto()
    """Raise: the backfill did not end within its budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Verified bars of one generation, and what reading them must give.

    ``rows`` None: any number (a part of a sparse range). ``content_digest`` None: not known for
    exactly this part.
    """

    start_ms: int
    end_ms: int
    gen: int
    rows: int | None
    content_digest: str | None

    @property
    def range(self) -> GenRange:
        """Return what to ask a store for."""
        return GenRange(start_ms=self.start_ms, end_ms=self.end_ms, gen=self.gen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A coverage answer cut to the range of a read."""

    start_ms: int
    end_ms: int
    segments: tuple[Segment, ...]
    gaps: tuple[GapView, ...]
    violated: tuple[ViolatedView, ...]
    unfilled: tuple[TimeRange, ...]

    @property
    def is_explained(self) -> bool:
        """Whether every bar is verified or proved absent."""
        return not self.violated and not self.unfilled

    @property
    def wants_backfill(self) -> bool:
        """Whether asking for a backfill now can explain more."""
        return bool(self.unfilled) or any(
            each.reason.startswith(RETRIED_BY_ITSELF) for each in self.violated
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """Which phases to run. ``backfill_wait_ms`` 0: submit, but do not wait."""

    submit: bool
    backfill_wait_ms: int


def survey(
    answer: CoverageAnswer, start_ms: int, end_ms: int, *, interval_ms: int, is_dense: bool
) -> Survey:
    """Cut an answer to ``[start_ms, end_ms)`` (on the grid) and find what it does not speak of."""
    segments = tuple(
        _segment(each, start_ms, end_ms, interval_ms, is_dense)
        for each in answer.covered
        if _overlaps(each, start_ms, end_ms)
    )
    gaps = tuple(each for each in answer.gaps if _overlaps(each, start_ms, end_ms))
    # A redo that failed leaves the older fact standing: such bars are covered, not violated.
    violated = tuple(
        each
        for each in answer.violated
        if _overlaps(each, start_ms, end_ms) and not each.redo_failed
    )
    spoken_of: list[CoveredView | GapView | ViolatedView] = [*answer.covered, *gaps, *violated]
    known = IntervalSet.of(TimeRange(each.start_ms, each.end_ms) for each in spoken_of)
    return Survey(
        start_ms=start_ms,
        end_ms=end_ms,
        segments=segments,
        gaps=gaps,
        violated=violated,
        unfilled=tuple(known.complement(start_ms, end_ms)) if end_ms > start_ms else (),
    )


def plan_read(found: Survey, strategy: Strategy, policy: SLAPolicy, *, left_ms: int) -> ReadPlan:
    """Choose the phases for what was found, within what is left of the whole budget."""
    if not found.wants_backfill:
        return ReadPlan(submit=False, backfill_wait_ms=0)
    match strategy:
        case Strategy.FAIL_FAST:
            return ReadPlan(submit=False, backfill_wait_ms=0)
        case Strategy.PARTIAL_FILL:
            return ReadPlan(submit=True, backfill_wait_ms=0)
        case Strategy.AUTO_BACKFILL | Strategy.SEAMLESS:
            return ReadPlan(submit=True, backfill_wait_ms=_patience(strategy, policy, left_ms))
    assert_never(strategy)


def _patience(strategy: Strategy, policy: SLAPolicy, left_ms: int) -> int:
    """Return how long to wait for the backfill, leaving time to serve when serving may follow."""
    if tolerates(strategy, policy):
        left_ms -= min(policy.max_wait_storage_ms, left_ms // 4)
    return max(1, min(policy.max_wait_backfill_ms, left_ms))


def tolerates(strategy: Strategy, policy: SLAPolicy) -> bool:
    """Whether unexplained bars are served around rather than raised; the caller's word wins."""
    match strategy:
        case Strategy.PARTIAL_FILL:
            return True
        case Strategy.SEAMLESS:
            return policy.on_violation is OnViolation.PARTIAL_FILL
        case Strategy.FAIL_FAST | Strategy.AUTO_BACKFILL:
            return False
    assert_never(strategy)


def judge(found: Survey, strategy: Strategy, policy: SLAPolicy, *, out_of_time: bool) -> Verdict:
    """Decide what becomes of a read whose backfill phase is over."""
    if found.is_explained:
        return Verdict.COMPLETE
    if tolerates(strategy, policy):
        return Verdict.PARTIAL
    if found.unfilled and out_of_time:
        return Verdict.OVER_BUDGET
    return Verdict.VIOLATED if found.violated else Verdict.UNFILLED


def find_lost(
    bars: Bars, segments: tuple[Segment, ...], *, interval_ms: int, is_dense: bool
) -> IntervalSet:
    """Return the verified ranges that were read without their rows, or with other ones.

    Of a dense series exactly the absent bars; where rows are as many as promised but their digest
    differs, or the series is sparse, the whole segment: which row is wrong can not be told.
    """
    lost = IntervalSet.empty()
    for segment in segments:
        rows = bars.between(segment.start_ms, segment.end_ms)
        if not _is_as_promised(rows, segment):
            lost = lost.union(_lost_in(rows, segment, interval_ms, is_dense))
    return lost


def _is_as_promised(rows: Bars, segment: Segment) -> bool:
    if segment.rows is not None and len(rows) != segment.rows:
        return False
    return segment.content_digest is None or content_digest(rows) == segment.content_digest


def _lost_in(rows: Bars, segment: Segment, interval_ms: int, is_dense: bool) -> IntervalSet:
    whole = IntervalSet.of([TimeRange(segment.start_ms, segment.end_ms)])
    if not is_dense or len(rows) == segment.rows:
        return whole
    present = IntervalSet.from_columns(rows.ts_ms, rows.ts_ms + np.int64(interval_ms))
    absent = whole.difference(present)
    return absent if len(absent) else whole


def _segment(
    view: CoveredView, start_ms: int, end_ms: int, interval_ms: int, is_dense: bool
) -> Segment:
    low, high = max(view.start_ms, start_ms), min(view.end_ms, end_ms)
    is_whole = (low, high) == (view.start_ms, view.end_ms)
    digest = view.content_digest if is_whole else None
    # A covered range of a dense series has every bar (holes are gaps, not part of it), so the
    # number of rows of any part is known. Of a sparse one the count is only known for a range that
    # was never split, which is one that still has its digest.
    rows = view.rows if digest is not None else None
    if is_dense:
        rows = (high - low) // interval_ms
    return Segment(start_ms=low, end_ms=high, gen=view.gen, rows=rows, content_digest=digest)


def _overlaps(view: CoveredView | GapView | ViolatedView, start_ms: int, end_ms: int) -> bool:
    return view.start_ms < end_ms and view.end_ms > start_ms
