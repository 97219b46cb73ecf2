"""Acquire and Renew: windows into hands, and how long they stay there.

Owns the worker's registration (boot nonces), the match of offers with datasets, the grant itself,
and the reason when there is none. Must not know in which order windows come (``schedule``).
"""

from __future__ import annotations

from bisect import bisect_left
from heapq import heappush
from typing import Final

from seamfill.protocol.values import Directive
from seamfill_coordinator.machine.budgets import budget_wait_ms, note_usage, offered, spend
from seamfill_coordinator.machine.commands import Acquire, DrainWorker, Renew
from seamfill_coordinator.machine.completing import former_gen
from seamfill_coordinator.machine.ending import end_worker_leases, find, stale
from seamfill_coordinator.machine.model import (
    FOREVER_MS,
    BackfillState,
    Lease,
    Match,
    OfferGroup,
    Series,
    SourceRow,
    State,
    Waiting,
    Worker,
)
from seamfill_coordinator.machine.outcomes import (
    Done,
    Grant,
    Granted,
    Nothing,
    Outcome,
    Rejected,
    RejectReason,
    Renewed,
)
from seamfill_coordinator.machine.schedule import (
    Candidate,
    advance,
    drop_ready,
    next_candidate,
    next_due,
)
from seamfill_coordinator.machine.tables import (
    clamp,
    emit,
    forget,
    invalid,
    is_name,
    refused,
    touch,
)
from seamfill_coordinator.machine.tasks import clear_tasks

__all__ = ["acquire", "drain", "renew"]

MIN_TTL_MS: Final = 10_000
MAX_TTL_MS: Final = 600_000
MAX_WINDOWS: Final = 256
MAX_OFFERS: Final = 64
MAX_WEIGHT: Final = 1_000_000
DEAD_BOOTS: Final = 16
"""How many replaced nonces of a worker id stay refused. A process that was replaced sixteen times
over and still runs would be taken for a new one; its leases are fenced all the same."""
IDLE_RETRY_MS: Final = 1_000
SHORTEST_RETRY_MS: Final = 50
LONGEST_RETRY_MS: Final = 5_000


def acquire(state: State, op: Acquire) -> Outcome:
    """Grant up to ``max_windows`` of the best eligible windows that this worker can do."""
    if not 1 <= op.max_windows <= MAX_WINDOWS:
        return invalid("max_windows", f"must be 1 to {MAX_WINDOWS}")
    match = state.matches.get(op.worker.id)
    if (
        match is None
        or match.epoch != state.match_epoch
        or match.worker.boot != op.worker.boot
        or match.offers != op.offers
        or match.stores != op.stores
    ):
        found = _check(state, op) or _match(state, op)
        if type(found) is Rejected:
            return found
        assert type(found) is Match
        match = found
    worker = match.worker
    if worker.seen_ms != state.clock_ms:
        worker.seen_ms = state.clock_ms
        state.workers.move_to_end(worker.id)
    if not worker.is_dirty:
        touch(state, worker)
    if worker.is_draining:
        return Nothing(retry_after_ms=LONGEST_RETRY_MS, why="draining")
    return _grant_best(state, op, match)


def renew(state: State, op: Renew) -> Outcome:
    """Extend a live lease, keep its cursor, and say what its holder should do."""
    note_usage(state, op.usage)
    lease = find(state, op.lease)
    if lease is None:
        return _expired_or_stale(state, op)
    if lease.deadline_ms <= state.clock_ms:
        return Rejected(reason=RejectReason.EXPIRED, detail="the lease has expired")
    ttl_ms = clamp(op.ttl_ms, MIN_TTL_MS, MAX_TTL_MS)
    # A renewal with a shorter ttl never takes away what was promised before.
    lease.deadline_ms = max(lease.deadline_ms, state.clock_ms + ttl_ms)
    cursor_ms = op.cursor_ms
    if cursor_ms is not None:
        lease.cursor_ms = clamp(cursor_ms, lease.start_ms, lease.end_ms)
    lease.worker.seen_ms = state.clock_ms
    touch(state, lease)
    touch(state, lease.worker)
    return Renewed(ttl_ms=lease.deadline_ms - state.clock_ms, directive=_directive(state, lease))


def drain(state: State, op: DrainWorker) -> Outcome:
    """Grant this worker nothing more, and tell it so with its next renewal."""
    worker = state.workers.get(op.worker_id)
    if worker is None:
        return refused(RejectReason.NOT_FOUND, f"no worker {op.worker_id!r}")
    worker.is_draining = True
    touch(state, worker)
    emit(state, "worker.draining", (("worker", worker.id),))
    return Done()


def _check(state: State, op: Acquire) -> Rejected | None:
    known = state.workers.get(op.worker.id)
    if known is None or known.boot != op.worker.boot:
        if not is_name(op.worker.id):
            return invalid("worker.id", "must be 1-200 characters, no control characters or '|'")
        if not is_name(op.worker.boot):
            return invalid("worker.boot", "must be 1-200 characters, no control characters or '|'")
    if not 1 <= len(op.offers) <= MAX_OFFERS:
        return invalid("offers", f"must hold 1 to {MAX_OFFERS}")
    if not 1 <= len(op.stores) <= MAX_OFFERS:
        return invalid("stores", f"must hold 1 to {MAX_OFFERS}")
    for i, offer in enumerate(op.offers):
        if offer.source not in state.sources and not is_name(offer.source):
            return invalid(
                f"offers[{i}].source", "must be 1-200 characters, no control characters or '|'"
            )
    for i, store in enumerate(op.stores):
        if not is_name(store):
            return invalid(f"stores[{i}]", "must be 1-200 characters, no control characters or '|'")
    return None


def _match(state: State, op: Acquire) -> Match | Rejected:
    """Register the worker and what it offers; remember what that comes to."""
    sources = {offer.source for offer in op.offers}
    if len(state.sources) + len(sources - state.sources.keys()) > state.limits.sources:
        return refused(RejectReason.LIMIT_EXCEEDED, "too many sources are known")
    worker = _register(state, op)
    if type(worker) is Rejected:
        return worker
    assert type(worker) is Worker
    offers = {offer.source: offer for offer in op.offers}
    rows = {name: offered(state, offer) for name, offer in offers.items()}
    groups = tuple(
        OfferGroup(
            group,
            rows[group[0]],
            max(1, offers[group[0]].page_bars),
            clamp(offers[group[0]].page_weight, 0, MAX_WEIGHT),
        )
        for group in state.active_groups
        if group[0] in rows and _writes(op.stores, group[1])
    )
    match = Match(state.match_epoch, worker, op.offers, op.stores, groups)
    if len(state.matches) > 2 * len(state.workers):
        state.matches.clear()
    state.matches[worker.id] = match
    return match


def _register(state: State, op: Acquire) -> Worker | Rejected:
    """Return the worker's row; a new boot nonce takes the id over, an old one is told to go."""
    worker = state.workers.get(op.worker.id)
    if worker is None:
        if len(state.workers) >= state.limits.workers and not _drop_idle(state):
            return refused(RejectReason.LIMIT_EXCEEDED, "too many workers hold leases")
        worker = Worker(id=op.worker.id, boot=op.worker.boot, seen_ms=state.clock_ms)
        state.workers[worker.id] = worker
        state.match_epoch += 1
    elif worker.boot != op.worker.boot:
        if op.worker.boot in worker.dead_boots:
            return refused(RejectReason.WORKER_REPLACED, "a newer process has this worker's id")
        end_worker_leases(state, list(worker.leases.values()))
        worker.dead_boots = [*worker.dead_boots, worker.boot][-DEAD_BOOTS:]
        worker.boot = op.worker.boot
        worker.is_draining = False
        touch(state, worker)
        emit(state, "worker.replaced", (("worker", worker.id), ("boot", worker.boot)))
    return worker


def _drop_idle(state: State) -> bool:
    """Make room by forgetting the worker without leases that was silent for longest."""
    for worker in state.workers.values():
        if not worker.leases:
            del state.workers[worker.id]
            state.match_epoch += 1
            forget(state, worker)
            return True
    return False


def _grant_best(state: State, op: Acquire, match: Match) -> Outcome:
    clock_ms = state.clock_ms
    ready = state.ready
    why, wait_ms = "", LONGEST_RETRY_MS
    usable = [
        group
        for group in match.groups
        if ready.get(group.key)
        and not group.source.is_paused
        and group.source.breaker_until_ms <= clock_ms
    ]
    ttl_ms = clamp(op.ttl_ms, MIN_TTL_MS, MAX_TTL_MS)
    grants: list[Grant] = []
    while usable and len(grants) < op.max_windows:
        best = usable[0]
        if len(usable) > 1:
            best = min(usable, key=lambda group: ready[group.key][0][0])
        backfill = ready[best.key][0][1]
        candidate = next_candidate(backfill, clock_ms)
        if candidate is None:
            drop_ready(state, backfill)
            if not ready[best.key]:
                usable.remove(best)
            continue
        if len(state.leases) >= state.limits.leases or state.waiting_count >= state.limits.waiting:
            why = "lease_limit"
            break
        weight = 0
        if best.source.weight_per_minute:
            bars = (candidate.end_ms - candidate.start_ms) // candidate.want.series.interval_ms
            weight = -(-bars // best.page_bars) * best.page_weight
            budget_ms = budget_wait_ms(state, best.source, weight)
            if budget_ms:
                why, wait_ms = "source_budget", min(wait_ms, budget_ms)
                usable = [group for group in usable if group.source is not best.source]
                continue
            spend(state, best.source, weight)
        grants.append(_grant(state, match.worker, candidate, ttl_ms, weight))
    if grants:
        return Granted(grants=tuple(grants))
    return _nothing(state, op, why, wait_ms)


def _wait_for_source_ms(state: State, row: SourceRow) -> int:
    """Return how long a source is paused (an operator: for ever) or its breaker open."""
    return FOREVER_MS if row.is_paused else max(0, row.breaker_until_ms - state.clock_ms)


def _writes(stores: tuple[str, ...], store: str) -> bool:
    return any(own == store or (own.endswith("*") and store.startswith(own[:-1])) for own in stores)


def _grant(state: State, worker: Worker, candidate: Candidate, ttl_ms: int, weight: int) -> Grant:
    want, start, end, gen, waiting, is_plain = candidate
    series = want.series
    expiries = 0 if is_plain else _take_waiting(state, series, start, end)
    state.fence += 1
    fence = state.fence
    deadline_ms = state.clock_ms + ttl_ms
    lease = Lease(
        fence=fence,
        series=series,
        start_ms=start,
        end_ms=end,
        gen=gen,
        worker=worker,
        deadline_ms=deadline_ms,
        cursor_ms=None if waiting is None else waiting.cursor_ms,
        attempts=0 if waiting is None else waiting.attempts,
        expiries=expiries,
        left_ms=end - start,
    )
    tasks = series.tasks
    tasks.place(bisect_left(tasks.starts, start), start, end, lease)
    advance(candidate)
    state.leases[fence] = lease
    worker.leases[fence] = lease
    heappush(state.deadlines, (deadline_ms, fence))
    state.counters.granted += 1
    lease.is_dirty = True
    state.dirty.append(lease)
    if not series.is_dirty:
        touch(state, series)
    spec = series.dataset.spec
    emit(
        state,
        "lease.granted",
        (
            ("dataset", series.dataset.name),
            ("symbol", series.symbol),
            ("start_ms", start),
            ("end_ms", end),
            ("gen", gen),
            ("fence", fence),
            ("worker", worker.id),
        ),
    )
    return Grant(
        dataset=series.dataset.name,
        symbol=series.symbol,
        start_ms=start,
        end_ms=end,
        gen=gen,
        fence=fence,
        ttl_ms=ttl_ms,
        spec=spec,
        cursor_ms=lease.cursor_ms,
        attempts=lease.attempts,
        budget_weight=weight,
        listed_from_ms=None if series.listed_from is None else series.listed_from.at_ms,
        delisted_at_ms=None if series.delisted_at is None else series.delisted_at.at_ms,
    )


def _take_waiting(state: State, series: Series, start: int, end: int) -> int:
    """Remove the due waiting parts under a new lease; return the most expiries among them."""
    pieces = [task for _, _, task in series.tasks.overlapping(start, end) if type(task) is Waiting]
    if not pieces:
        return 0
    if any(task.expired for task in pieces):
        state.counters.regranted += 1
    clear_tasks(state, series, start, end)
    return max(task.expiries for task in pieces)


def _nothing(state: State, op: Acquire, why: str, wait_ms: int) -> Nothing:
    """Say why there is nothing. Only state is asked, never a cache that may be behind."""
    if not why:
        why, wait_ms = _why_nothing(state, op)
    retry_after_ms = clamp(wait_ms, SHORTEST_RETRY_MS, LONGEST_RETRY_MS)
    return Nothing(retry_after_ms=retry_after_ms, why=why)


def _why_nothing(state: State, op: Acquire) -> tuple[str, int]:
    if not state.active_groups:
        return "no_work", IDLE_RETRY_MS
    sources = {offer.source for offer in op.offers}
    matching = [
        source
        for source, store in state.active_groups
        if source in sources and _writes(op.stores, store)
    ]
    if not matching:
        return "no_matching_source_or_store", IDLE_RETRY_MS
    waits = [_wait_for_source_ms(state, state.sources[source]) for source in matching]
    if max(waits):
        return "source_paused", min(wait for wait in waits if wait)
    due_ms = next_due(state)
    if due_ms is None:
        return "no_work", IDLE_RETRY_MS
    return "none_due", due_ms - state.clock_ms


def _directive(state: State, lease: Lease) -> Directive:
    """Cancel what no unfinished backfill wants; pause what only paused ones, or a paused source,
    hold back; drain a worker that is to go."""
    series = lease.series
    is_wanted = is_active = False
    for want in series.wants.values():
        for start, end in want.ranges:
            if start < lease.end_ms and end > lease.start_ms:
                is_wanted = True
                is_active = is_active or want.backfill.state is BackfillState.ACTIVE
    if not is_wanted:
        return Directive.CANCEL
    if lease.worker.is_draining:
        return Directive.DRAIN
    source = state.sources.get(series.dataset.spec.source)
    if not is_active or (source is not None and source.is_paused):
        return Directive.PAUSE
    return Directive.CONTINUE


def _expired_or_stale(state: State, op: Renew) -> Rejected:
    """Tell a holder whose lease only expired from one whose fence is dead."""
    series = state.series.get((op.lease.series.dataset, op.lease.series.symbol))
    if series is not None and former_gen(series, op.lease) is not None:
        return Rejected(reason=RejectReason.EXPIRED, detail="the lease has expired")
    return stale(state, op.lease)
