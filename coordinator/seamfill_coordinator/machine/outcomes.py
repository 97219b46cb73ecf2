"""What the lease machine answers. An expected refusal is a value, never an exception.

Owns the outcome of each operation and the reasons for "no". Must not know HTTP statuses. Outcomes
are kept in sessions, hence part of the snapshot format: same rules as ``commands``. Frozen values
can not form cycles, so the garbage collector is told to leave them alone (``gc=False``).
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from seamfill.protocol.values import DatasetSpec, Directive

__all__ = [
    "Accepted",
    "Already",
    "Applied",
    "ClaimFinished",
    "Claimed",
    "Completed",
    "Done",
    "Event",
    "Grant",
    "Granted",
    "Nothing",
    "Opened",
    "Outcome",
    "RejectReason",
    "Rejected",
    "Released",
    "Renewed",
    "Reply",
    "Requeued",
    "Violated",
]


class RejectReason(StrEnum):
    """Why an operation was refused; stable names, used as ``code`` at the edge."""

    UNKNOWN_COMMAND = "unknown_command"
    INVALID = "invalid"
    SPEC_CONFLICT = "spec_conflict"
    BACKFILL_CONFLICT = "backfill_conflict"
    LIMIT_EXCEEDED = "limit_exceeded"
    NOT_FOUND = "not_found"
    WORKER_REPLACED = "worker_replaced"
    STALE_FENCE = "stale_fence"
    EXPIRED = "expired"
    RESULT_CONFLICT = "result_conflict"
    HELD = "held"
    SESSION_UNKNOWN = "session_unknown"
    WRONG_STATE = "wrong_state"


class Result(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Base of all outcomes."""


class Rejected(Result, frozen=True, tag=1):
    """No, and why. ``field`` names the wrong member of the request, if one is wrong."""

    reason: RejectReason
    detail: str = ""
    field: str | None = None
    retry_after_ms: int | None = None
    covered: bool | None = None
    holder: str | None = None
    completion_ratio: float | None = None


class Done(Result, frozen=True, tag=2):
    """Yes, and nothing more to say (barrier, pause, announce, …)."""


class Opened(Result, frozen=True, tag=3):
    client: int
    expires_after_ms: int


class Accepted(Result, frozen=True, tag=4):
    """A backfill's plan; see ``protocol.backfills.BackfillPlan``."""

    backfill_id: str
    start_ms: int
    end_ms: int
    requested_start_ms: int
    requested_end_ms: int
    windows: int
    bars: int
    already_covered: int
    already_gap: int
    already_violated: int
    repeated: bool
    dry_run: bool


class Grant(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    dataset: str
    symbol: str
    start_ms: int
    end_ms: int
    gen: int
    fence: int
    ttl_ms: int
    spec: DatasetSpec
    cursor_ms: int | None = None
    attempts: int = 0
    budget_weight: int = 0
    listed_from_ms: int | None = None
    delisted_at_ms: int | None = None


class Granted(Result, frozen=True, tag=5):
    grants: tuple[Grant, ...]


class Nothing(Result, frozen=True, tag=6):
    """Nothing to grant: ``why`` is one of no_work, none_due, source_paused, source_budget,
    draining, no_matching_source_or_store, lease_limit."""

    retry_after_ms: int
    why: str


class Renewed(Result, frozen=True, tag=7):
    ttl_ms: int
    directive: Directive


class Completed(Result, frozen=True, tag=8):
    """``remaining``: the lease keeps a rest (not final). ``coverage_rev``: this operation's rev."""

    coverage_rev: int
    remaining: bool


class Already(Result, frozen=True, tag=9):
    """The same completion (same digests) was accepted before."""

    coverage_rev: int


class Requeued(Result, frozen=True, tag=10):
    delay_ms: int
    attempts: int


class Violated(Result, frozen=True, tag=11):
    reason: str


class Released(Result, frozen=True, tag=12):
    """Released, snoozed or revoked."""

    delay_ms: int


class Claimed(Result, frozen=True, tag=13):
    token: str
    ttl_ms: int
    completion_ratio: float | None


class ClaimFinished(Result, frozen=True, tag=14):
    completion_ratio: float | None


Outcome = (
    Rejected
    | Done
    | Opened
    | Accepted
    | Granted
    | Nothing
    | Renewed
    | Completed
    | Already
    | Requeued
    | Violated
    | Released
    | Claimed
    | ClaimFinished
)


class Event(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Something worth telling, for logs, metrics and the event ring: name first, facts as fields.

    Names: lease.granted lease.expired lease.completed lease.stale lease.failed lease.released
    lease.revoked backfill.submitted backfill.finished source.breaker claim.granted claim.expired …
    """

    rev: int
    clock_ms: int
    name: str
    facts: tuple[tuple[str, str | int | float | None], ...] = ()


class Reply(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Outcomes of one request, one per operation; ``rev`` after the last of them."""

    outcomes: tuple[Outcome, ...]
    rev: int
    repeated: bool = False


class Applied(Struct, frozen=True, kw_only=True):
    """What one command did: a reply per request, in order, and the events of all."""

    replies: tuple[Reply, ...]
    events: tuple[Event, ...] = ()
