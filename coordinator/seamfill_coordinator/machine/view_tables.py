"""Lists and counts for operators: backfills, leases, workers, sources, members, claims.

Pure reads; see ``views``. Counts are maintained by the machine or cheap to take, since metrics ask
for them all the time.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from seamfill.lease_key import native_key, parse_native
from seamfill.protocol.backfills import BackfillsAnswer, BackfillView, Wanted
from seamfill.protocol.cluster import (
    BackfillCounts,
    LeaseCounts,
    SourcesAnswer,
    SourceView,
    WorkersAnswer,
    WorkerView,
)
from seamfill.protocol.compat import InspectAnswer
from seamfill.protocol.leases import LeasesAnswer, LeaseView
from seamfill.protocol.values import SeriesId
from seamfill_coordinator.machine.budgets import available_weight
from seamfill_coordinator.machine.claims import completion_ratio, live_overlaps, locate
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.model import (
    Backfill,
    BackfillState,
    ClaimRow,
    Lease,
    State,
    Worker,
)
from seamfill_coordinator.machine.schedule import next_due
from seamfill_coordinator.machine.submitting import wanted_ranges
from seamfill_coordinator.machine.view_unfilled import unfilled

__all__ = [
    "announced_url",
    "backfill",
    "backfill_counts",
    "backfills",
    "inspect",
    "lease_counts",
    "lease_view",
    "leases",
    "next_claim_end_ms",
    "next_due_ms",
    "rev_at_wall",
    "sources",
    "wanted",
    "workers",
]

DEAD_AFTER_MS: Final = 60_000
"""A worker that was not heard of for this long, by lease clock, is shown as dead."""

_STATES: Final[
    dict[BackfillState, Literal["active", "paused", "complete", "incomplete", "cancelled"]]
] = {
    BackfillState.ACTIVE: "active",
    BackfillState.PAUSED: "paused",
    BackfillState.COMPLETE: "complete",
    BackfillState.INCOMPLETE: "incomplete",
    BackfillState.CANCELLED: "cancelled",
}


def backfill(machine: LeaseMachine, backfill_id: str) -> BackfillView | None:
    """Return one backfill's progress and what holds it up, or None when it is not known."""
    state = machine.state
    row = state.backfills.get(backfill_id)
    if row is None:
        return None
    return msgspec.structs.replace(_backfill_view(state, row), unfilled=unfilled(state, row))


def backfills(
    machine: LeaseMachine, *, active_only: bool = False, limit: int = 1000
) -> BackfillsAnswer:
    """Return backfills, newest first."""
    state = machine.state
    rows = [row for row in state.backfills.values() if row.state.is_open or not active_only]
    newest = rows[::-1][:limit]
    return BackfillsAnswer(
        backfills=tuple(_backfill_view(state, row) for row in newest), total=len(rows)
    )


def wanted(machine: LeaseMachine, backfill_id: str) -> tuple[Wanted, ...] | None:
    """Return what a backfill wants (or wanted), clipped: what a retry of it asks for."""
    row = machine.state.backfills.get(backfill_id)
    return None if row is None else wanted_ranges(row)


def leases(
    machine: LeaseMachine,
    *,
    dataset: str | None = None,
    symbol: str | None = None,
    worker: str | None = None,
    limit: int = 1000,
) -> LeasesAnswer:
    """Return native leases by fence, then compatibility ones; filters leave out the latter."""
    state = machine.state
    native = [
        row
        for row in state.leases.values()
        if (dataset is None or row.series.dataset.name == dataset)
        and (symbol is None or row.series.symbol == symbol)
        and (worker is None or row.worker.id == worker)
    ]
    views = [lease_view(state, row) for row in native[:limit]]
    total = len(native)
    if dataset is None and symbol is None and worker is None:
        live = [row for row in state.claims.values() if row.deadline_ms > state.clock_ms]
        total += len(live)
        views += [_claim_view(state, row) for row in live[: limit - len(views)]]
    return LeasesAnswer(leases=tuple(views), total=total)


def lease_view(state: State, row: Lease) -> LeaseView:
    """Return one native lease."""
    series = row.series
    remaining_ms = row.deadline_ms - state.clock_ms
    return LeaseView(
        key=native_key(series.dataset.name, series.symbol, row.start_ms, row.end_ms),
        holder=row.worker.id,
        fence=row.fence,
        state="live" if remaining_ms > 0 else "lock_delay",
        remaining_ms=max(0, remaining_ms),
        series=SeriesId(dataset=series.dataset.name, symbol=series.symbol),
        start_ms=row.start_ms,
        end_ms=row.end_ms,
        gen=row.gen,
        cursor_ms=row.cursor_ms,
        attempts=row.attempts,
    )


def lease_counts(machine: LeaseMachine) -> LeaseCounts:
    """Return how many leases there are, and totals since the beginning."""
    state = machine.state
    live = sum(1 for row in state.leases.values() if row.deadline_ms > state.clock_ms)
    counters = state.counters
    return LeaseCounts(
        live=live,
        lock_delay=len(state.leases) - live,
        waiting=state.waiting_count,
        compatibility=sum(1 for row in state.claims.values() if row.deadline_ms > state.clock_ms),
        granted_total=counters.granted,
        expired_total=counters.expired,
        regranted_total=counters.regranted,
        stale_fence_total=counters.stale,
    )


def backfill_counts(machine: LeaseMachine) -> BackfillCounts:
    """Return backfills by state, and the bars of unfinished ones by what became of them."""
    rows = machine.state.backfills.values()
    by_state = dict.fromkeys(BackfillState, 0)
    for row in rows:
        by_state[row.state] += 1
    unfinished = [row for row in rows if row.state.is_open]
    return BackfillCounts(
        active=by_state[BackfillState.ACTIVE],
        paused=by_state[BackfillState.PAUSED],
        complete=by_state[BackfillState.COMPLETE],
        incomplete=by_state[BackfillState.INCOMPLETE],
        cancelled=by_state[BackfillState.CANCELLED],
        bars_wanted=sum(row.bars for row in unfinished),
        bars_verified=sum(row.fact_bars[0] for row in unfinished),
        bars_gap=sum(row.fact_bars[1] for row in unfinished),
        bars_violated=sum(row.fact_bars[2] for row in unfinished),
    )


def workers(machine: LeaseMachine) -> WorkersAnswer:
    """Return the workers that are remembered, the one heard last at the end."""
    state = machine.state
    return WorkersAnswer(
        workers=tuple(
            WorkerView(
                id=row.id,
                state=_worker_state(state, row),
                leases=len(row.leases),
                last_seen_ms=state.clock_ms - row.seen_ms,
                completed_total=row.completed_total,
                failed_total=row.failed_total,
                boot=row.boot,
            )
            for row in state.workers.values()
        )
    )


def sources(machine: LeaseMachine) -> SourcesAnswer:
    """Return the sources that workers offered or operators paused."""
    state = machine.state
    return SourcesAnswer(
        sources=tuple(
            SourceView(
                source=row.name,
                paused=row.is_paused,
                weight_per_minute=row.weight_per_minute,
                weight_available=available_weight(state, row),
                breaker_remaining_ms=max(0, row.breaker_until_ms - state.clock_ms),
                last_status=row.last_status,
            )
            for row in state.sources.values()
        )
    )


def inspect(machine: LeaseMachine, key: str, *, wall_ms: int) -> InspectAnswer:
    """Return what is known about a key, compatibility or native."""
    state = machine.state
    native = parse_native(key)
    if native is not None:
        series = state.series.get((native.dataset, native.symbol))
        pieces = [] if series is None else series.tasks.overlapping(native.start_ms, native.end_ms)
        held = {task.fence: task for _, _, task in pieces if type(task) is Lease}
        exact = [
            row
            for row in held.values()
            if (row.start_ms, row.end_ms) == (native.start_ms, native.end_ms)
        ]
        others = tuple(lease_view(state, row).key for row in held.values() if row not in exact)
        holder = exact[0].worker.id if exact else None
        return _inspected(state, key, exact[0] if exact else None, holder, None, others, wall_ms)
    place = locate(key)
    live = live_overlaps(state, place)
    own = next((row for row in live if (row.start_s, row.stop_s) == place[1:]), None)
    others = tuple(row.key for row in live if row is not own)
    ratio = completion_ratio(state, place)
    holder = None if own is None else own.holder or None
    return _inspected(state, key, own, holder, ratio, others, wall_ms)


def next_claim_end_ms(machine: LeaseMachine, key: str) -> int | None:
    """Return how long the live claim that overlaps this key still lasts, or None."""
    state = machine.state
    live = live_overlaps(state, locate(key))
    return max((row.deadline_ms for row in live), default=state.clock_ms) - state.clock_ms or None


def next_due_ms(machine: LeaseMachine) -> int | None:
    """Return how long until a waiting part becomes due, or None when nothing waits."""
    due_ms = next_due(machine.state)
    return None if due_ms is None else max(0, due_ms - machine.state.clock_ms)


def announced_url(machine: LeaseMachine, member: str) -> str | None:
    """Return the address that a member committed, or None."""
    row = machine.state.members.get(member)
    return None if row is None else row.url


def rev_at_wall(machine: LeaseMachine, wall_ms: int) -> int | None:
    """Return the newest rev whose values were current at a wall time, for ``as_of=T``.

    Restatements are all that changes values, so it is the rev before the first one proposed later.
    None when ``wall_ms`` lies before the ledger's memory.
    """
    state = machine.state
    for change in state.restatements:
        if change.wall_ms > wall_ms:
            return None if change.rev - 1 < state.ledger_floor_rev else change.rev - 1
    return state.rev


def _inspected(
    state: State,
    key: str,
    row: Lease | ClaimRow | None,
    holder: str | None,
    ratio: float | None,
    overlaps: tuple[str, ...],
    wall_ms: int,
) -> InspectAnswer:
    remaining_ms = None if row is None else max(0, row.deadline_ms - state.clock_ms)
    return InspectAnswer(
        key=key,
        held=row is not None,
        token=None if row is None else str(row.fence),
        holder=holder,
        remaining_ms=remaining_ms,
        lease_until_ms=None if remaining_ms is None else wall_ms + remaining_ms,
        completion_ratio=ratio,
        overlaps=overlaps,
    )


def _claim_view(state: State, row: ClaimRow) -> LeaseView:
    return LeaseView(
        key=row.key,
        holder=row.holder,
        fence=row.fence,
        state="live",
        remaining_ms=row.deadline_ms - state.clock_ms,
    )


def _worker_state(state: State, row: Worker) -> Literal["alive", "idle", "dead", "draining"]:
    if state.clock_ms - row.seen_ms > DEAD_AFTER_MS:
        return "dead"
    if row.is_draining:
        return "draining"
    return "alive" if row.leases else "idle"


def _backfill_view(state: State, row: Backfill) -> BackfillView:
    leased_ms = sum(
        e - s
        for want in row.wants
        for start, end in want.ranges
        for s, e, task in want.series.tasks.within(start, end)
        if type(task) is Lease
    )
    verified, gaps, violated = row.fact_bars
    return BackfillView(
        id=row.id,
        dataset=row.dataset.name,
        state=_STATES[row.state],
        start_ms=row.plan.start_ms,
        end_ms=row.plan.end_ms,
        symbols=tuple(symbol for symbol, _ in row.wanted),
        window_bars=row.window_bars,
        priority=row.priority,
        deadline_ms=row.deadline_ms,
        redo=row.redo,
        bars_wanted=row.bars,
        bars_verified=verified,
        bars_gap=gaps,
        bars_violated=violated,
        windows_violated=row.windows_violated,
        bars_leased=leased_ms // row.dataset.spec.interval_ms,
        ratio=(verified + gaps) / row.bars if row.bars else 1.0,
        blocked=_blocked(state, row, leased_ms),
    )


def _blocked(state: State, row: Backfill, leased_ms: int) -> str | None:
    """Say what keeps the rest from being worked on, if anything does."""
    if row.state is BackfillState.PAUSED:
        return "paused by an operator"
    if row.state is not BackfillState.ACTIVE:
        return None
    source = state.sources.get(row.dataset.spec.source)
    if source is not None and source.is_paused:
        return f"source {source.name} is paused"
    if source is not None and source.breaker_until_ms > state.clock_ms:
        left_ms = source.breaker_until_ms - state.clock_ms
        return f"source {source.name} asked everybody to wait another {left_ms} ms"
    if leased_ms:
        return None
    if all(state.clock_ms - worker.seen_ms > DEAD_AFTER_MS for worker in state.workers.values()):
        return "no worker is alive"
    return None
