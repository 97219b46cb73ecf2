"""The strip shows the worst state of each share of the range."""

from __future__ import annotations

from seamfill.coverage_strip import coverage_strip
from seamfill.protocol.backfills import (
    CoverageAnswer,
    CoveredView,
    GapView,
    InFlightView,
    ViolatedView,
)
from seamfill.protocol.values import GapReason, SeriesId


def _answer(**parts: object) -> CoverageAnswer:
    return CoverageAnswer(
        series=SeriesId(dataset="d", symbol="s"),
        start_ms=1000,
        end_ms=2000,
        rev=1,
        coverage_rev=1,
        spec=None,
        covered=parts.get("covered", ()),  # type: ignore[arg-type]  # test shorthand
        gaps=parts.get("gaps", ()),  # type: ignore[arg-type]  # test shorthand
        violated=parts.get("violated", ()),  # type: ignore[arg-type]  # test shorthand
        in_flight=parts.get("in_flight", ()),  # type: ignore[arg-type]  # test shorthand
    )


def test_states_stand_where_their_ranges_are() -> None:
    answer = _answer(
        covered=(CoveredView(start_ms=1000, end_ms=1300, gen=0, rows=300),),
        gaps=(GapView(start_ms=1300, end_ms=1400, reason=GapReason.VENUE_OUTAGE),),
        in_flight=(
            InFlightView(start_ms=1400, end_ms=1600, state="leased"),
            InFlightView(start_ms=1600, end_ms=1800, state="open"),
        ),
        violated=(ViolatedView(start_ms=1800, end_ms=1900, reason="no_right_neighbour"),),
    )
    assert coverage_strip(answer, width=10) == "███·▒▒░░! "


def test_a_hole_shorter_than_a_cell_is_still_seen() -> None:
    answer = _answer(
        covered=(
            CoveredView(start_ms=1000, end_ms=1501, gen=0, rows=501),
            CoveredView(start_ms=1502, end_ms=2000, gen=0, rows=498),
        ),
        gaps=(GapView(start_ms=1501, end_ms=1502, reason=GapReason.VENUE_OUTAGE),),
    )
    assert coverage_strip(answer, width=4) == "██·█"


def test_ranges_beyond_the_answer_are_clipped() -> None:
    answer = _answer(covered=(CoveredView(start_ms=0, end_ms=9000, gen=0, rows=9000),))
    assert coverage_strip(answer, width=3) == "███"
