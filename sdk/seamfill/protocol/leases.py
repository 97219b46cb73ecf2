"""Bodies of ``/v1/leases/*`` for native leases. Lists in, lists out: one request, many windows.

Results stand in the order of the request's items. An item's refusal is a result
(``status="refused"``), not an HTTP error: the other items of the list still count. A request in
which *every* item was refused for the same reason still answers 200.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from seamfill.protocol.values import (
    Answer,
    Body,
    Count,
    CoveredRange,
    DatasetSpec,
    DelayMs,
    Directive,
    GapRange,
    LeaseRef,
    ListingDate,
    Name,
    Part,
    SeriesId,
    SourceOffer,
    TimeMs,
    Usage,
    WorkerIdentity,
)

__all__ = [
    "AcquireAnswer",
    "AcquireRequest",
    "CompleteItem",
    "CompleteRequest",
    "FailItem",
    "FailRequest",
    "GrantedLease",
    "ItemResult",
    "LeaseExplanation",
    "LeaseView",
    "LeasesAnswer",
    "ReleaseItem",
    "ReleaseRequest",
    "RenewItem",
    "RenewRequest",
    "ResultsAnswer",
    "RevokeRequest",
    "SnoozeItem",
    "SnoozeRequest",
]

MAX_ITEMS = 256


class AcquireRequest(Body, frozen=True):
    """Ask for up to ``max_windows`` windows; waits up to ``wait_ms`` when there is nothing."""

    worker: WorkerIdentity
    offers: Annotated[tuple[SourceOffer, ...], Meta(min_length=1, max_length=64)]
    stores: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=64)]
    """Stores this worker can write: ``questdb:*`` style prefixes end in ``*``."""
    max_windows: Annotated[int, Meta(ge=1, le=MAX_ITEMS)] = 1
    ttl_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = 30_000
    wait_ms: Annotated[int, Meta(ge=0, le=30_000)] = 0


class GrantedLease(Part, frozen=True):
    """One window, exclusively this worker's until ``ttl_ms`` after it *sent* the request."""

    series: SeriesId
    start_ms: TimeMs
    end_ms: TimeMs
    gen: int
    fence: int
    ttl_ms: int
    renew_after_ms: int
    spec: DatasetSpec
    cursor_ms: TimeMs | None = None
    """How far the previous holder said it had come; a hint, never a fact."""
    attempts: int = 0
    budget_weight: int = 0
    listed_from_ms: TimeMs | None = None
    delisted_at_ms: TimeMs | None = None

    @property
    def ref(self) -> LeaseRef:
        """Return the name under which this lease is renewed and completed."""
        return LeaseRef(
            series=self.series, start_ms=self.start_ms, end_ms=self.end_ms, fence=self.fence
        )


class AcquireAnswer(Answer, frozen=True):
    """Granted windows; when there are none, why, and after how long it is worth asking again."""

    leases: tuple[GrantedLease, ...]
    retry_after_ms: int | None = None
    why: str | None = None


class RenewItem(Body, frozen=True):
    """Extend one lease, and leave a hint for the next holder."""

    lease: LeaseRef
    cursor_ms: TimeMs | None = None


class RenewRequest(Body, frozen=True):
    worker: WorkerIdentity
    leases: Annotated[tuple[RenewItem, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    ttl_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = 30_000
    usage: tuple[Usage, ...] = ()


class CompleteItem(Body, frozen=True):
    """Facts for exactly the ranges this holder fetched, wrote and read back itself.

    Not final: the lease keeps the rest under the same fence. Final: the rest returns to waiting.
    """

    lease: LeaseRef
    covered: Annotated[tuple[CoveredRange, ...], Meta(max_length=1024)] = ()
    gaps: Annotated[tuple[GapRange, ...], Meta(max_length=256)] = ()
    final: bool = True
    listed_from: ListingDate | None = None
    delisted_at: ListingDate | None = None


class CompleteRequest(Body, frozen=True):
    worker: WorkerIdentity
    leases: Annotated[tuple[CompleteItem, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    usage: tuple[Usage, ...] = ()


class FailItem(Body, frozen=True):
    """Give a lease up with a reason: waits with backoff, or is violated for good."""

    lease: LeaseRef
    code: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-z][a-z0-9_]*$")]
    retryable: bool = True
    delay_ms: DelayMs = 0
    detail: Annotated[str, Meta(max_length=500)] = ""


class FailRequest(Body, frozen=True):
    worker: WorkerIdentity
    leases: Annotated[tuple[FailItem, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    usage: tuple[Usage, ...] = ()


class ReleaseItem(Body, frozen=True):
    """Give a lease back without using an attempt."""

    lease: LeaseRef
    no_write_in_flight: bool = False


class ReleaseRequest(Body, frozen=True):
    worker: WorkerIdentity
    leases: Annotated[tuple[ReleaseItem, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


class SnoozeItem(Body, frozen=True):
    """Give a lease back until later: 429, maintenance, a bar that has not closed."""

    lease: LeaseRef
    delay_ms: DelayMs
    why: Annotated[str, Meta(max_length=64, pattern="^[a-z][a-z0-9_]*$")] = "snoozed"


class SnoozeRequest(Body, frozen=True):
    worker: WorkerIdentity
    leases: Annotated[tuple[SnoozeItem, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    usage: tuple[Usage, ...] = ()


class RevokeRequest(Body, frozen=True):
    """Operator: end leases now. A later complete of them is refused."""

    leases: Annotated[tuple[LeaseRef, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    reason: Annotated[str, Meta(max_length=200)] = ""


class ItemResult(Part, frozen=True):
    """What happened to one item of a renew, complete, fail, release, snooze or revoke.

    ``refused`` carries ``reason`` (stale_fence, expired, result_conflict, worker_replaced,
    invalid …). ``already`` is a repetition of the same completion. ``covered`` on a stale fence
    says that these bars are covered all the same.
    """

    status: Literal[
        "renewed",
        "completed",
        "already",
        "requeued",
        "violated",
        "released",
        "revoked",
        "refused",
    ]
    ttl_ms: int | None = None
    renew_after_ms: int | None = None
    directive: Directive | None = None
    retry_after_ms: int | None = None
    reason: str | None = None
    field: str | None = None
    detail: str | None = None
    covered: bool | None = None


class ResultsAnswer(Answer, frozen=True):
    results: tuple[ItemResult, ...]


class LeaseView(Part, frozen=True):
    """One lease as operators see it; native ones have ``series``, compatibility ones do not."""

    key: str
    holder: str
    fence: int
    state: Literal["live", "lock_delay"]
    remaining_ms: int
    series: SeriesId | None = None
    start_ms: TimeMs | None = None
    end_ms: TimeMs | None = None
    gen: int | None = None
    cursor_ms: TimeMs | None = None
    attempts: int = 0


class LeasesAnswer(Answer, frozen=True):
    leases: tuple[LeaseView, ...]
    total: Count
    """How many match; ``leases`` holds at most ``limit`` of them."""


class LeaseExplanation(Answer, frozen=True):
    """Why a bar is not being worked on, or who is working on it."""

    series: SeriesId
    ts_ms: TimeMs
    state: str
    sentence: str
    lease: LeaseView | None = None
