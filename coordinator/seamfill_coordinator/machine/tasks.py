"""Tasks of a series: leases and waiting parts, and how a lease's rest returns to waiting.

Owns ``series.tasks``, the lease table, and the heap of what becomes due. Must not know which
operation ended a lease. Invariants: a lease's pieces in ``series.tasks`` add up to ``left_ms``;
every waiting piece that is not due has an entry (not_before, series, start) in ``state.due``.
"""

from __future__ import annotations

from heapq import heappush

from seamfill_coordinator.machine.facts import (
    outside_listing,
    put_fact,
    unfinished,
    wanted_within,
)
from seamfill_coordinator.machine.model import (
    FOREVER_MS,
    Gap,
    Lease,
    Series,
    State,
    Waiting,
)
from seamfill_coordinator.machine.schedule import reopen
from seamfill_coordinator.machine.tables import forget, touch

__all__ = [
    "apply_listing",
    "clear_tasks",
    "drop_lease",
    "drop_unwanted_redo",
    "held",
    "keep_quiet",
    "put_waiting",
    "requeue",
]


def held(lease: Lease) -> list[tuple[int, int]]:
    """Return the parts of its window that a lease still holds."""
    tasks = lease.series.tasks
    return [(s, e) for s, e, t in tasks.overlapping(lease.start_ms, lease.end_ms) if t is lease]


def drop_lease(state: State, lease: Lease) -> None:
    """Take a lease out of the tables; its pieces are the caller's business."""
    del state.leases[lease.fence]
    lease.worker.leases.pop(lease.fence, None)
    forget(state, lease)


def clear_tasks(state: State, series: Series, start: int, end: int) -> None:
    """Remove every task from [start, end), keeping counts and the due heap exact."""
    tasks = series.tasks
    before = _waiting_pieces(series, start, end)
    tasks.clear(start, end)
    state.waiting_count += _waiting_pieces(series, start, end) - before
    _note_due(state, series, end)
    touch(state, series)


def put_waiting(state: State, series: Series, start: int, end: int, waiting: Waiting) -> None:
    """Let [start, end) wait; it is eligible again at ``waiting.not_before_ms``."""
    before = _waiting_pieces(series, start, end)
    series.tasks.put(start, end, waiting)
    state.waiting_count += _waiting_pieces(series, start, end) - before
    _note_due(state, series, end)
    if waiting.not_before_ms > state.clock_ms:
        heappush(state.due, (waiting.not_before_ms, series.number, start))
    else:
        reopen(state, series, start)
    touch(state, series)


def requeue(state: State, series: Series, spans: list[tuple[int, int]], waiting: Waiting) -> None:
    """Return the rest of an ended lease to waiting.

    Bars outside the listing dates become gaps now, as they were leased when the date was learnt;
    bars that no unfinished backfill wants any more are dropped, with a redo pending on them.
    """
    for start, end in spans:
        clear_tasks(state, series, start, end)
        wanted = wanted_within(series, start, end)
        if series.redo.touches(start, end):
            drop_unwanted_redo(state, series, start, end, wanted)
        for wanted_start, wanted_end in wanted:
            for a, b, reason in outside_listing(series, wanted_start, wanted_end):
                for c, d in unfinished(series, a, b):
                    put_fact(state, series, c, d, Gap(waiting.lease_gen, reason, None))
            for a, b in unfinished(series, wanted_start, wanted_end):
                put_waiting(state, series, a, b, waiting)


def apply_listing(state: State, series: Series) -> None:
    """Turn wanted, unfinished, unleased bars outside the series' listing dates into gaps."""
    for start, end, reason in outside_listing(series, 0, FOREVER_MS):
        for wanted_start, wanted_end in wanted_within(series, start, end):
            for a, b in _without_leases(series, wanted_start, wanted_end):
                for c, d in unfinished(series, a, b):
                    put_fact(state, series, c, d, Gap(0, reason, None))
                    clear_tasks(state, series, c, d)


def keep_quiet(state: State, series: Series, spans: list[tuple[int, int]], quiet_ms: int) -> None:
    """Let nobody have ``spans`` for a while: a former holder's last write may still land."""
    until_ms = state.clock_ms + quiet_ms
    for start, end in spans:
        series.quiet.put(start, end, until_ms)
        heappush(state.due, (until_ms, series.number, start))
    touch(state, series)


def drop_unwanted_redo(
    state: State, series: Series, start: int, end: int, wanted: list[tuple[int, int]]
) -> None:
    """Forget redos pending in [start, end) outside ``wanted``."""
    at = start
    for a, b in [*wanted, (end, end)]:
        if a > at:
            series.redo.clear(at, a)
        at = max(at, b)
    touch(state, series)


def _without_leases(series: Series, start: int, end: int) -> list[tuple[int, int]]:
    spans = []
    at = start
    for s, e, task in series.tasks.within(start, end):
        if type(task) is Lease:
            if s > at:
                spans.append((at, s))
            at = e
    if at < end:
        spans.append((at, end))
    return spans


def _waiting_pieces(series: Series, start: int, end: int) -> int:
    """Count waiting pieces in and around [start, end): neighbours may be cut or joined too."""
    pieces = series.tasks.overlapping(start - 1, end + 1)
    return sum(1 for _, _, task in pieces if type(task) is Waiting)


def _note_due(state: State, series: Series, start: int) -> None:
    """Give a waiting piece that now begins at ``start``, being cut there, its own heap entry."""
    piece = series.tasks.at(start)
    if piece is not None and piece[0] == start:
        task = piece[2]
        if type(task) is Waiting and task.not_before_ms > state.clock_ms:
            heappush(state.due, (task.not_before_ms, series.number, start))
