"""What a read returns: the frame, and bar by bar why anything is not in it.

Owns the values of a result. Must not know how they came about. Frozen; the frame is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import pandas as pd

from seamfill.errors import CoverageIncomplete
from seamfill.intervals import TimeRange
from seamfill.protocol.values import GapReason, Receipt, SeriesId
from seamfill.times import format_ms

__all__ = ["CoverageKnowledge", "FetchResult", "Gap", "GapState", "Provenance"]


class GapState(StrEnum):
    """How much is known about bars that are not in the frame."""

    PROVED = "proved"
    """They do not exist at the source; ``reason`` says why and ``receipt`` proves it."""
    VIOLATED = "violated"
    """They could neither be filled nor be proved absent."""
    UNFILLED = "unfilled"
    """Nobody has filled them yet."""
    LOST = "lost"
    """They were verified, but the store does not give them back as they were."""


class CoverageKnowledge(StrEnum):
    """How the coverage behind a result was known."""

    CURRENT = "current"
    LAST_KNOWN = "last_known"
    """The coordinator could not be reached; this is what it said before."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Bars of ``[start_ms, end_ms)`` that are absent rows. ``reason`` is set when proved."""

    start_ms: int
    end_ms: int
    state: GapState
    reason: GapReason | None = None
    detail: str = ""
    receipt: Receipt | None = None

    def describe(self) -> str:
        """Return one line for people."""
        why = self.reason.value if self.reason else self.state.value
        detail = f" ({self.detail})" if self.detail else ""
        return f"{format_ms(self.start_ms)} – {format_ms(self.end_ms)}  {why}{detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the rows come from and which state of knowledge they show."""

    rows_by_source: dict[str, int]
    coverage: CoverageKnowledge
    rev: int | None
    coverage_rev: int | None
    as_of: int | None
    generations: tuple[int, ...]
    backfill_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FetchResult:
    """Bars of ``[start_ms, end_ms)`` (the request, widened to the grid, cut to what has closed).

    ``complete``: every bar is in the frame or its absence is proved. ``coverage``: the verified
    ranges. ``gaps``: the rest, in order, disjoint.
    """

    frame: pd.DataFrame
    series: SeriesId
    start: pd.Timestamp
    end: pd.Timestamp
    interval: pd.Timedelta
    complete: bool
    coverage: tuple[TimeRange, ...]
    gaps: tuple[Gap, ...]
    provenance: Provenance

    def raise_for_gaps(self, *allowed: GapReason) -> Self:
        """Return this result, or raise ``CoverageIncomplete`` for a gap with another reason."""
        for gap in self.gaps:
            if gap.reason is None or gap.reason not in allowed:
                raise CoverageIncomplete(
                    f"{self.series.dataset} {self.series.symbol}: {gap.describe()}"
                )
        return self
