"""What can be asked of the lease machine: operations, and the command that carries them.

Owns the shapes that are written to the Raft log. Must not know how they are encoded (``codec``),
what they do (``machine``) or where they came from. Every operation is one msgpack array whose first
element is its tag; tags are never reused, fields are only appended, with defaults.

A *command* is one Raft entry: a stamp and the requests that gathered while the entry before was in
flight. A *request* is what one client call asks: one or more operations under one identity, applied
one after the other, each raising ``rev`` by one. Deduplication is per request.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import (
    CoveredRange,
    DatasetSpec,
    GapRange,
    LeaseRef,
    ListingDate,
    Redo,
    SourceOffer,
    Usage,
    WorkerIdentity,
)

__all__ = [
    "NO_CLIENT",
    "Acquire",
    "Announce",
    "Barrier",
    "CancelBackfill",
    "Claim",
    "Command",
    "Complete",
    "CompleteClaim",
    "DrainWorker",
    "Fail",
    "FailClaim",
    "Limits",
    "OpenSession",
    "Operation",
    "PauseBackfill",
    "PauseSource",
    "Release",
    "Renew",
    "Request",
    "ResumeBackfill",
    "ResumeSource",
    "Revoke",
    "SetLimits",
    "SetVersion",
    "Snooze",
    "Stamp",
    "Submit",
]

NO_CLIENT: Final = 0
"""A request without a session: applied without deduplication."""


class Op(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Base of all operations."""


class OpenSession(Op, frozen=True, tag=1):
    """A client id that was never used before."""


class Barrier(Op, frozen=True, tag=2):
    """Nothing but a point in the log: what was committed before it has been applied."""


class Submit(Op, frozen=True, tag=3):
    """Add a wanted set. ``closed_before_ms`` is the proposer's last closed bar's end: later bars
    are clipped; 0 means no clipping. ``backfill_id`` "" asks for ``bf-<rev>``."""

    backfill_id: str
    dataset: str
    spec: DatasetSpec
    wanted: tuple[Wanted, ...]
    closed_before_ms: int
    window_bars: int
    priority: int
    deadline_ms: int | None
    redo: Redo | None
    dry_run: bool


class CancelBackfill(Op, frozen=True, tag=4):
    backfill_id: str


class PauseBackfill(Op, frozen=True, tag=5):
    backfill_id: str


class ResumeBackfill(Op, frozen=True, tag=6):
    backfill_id: str


class PauseSource(Op, frozen=True, tag=7):
    source: str


class ResumeSource(Op, frozen=True, tag=8):
    source: str


class Acquire(Op, frozen=True, tag=9):
    """Grant up to ``max_windows`` of the best eligible windows, within the sources' budgets."""

    worker: WorkerIdentity
    offers: tuple[SourceOffer, ...]
    stores: tuple[str, ...]
    max_windows: int
    ttl_ms: int


class Renew(Op, frozen=True, tag=10):
    lease: LeaseRef
    ttl_ms: int
    cursor_ms: int | None = None
    usage: tuple[Usage, ...] = ()


class Complete(Op, frozen=True, tag=11):
    lease: LeaseRef
    covered: tuple[CoveredRange, ...]
    gaps: tuple[GapRange, ...] = ()
    final: bool = True
    listed_from: ListingDate | None = None
    delisted_at: ListingDate | None = None
    usage: tuple[Usage, ...] = ()


class Fail(Op, frozen=True, tag=12):
    lease: LeaseRef
    code: str
    retryable: bool
    delay_ms: int = 0
    detail: str = ""
    usage: tuple[Usage, ...] = ()


class Release(Op, frozen=True, tag=13):
    lease: LeaseRef
    no_write_in_flight: bool = False


class Snooze(Op, frozen=True, tag=14):
    lease: LeaseRef
    delay_ms: int
    why: str = "snoozed"
    usage: tuple[Usage, ...] = ()


class Revoke(Op, frozen=True, tag=15):
    lease: LeaseRef
    reason: str = ""


class DrainWorker(Op, frozen=True, tag=16):
    """The next renewals of this worker answer ``drain``, and it is granted nothing more."""

    worker_id: str


class Claim(Op, frozen=True, tag=17):
    """A compatibility claim: ``key`` as the client sent it. ``lease_ms`` is clamped here."""

    key: str
    lease_ms: int
    holder: str = ""


class CompleteClaim(Op, frozen=True, tag=18):
    key: str
    token: str


class FailClaim(Op, frozen=True, tag=19):
    """``abandoned`` is the proposing node's own: a grant whose client never heard of it."""

    key: str
    token: str
    reason: str = ""
    abandoned: bool = False


class Announce(Op, frozen=True, tag=20):
    """A leader's own address, committed before it is ready, and the versions it supports."""

    member: str
    url: str
    cluster_id: str
    version_min: int
    version_max: int


class Limits(Struct, frozen=True, kw_only=True, array_like=True):
    """Caps of every table, the same on all nodes because they are replicated state."""

    series: int = 100_000
    datasets: int = 1_000
    backfills: int = 10_000
    leases: int = 100_000
    waiting: int = 200_000
    fragments_per_series: int = 100_000
    gaps: int = 500_000
    restatements: int = 10_000
    workers: int = 10_000
    sessions: int = 10_000
    session_bytes: int = 64 << 20
    sources: int = 256
    claims: int = 100_000
    claims_done: int = 100_000
    completions: int = 65_536
    events: int = 4_096
    finished_backfills: int = 10_000


class SetLimits(Op, frozen=True, tag=21):
    limits: Limits


class SetVersion(Op, frozen=True, tag=22):
    version: int


Operation = (
    OpenSession
    | Barrier
    | Submit
    | CancelBackfill
    | PauseBackfill
    | ResumeBackfill
    | PauseSource
    | ResumeSource
    | Acquire
    | Renew
    | Complete
    | Fail
    | Release
    | Snooze
    | Revoke
    | DrainWorker
    | Claim
    | CompleteClaim
    | FailClaim
    | Announce
    | SetLimits
    | SetVersion
)


class Request(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Operations of one client call. ``low`` is the client's lowest unanswered sequence."""

    operations: tuple[Operation, ...]
    client: int = NO_CLIENT
    sequence: int = 0
    low: int = 0


class Stamp(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The leader's term, its monotonic ms since its reign began, and its wall clock (information).

    See lease-machine.md, Time: the lease clock advances by min(2 s, reign_ms − last of this term).
    """

    term: int
    reign_ms: int
    wall_ms: int


class Command(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One Raft entry. Without requests it is a tick."""

    version: int
    stamp: Stamp
    requests: tuple[Request, ...] = ()
