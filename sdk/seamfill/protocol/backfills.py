"""Bodies of ``/v1/backfills``, ``/v1/coverage`` and ``/v1/violations``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from seamfill.protocol.values import (
    Answer,
    Body,
    Count,
    DatasetSpec,
    GapReason,
    Name,
    Part,
    Receipt,
    Redo,
    SeriesId,
    TimeMs,
)

__all__ = [
    "BackfillAnswer",
    "BackfillPlan",
    "BackfillRequest",
    "BackfillView",
    "BackfillsAnswer",
    "CoverageAnswer",
    "CoveredView",
    "GapView",
    "InFlightView",
    "RetryRequest",
    "UnfilledView",
    "ViolatedView",
    "ViolationsAnswer",
    "Wanted",
]

BackfillState = Literal["active", "paused", "complete", "incomplete", "cancelled"]


class Wanted(Body, frozen=True):
    """A range of one symbol's bars, half-open, on the dataset's grid."""

    symbol: Name
    start_ms: TimeMs
    end_ms: TimeMs


class BackfillRequest(Body, frozen=True):
    """Ask for ranges of a dataset to be filled. Safe to repeat with the same ``id``.

    ``deadline_ms`` is an ordering key in epoch ms; work with an earlier one goes first among equal
    priorities (a larger ``priority`` goes first).
    """

    dataset: Name
    spec: DatasetSpec
    wanted: Annotated[tuple[Wanted, ...], Meta(min_length=1, max_length=2_000)]
    id: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._:-]+$")] | None = (
        None
    )
    window_bars: Annotated[int, Meta(ge=1, le=100_000)] = 1800
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    deadline_ms: TimeMs | None = None
    redo: Redo | None = None
    dry_run: bool = False


class RetryRequest(Body, frozen=True):
    """Redo what a finished backfill could not fill, under a new backfill."""

    redo: Redo = Redo.FAILED


class BackfillPlan(Answer, frozen=True):
    """What a submitted (or planned) backfill amounts to.

    ``windows`` = cells of this backfill's grid that contain open bars; ``start_ms``/``end_ms`` are
    the hull of what is wanted after clipping to the last closed bar, ``requested_*`` before.
    """

    id: str
    start_ms: TimeMs
    end_ms: TimeMs
    requested_start_ms: TimeMs
    requested_end_ms: TimeMs
    windows: Count
    bars: Count
    already_covered: Count
    already_gap: Count = 0
    already_violated: Count = 0
    repeated: bool = False
    dry_run: bool = False


class UnfilledView(Part, frozen=True):
    """Bars that are not there, all for one reason; symbol, range and detail are an example."""

    state: Literal["violated", "waiting"]
    """violated: given up, a redo tries again. waiting: put off, tried again by itself."""
    reason: str
    bars: Count
    symbol: str
    start_ms: TimeMs
    end_ms: TimeMs
    detail: str = ""


class BackfillView(Part, frozen=True):
    """A backfill's progress, in bars: wanted = verified + gap + violated + (open or in task)."""

    id: str
    dataset: str
    state: BackfillState
    start_ms: TimeMs
    end_ms: TimeMs
    symbols: tuple[str, ...]
    window_bars: int
    priority: int
    deadline_ms: int | None
    redo: Redo | None
    bars_wanted: Count
    bars_verified: Count
    bars_gap: Count
    bars_violated: Count
    windows_violated: Count
    bars_leased: Count
    ratio: float
    blocked: str | None = None
    """What keeps the rest from being worked on, in words, if anything does."""
    unfilled: tuple[UnfilledView, ...] = ()
    """Why bars are not there now, most bars first. Only where one backfill is shown."""


class BackfillAnswer(Answer, frozen=True):
    backfill: BackfillView


class BackfillsAnswer(Answer, frozen=True):
    backfills: tuple[BackfillView, ...]
    total: Count


class CoveredView(Part, frozen=True):
    start_ms: TimeMs
    end_ms: TimeMs
    gen: int
    rows: Count
    content_digest: str | None = None
    """None when a range with a digest was split later: such rows are unaudited."""


class GapView(Part, frozen=True):
    start_ms: TimeMs
    end_ms: TimeMs
    reason: GapReason
    receipt: Receipt | None = None


class ViolatedView(Part, frozen=True):
    start_ms: TimeMs
    end_ms: TimeMs
    reason: str
    detail: str = ""
    redo_failed: bool = False
    """True where an older fact still stands and only the redo failed."""


class InFlightView(Part, frozen=True):
    start_ms: TimeMs
    end_ms: TimeMs
    state: Literal["leased", "waiting", "open"]
    holder: str | None = None
    eta_ms: int | None = None
    backfills: tuple[str, ...] = ()
    note: str | None = None
    """Why it waits: the last failure's code, a backoff, a snooze."""


class CoverageAnswer(Answer, frozen=True):
    """What is known about a range of one series, disjoint and in order.

    Bars in none of the lists were never wanted. ``rev`` is the cluster's, ``coverage_rev`` the rev
    of this series' last change of facts. With ``as_of`` (a rev), ``covered`` names the generation
    that was current then.
    """

    series: SeriesId
    start_ms: TimeMs
    end_ms: TimeMs
    rev: Count
    coverage_rev: Count
    spec: DatasetSpec | None
    """None when nobody ever submitted this dataset."""
    covered: tuple[CoveredView, ...]
    gaps: tuple[GapView, ...]
    violated: tuple[ViolatedView, ...]
    in_flight: tuple[InFlightView, ...]
    as_of: Count | None = None
    restated: tuple[Annotated[tuple[int, int], Meta(description="start_ms, end_ms")], ...] = ()
    """With ``as_of``: ranges where the ledger no longer reaches back."""
    listed_from_ms: TimeMs | None = None
    delisted_at_ms: TimeMs | None = None
    truncated: bool = False


class ViolationsAnswer(Answer, frozen=True):
    violations: tuple[tuple[SeriesId, ViolatedView], ...]
    total: Count
