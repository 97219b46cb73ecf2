"""From what was found and read to the result a caller gets.

Owns the listing of gaps and the assembly of ``FetchResult``. Must not wait, fetch or decide. Pure.
"""

from __future__ import annotations

import pandas as pd

from seamfill.bars import Bars
from seamfill.frame import bars_to_frame
from seamfill.intervals import IntervalSet, TimeRange
from seamfill.protocol.backfills import CoverageAnswer
from seamfill.read_plan import Survey
from seamfill.read_request import ReadRequest
from seamfill.result import CoverageKnowledge, FetchResult, Gap, GapState, Provenance

__all__ = ["assemble", "list_gaps"]


def assemble(
    request: ReadRequest,
    found: Survey,
    bars: Bars,
    lost: IntervalSet,
    *,
    knowledge: CoverageKnowledge,
    answer: CoverageAnswer | None,
    backfill_id: str | None,
) -> FetchResult:
    """Build the result; rows of lost ranges are left out, because they are not what was verified.

    Without a coordinator's current word nothing is ever called complete.
    """
    served = _without_lost(bars, lost, found)
    covered = IntervalSet.of(TimeRange(s.start_ms, s.end_ms) for s in found.segments)
    is_current = knowledge is CoverageKnowledge.CURRENT
    return FetchResult(
        frame=bars_to_frame(served),
        series=request.series,
        start=pd.Timestamp(found.start_ms, unit="ms", tz="UTC"),
        end=pd.Timestamp(found.end_ms, unit="ms", tz="UTC"),
        interval=pd.Timedelta(request.spec.interval_ms, unit="ms"),
        complete=is_current and found.is_explained and not len(lost),
        coverage=tuple(covered.difference(lost)),
        gaps=list_gaps(found, lost),
        provenance=Provenance(
            rows_by_source={"storage": len(served)},
            coverage=knowledge,
            rev=answer.rev if answer else None,
            coverage_rev=answer.coverage_rev if answer else None,
            as_of=answer.as_of if answer else None,
            generations=tuple(sorted({segment.gen for segment in found.segments})),
            backfill_id=backfill_id,
        ),
    )


def list_gaps(found: Survey, lost: IntervalSet) -> tuple[Gap, ...]:
    """List what is not in the frame, in order, disjoint, cut to the range of the survey."""
    low, high = found.start_ms, found.end_ms
    proved = (
        Gap(
            start_ms=max(each.start_ms, low),
            end_ms=min(each.end_ms, high),
            state=GapState.PROVED,
            reason=each.reason,
            receipt=each.receipt,
        )
        for each in found.gaps
    )
    violated = (
        Gap(
            start_ms=max(each.start_ms, low),
            end_ms=min(each.end_ms, high),
            state=GapState.VIOLATED,
            detail=" ".join(filter(None, (each.reason, each.detail))),
        )
        for each in found.violated
    )
    unfilled = (
        Gap(start_ms=each.start_ms, end_ms=each.end_ms, state=GapState.UNFILLED)
        for each in found.unfilled
    )
    gone = (Gap(start_ms=each.start_ms, end_ms=each.end_ms, state=GapState.LOST) for each in lost)
    listed = [*proved, *violated, *unfilled, *gone]
    return tuple(sorted(listed, key=lambda gap: gap.start_ms))


def _without_lost(bars: Bars, lost: IntervalSet, found: Survey) -> Bars:
    if not len(lost):
        return bars
    good = lost.complement(found.start_ms, found.end_ms)
    return Bars.concat([bars.between(each.start_ms, each.end_ms) for each in good])
