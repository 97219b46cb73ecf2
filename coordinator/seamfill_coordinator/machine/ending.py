"""Every way a lease ends but by its own success: fail, release, snooze, revoke, expiry, redo, boot.

Owns what each end leaves behind: attempts, expiries, how long to wait, and whether a late Complete
may still count (only after mere expiry). Must not know facts beyond ``violate``.

Lock-delay: a store can not fence, so an old holder's last write may land up to 3 s after its lease
ended. Nobody else gets the range for 5 s, unless the holder vouches that no write is in flight.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from seamfill.protocol.values import LeaseRef
from seamfill_coordinator.machine.budgets import note_usage
from seamfill_coordinator.machine.commands import Fail, Release, Revoke, Snooze
from seamfill_coordinator.machine.facts import violate
from seamfill_coordinator.machine.model import Covered, Lease, Series, State, Violation, Waiting
from seamfill_coordinator.machine.outcomes import (
    Outcome,
    Rejected,
    RejectReason,
    Released,
    Requeued,
    Violated,
)
from seamfill_coordinator.machine.tables import clamp, emit, shorten, touch
from seamfill_coordinator.machine.tasks import (
    clear_tasks,
    drop_lease,
    held,
    keep_quiet,
    put_waiting,
    requeue,
)

__all__ = [
    "LOCK_DELAY_MS",
    "MAX_ATTEMPTS",
    "MAX_EXPIRIES",
    "backoff_ms",
    "end_fence",
    "end_for_redo",
    "end_worker_leases",
    "expire",
    "fail",
    "find",
    "give_back",
    "give_up_rest",
    "release",
    "revoke",
    "snooze",
    "stale",
]

LOCK_DELAY_MS: Final = 5_000
MAX_ATTEMPTS: Final = 5
MAX_EXPIRIES: Final = 20
MAX_EXPIRED_PER_COMMAND: Final = 1_000
MAX_DELAY_MS: Final = 86_400_000


def find(state: State, ref: LeaseRef) -> Lease | None:
    """Return the lease that ``ref`` names in full, or None."""
    lease = state.leases.get(ref.fence)
    if (
        lease is None
        or lease.start_ms != ref.start_ms
        or lease.end_ms != ref.end_ms
        or lease.series.symbol != ref.series.symbol
        or lease.series.dataset.name != ref.series.dataset
    ):
        return None
    return lease


def stale(state: State, ref: LeaseRef) -> Rejected:
    """Refuse a lease that ended, saying whether its bars are covered all the same."""
    state.counters.stale += 1
    emit(
        state,
        "lease.stale",
        (
            "dataset", ref.series.dataset,
            "symbol", ref.series.symbol,
            "start_ms", ref.start_ms,
            "end_ms", ref.end_ms,
            "fence", ref.fence,
        ),
    )  # fmt: skip
    return Rejected(
        reason=RejectReason.STALE_FENCE,
        detail="this lease has ended",
        covered=_is_covered(state, ref),
    )


def fail(state: State, op: Fail) -> Outcome:
    """Count an attempt: wait with backoff, or give up when it can not be retried again."""
    note_usage(state, op.usage)
    lease = find(state, op.lease)
    if lease is None:
        return stale(state, op.lease)
    lease.worker.failed_total += 1
    _seen(state, lease)
    code = shorten(op.code, 64) or "failed"
    attempts = lease.attempts + 1
    if not op.retryable or attempts >= MAX_ATTEMPTS:
        spans = held(lease)
        _end(state, lease, "lease.failed", code)
        keep_quiet(state, lease.series, spans, LOCK_DELAY_MS)
        _give_up(state, lease, spans, code, shorten(op.detail, 500))
        return Violated(reason=code)
    delay_ms = max(backoff_ms(attempts), clamp(op.delay_ms, 0, MAX_DELAY_MS))
    give_back(state, lease, name="lease.failed", note=code, delay_ms=delay_ms, attempts=attempts)
    return Requeued(delay_ms=delay_ms, attempts=attempts)


def release(state: State, op: Release) -> Outcome:
    """Give the rest back without counting an attempt; at once if no write can still land."""
    lease = find(state, op.lease)
    if lease is None:
        return stale(state, op.lease)
    _seen(state, lease)
    delay_ms = 0 if op.no_write_in_flight else LOCK_DELAY_MS
    give_back(state, lease, name="lease.released", note="released", delay_ms=delay_ms)
    return Released(delay_ms=delay_ms)


def snooze(state: State, op: Snooze) -> Outcome:
    """Give the rest back until later."""
    note_usage(state, op.usage)
    lease = find(state, op.lease)
    if lease is None:
        return stale(state, op.lease)
    _seen(state, lease)
    delay_ms = clamp(op.delay_ms, LOCK_DELAY_MS, MAX_DELAY_MS)
    note = shorten(op.why, 64) or "snoozed"
    give_back(state, lease, name="lease.snoozed", note=note, delay_ms=delay_ms)
    return Released(delay_ms=delay_ms)


def revoke(state: State, op: Revoke) -> Outcome:
    """End a lease on an operator's word; a later Complete under it is refused."""
    lease = find(state, op.lease)
    if lease is None:
        return stale(state, op.lease)
    note = shorten(op.reason, 200) or "revoked"
    give_back(state, lease, name="lease.revoked", note=note, delay_ms=LOCK_DELAY_MS)
    return Released(delay_ms=LOCK_DELAY_MS)


def expire(state: State) -> None:
    """Turn up to 1,000 leases past deadline + lock-delay into waiting parts, due at once."""
    heap = state.deadlines
    limit_ms = state.clock_ms - LOCK_DELAY_MS
    expired = 0
    while heap and heap[0][0] <= limit_ms and expired < MAX_EXPIRED_PER_COMMAND:
        _, fence = heappop(heap)
        lease = state.leases.get(fence)
        if lease is None:
            continue
        if lease.deadline_ms > limit_ms:  # renewed since the entry was pushed
            heappush(heap, (lease.deadline_ms, fence))
            continue
        _expire_one(state, lease)
        expired += 1


def end_worker_leases(state: State, leases: list[Lease]) -> None:
    """End the leases of a process that another one replaced; no attempt is counted."""
    for lease in leases:
        give_back(
            state, lease, name="lease.replaced", note="worker_restarted", delay_ms=LOCK_DELAY_MS
        )


def end_for_redo(state: State, series: Series, start: int, end: int) -> None:
    """End every lease that overlaps a restatement, whole; a late Complete of one is refused."""
    for _, _, task in series.tasks.overlapping(start, end):
        if type(task) is Lease and not task.is_gone:
            give_back(state, task, name="lease.restated", note="restated", delay_ms=LOCK_DELAY_MS)
        elif type(task) is Waiting and task.expired:
            end_fence(state, series, task)


def give_back(
    state: State,
    lease: Lease,
    *,
    name: str,
    note: str,
    delay_ms: int,
    attempts: int | None = None,
) -> None:
    """End a lease and let what it still holds wait ``delay_ms``; 0 vouches for no late write."""
    spans = held(lease)
    _end(state, lease, name, note)
    if delay_ms:
        keep_quiet(state, lease.series, spans, LOCK_DELAY_MS)
    waiting = Waiting(
        lease.attempts if attempts is None else attempts,
        lease.expiries,
        state.clock_ms + delay_ms,
        lease.cursor_ms,
        lease.fence,
        lease.start_ms,
        lease.end_ms,
        lease.gen,
        lease.worker.id,
        False,
        note,
    )
    requeue(state, lease.series, spans, waiting)


def backoff_ms(attempts: int) -> int:
    """Return 1, 2, 4, 8 s by attempt, never less than the lock-delay."""
    return max(LOCK_DELAY_MS, 1_000 << (attempts - 1))


def _expire_one(state: State, lease: Lease) -> None:
    state.counters.expired += 1
    spans = held(lease)
    expiries = lease.expiries + 1
    _end(state, lease, "lease.expired", "expired")
    if expiries >= MAX_EXPIRIES:
        _give_up(state, lease, spans, "lease_expired", f"{expiries} expiries without progress")
        return
    waiting = Waiting(
        lease.attempts,
        expiries,
        state.clock_ms,
        lease.cursor_ms,
        lease.fence,
        lease.start_ms,
        lease.end_ms,
        lease.gen,
        lease.worker.id,
        True,
        "expired",
    )
    requeue(state, lease.series, spans, waiting)


def _end(state: State, lease: Lease, name: str, note: str) -> None:
    drop_lease(state, lease)
    emit(
        state,
        name,
        (
            "dataset", lease.series.dataset.name,
            "symbol", lease.series.symbol,
            "start_ms", lease.start_ms,
            "end_ms", lease.end_ms,
            "fence", lease.fence,
            "worker", lease.worker.id,
            "note", note,
        ),
    )  # fmt: skip


def give_up_rest(state: State, lease: Lease, code: str) -> None:
    """End a lease and make what it still holds violated."""
    spans = held(lease)
    _end(state, lease, "lease.failed", code)
    keep_quiet(state, lease.series, spans, LOCK_DELAY_MS)
    _give_up(state, lease, spans, code, "")


def _give_up(
    state: State, lease: Lease, spans: list[tuple[int, int]], code: str, detail: str
) -> None:
    """Let what a lease held go through ``requeue`` first: bars that turned out to be outside the
    listing, or unwanted, are not violated."""
    series = lease.series
    marker = Waiting(
        0, 0, state.clock_ms, None, lease.fence, lease.start_ms, lease.end_ms, lease.gen,
        lease.worker.id, False, code,
    )  # fmt: skip
    requeue(state, series, spans, marker)
    for start, end in spans:
        for s, e, task in series.tasks.within(start, end):
            if task == marker:
                clear_tasks(state, series, s, e)
                violate(state, series, s, e, Violation(lease.gen, code, detail))


def end_fence(state: State, series: Series, ended: Waiting) -> None:
    """Refuse late Completes of an expired lease from now on, for all that is left of it."""
    replacement = Waiting(
        ended.attempts, ended.expiries, ended.not_before_ms, ended.cursor_ms, ended.fence,
        ended.lease_start_ms, ended.lease_end_ms, ended.lease_gen, ended.worker, False, ended.note,
    )  # fmt: skip
    for s, e, task in series.tasks.within(ended.lease_start_ms, ended.lease_end_ms):
        if type(task) is Waiting and task.fence == ended.fence:
            put_waiting(state, series, s, e, replacement)


def _seen(state: State, lease: Lease) -> None:
    lease.worker.seen_ms = state.clock_ms
    touch(state, lease.worker)


def _is_covered(state: State, ref: LeaseRef) -> bool:
    series = state.series.get((ref.series.dataset, ref.series.symbol))
    if series is None or ref.start_ms >= ref.end_ms:
        return False
    pieces = series.facts.overlapping(ref.start_ms, ref.end_ms)
    return not series.facts.holes(ref.start_ms, ref.end_ms) and all(
        type(fact) is Covered for _, _, fact in pieces
    )
