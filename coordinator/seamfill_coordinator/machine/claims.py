"""Compatibility claims: leases of an existing SDK, in a namespace of their own.

Owns live claims, the ring of what was done, and the completion ratio. No relation to native series:
a CompleteClaim carries no proof and never enters coverage. No lock-delay: that client's trust and
ours end together, as it always was for it.

Invariants: live claims of one namespace are disjoint; a claim past its deadline is absent
everywhere, whether its row has been removed yet or not.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from seamfill.lease_key import NATIVE_PREFIX, RangeKey, parse_lease_key, rejoin
from seamfill_coordinator.machine.commands import Claim, CompleteClaim, FailClaim
from seamfill_coordinator.machine.model import ClaimRow, Namespace, State
from seamfill_coordinator.machine.outcomes import (
    Claimed,
    ClaimFinished,
    Outcome,
    Rejected,
    RejectReason,
)
from seamfill_coordinator.machine.tables import clamp, emit, forget, invalid, shorten, touch

__all__ = [
    "Place",
    "claim",
    "complete_claim",
    "completion_ratio",
    "expire_claims",
    "fail_claim",
    "find_claim",
    "live_overlaps",
    "locate",
]

DEFAULT_LEASE_MS: Final = 120_000
MIN_LEASE_MS: Final = 1_000
MAX_LEASE_MS: Final = 600_000
DONE_REFUSAL_MS: Final = 10_000
"""Racers that lost would fetch what was just done again: they are refused this long."""
MAX_KEY: Final = 1_000
MAX_TOKEN: Final = 1_100
MAX_EXPIRED_PER_COMMAND: Final = 1_000

Name = tuple[str, int, str, str]
Place = tuple[Name, int, int]
"""Namespace, start, stop. An opaque key is a namespace of its own with one point in it."""


def locate(key: str) -> Place:
    """Return where a key lies; total."""
    parsed = parse_lease_key(key)
    if isinstance(parsed, RangeKey):
        return (parsed.namespace, parsed.start_s, parsed.stop_s)
    return ((parsed.text, 0, "", ""), 0, 1)


def claim(state: State, op: Claim) -> Outcome:
    """Grant a key, unless a live claim overlaps it or its range was done a moment ago."""
    if not 1 <= len(op.key) <= MAX_KEY or shorten(op.key, MAX_KEY) != op.key:
        return invalid("key", f"must be 1-{MAX_KEY} characters")
    if op.key.startswith(NATIVE_PREFIX):
        return invalid("key", "names a native lease; those are acquired, not claimed")
    if op.lease_ms < 0:
        return invalid("lease_ms", "must not be negative")
    name, start, stop = locate(op.key)
    ratio = completion_ratio(state, (name, start, stop))
    held = _refusal(state, (name, start, stop), ratio)
    if held is not None:
        return held
    if len(state.claims) >= state.limits.claims:
        return Rejected(
            reason=RejectReason.LIMIT_EXCEEDED, detail="too many claims", completion_ratio=ratio
        )
    return _grant(state, op, (name, start, stop), ratio)


def complete_claim(state: State, op: CompleteClaim) -> Outcome:
    """End a claim as done; its range counts in ratios from now on."""
    row = find_claim(state, op.key, op.token)
    if type(row) is Rejected:
        return row
    assert type(row) is ClaimRow
    namespace = row.namespace
    _remove(state, row)
    namespace.done.put(row.start_s, row.stop_s, state.clock_ms)
    touch(state, namespace)
    state.claims_done.append((namespace, row.start_s, row.stop_s, state.clock_ms))
    while len(state.claims_done) > state.limits.claims_done:
        _forget_done(state)
    emit(state, "claim.completed", ("key", row.key, "fence", row.fence))
    place = (namespace.name, row.start_s, row.stop_s)
    return ClaimFinished(completion_ratio=completion_ratio(state, place))


def fail_claim(state: State, op: FailClaim) -> Outcome:
    """End a claim as not done; anybody may claim its range at once."""
    row = find_claim(state, op.key, op.token)
    if type(row) is Rejected:
        return row
    assert type(row) is ClaimRow
    name = "claim.abandoned" if op.abandoned else "claim.failed"
    emit(
        state,
        name,
        ("key", row.key, "fence", row.fence, "reason", shorten(op.reason, 200)),
    )
    place = (row.namespace.name, row.start_s, row.stop_s)
    ratio = completion_ratio(state, place)
    _remove(state, row)
    _drop_empty(state, row.namespace)
    return ClaimFinished(completion_ratio=ratio)


def find_claim(state: State, key: str, token: str) -> ClaimRow | Rejected:
    """Return the live claim of this key and token, or why there is none.

    A script in the field splits ``KEY:TOKEN`` at the first colon, so an unknown key is put together
    again and split at the last one.
    """
    if not 1 <= len(key) <= MAX_KEY:
        return invalid("key", f"must be 1-{MAX_KEY} characters")
    if not 1 <= len(token) <= MAX_TOKEN:
        return invalid("token", f"must be 1-{MAX_TOKEN} characters")
    row = _live_at(state, key)
    if row is None:
        joined = rejoin(key, token)
        if joined is not None:
            key, token = joined
            row = _live_at(state, key)
    ratio = completion_ratio(state, locate(key))
    if row is None:
        return Rejected(
            reason=RejectReason.NOT_FOUND, detail="nobody holds this key", completion_ratio=ratio
        )
    if token != str(row.fence):
        return Rejected(
            reason=RejectReason.STALE_FENCE,
            detail="another claim holds this key",
            holder=row.holder or None,
            completion_ratio=ratio,
        )
    return row


def completion_ratio(state: State, place: Place) -> float | None:
    """Return the share of a key's range that is done; 0.0 where nothing is known."""
    name, start, stop = place
    namespace = state.namespaces.get(name)
    if namespace is None:
        return 0.0
    return namespace.done.length_within(start, stop) / (stop - start)


def live_overlaps(state: State, place: Place) -> list[ClaimRow]:
    """Return the live claims that overlap a place, in order."""
    name, start, stop = place
    namespace = state.namespaces.get(name)
    if namespace is None:
        return []
    return [
        row
        for _, _, row in namespace.live.overlapping(start, stop)
        if row.deadline_ms > state.clock_ms
    ]


def expire_claims(state: State) -> None:
    """Remove up to 1,000 claims past their deadline."""
    heap = state.claim_deadlines
    removed = 0
    while heap and heap[0][0] <= state.clock_ms and removed < MAX_EXPIRED_PER_COMMAND:
        _, fence = heappop(heap)
        row = state.claims.get(fence)
        if row is not None:
            emit(state, "claim.expired", ("key", row.key, "fence", fence))
            _remove(state, row)
            _drop_empty(state, row.namespace)
            removed += 1


def _live_at(state: State, key: str) -> ClaimRow | None:
    """Return the live claim with exactly this key's range."""
    place = locate(key)
    for row in live_overlaps(state, place):
        if (row.start_s, row.stop_s) == place[1:]:
            return row
    return None


def _refusal(state: State, place: Place, ratio: float | None) -> Rejected | None:
    overlaps = live_overlaps(state, place)
    if overlaps:
        last = max(overlaps, key=_deadline)
        return Rejected(
            reason=RejectReason.HELD,
            detail="an overlapping claim is live",
            retry_after_ms=last.deadline_ms - state.clock_ms,
            holder=last.holder or last.key,
            completion_ratio=ratio,
        )
    namespace = state.namespaces.get(place[0])
    if namespace is None:
        return None
    pieces = namespace.done.overlapping(place[1], place[2])
    free_ms = max((at + DONE_REFUSAL_MS for _, _, at in pieces), default=0)
    if free_ms > state.clock_ms:
        return Rejected(
            reason=RejectReason.HELD,
            detail="an overlapping claim was completed a moment ago",
            retry_after_ms=free_ms - state.clock_ms,
            completion_ratio=ratio,
        )
    return None


def _deadline(row: ClaimRow) -> int:
    return row.deadline_ms


def _grant(state: State, op: Claim, place: Place, ratio: float | None) -> Claimed:
    name, start, stop = place
    namespace = state.namespaces.get(name)
    if namespace is None:
        namespace = Namespace(name=name)
        state.namespaces[name] = namespace
        touch(state, namespace)
    for _, _, expired in namespace.live.overlapping(start, stop):
        _remove(state, expired)
    ttl_ms = clamp(op.lease_ms or DEFAULT_LEASE_MS, MIN_LEASE_MS, MAX_LEASE_MS)
    state.fence += 1
    row = ClaimRow(
        fence=state.fence,
        key=op.key,
        holder=shorten(op.holder, 200),
        deadline_ms=state.clock_ms + ttl_ms,
        namespace=namespace,
        start_s=start,
        stop_s=stop,
    )
    state.claims[row.fence] = row
    namespace.live.put(start, stop, row)
    heappush(state.claim_deadlines, (row.deadline_ms, row.fence))
    touch(state, row)
    emit(state, "claim.granted", ("key", row.key, "fence", row.fence, "ttl_ms", ttl_ms))
    return Claimed(token=str(row.fence), ttl_ms=ttl_ms, completion_ratio=ratio)


def _remove(state: State, row: ClaimRow) -> None:
    del state.claims[row.fence]
    row.namespace.live.clear(row.start_s, row.stop_s)
    forget(state, row)


def _drop_empty(state: State, namespace: Namespace) -> None:
    if not namespace.live and not namespace.done and not namespace.is_gone:
        del state.namespaces[namespace.name]
        forget(state, namespace)


def _forget_done(state: State) -> None:
    """Drop the oldest completion; parts of it that were done again later stay."""
    namespace, start, stop, at = state.claims_done.popleft()
    for s, e, done_at in namespace.done.within(start, stop):
        if done_at == at:
            namespace.done.clear(s, e)
    touch(state, namespace)
    _drop_empty(state, namespace)
