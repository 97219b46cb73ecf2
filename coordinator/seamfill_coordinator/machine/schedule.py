"""Which window comes next: the stateless order of lease-machine.md, made fast.

The order: among eligible bars the best (priority, deadline, sequence) of the backfills that want
them, then the start of the cell in that backfill's grid, then the series. Owns the caches that find
it without looking at every series: per (source, store) the active backfills in order; per backfill
a heap of (cell, symbol, position). Must not know workers or budgets.

Invariants: a cache may only be too early, never too late: for each want of an active backfill no
eligible bar lies before ``position``, and an entry with that position is in the backfill's heap
(−1: none). Entries whose position is no longer the want's are stale and skipped. Nothing observable
depends on stale entries, so a machine restored from a snapshot, whose frontiers start at the
beginning, answers alike.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from heapq import heappop, heappush, heapreplace
from typing import NamedTuple

from seamfill_coordinator.machine.model import (
    FOREVER_MS,
    Backfill,
    BackfillState,
    Series,
    State,
    Waiting,
    Want,
)
from seamfill_coordinator.machine.tables import touch

__all__ = [
    "Candidate",
    "activate",
    "advance",
    "deactivate",
    "next_candidate",
    "next_due",
    "probe",
    "release_due",
    "reopen",
]


class Candidate(NamedTuple):
    """An eligible window of one want: [start, end), all of one gen, attempts and cursor.

    ``waiting`` is the waiting part at its start, if it starts in one.
    """

    want: Want
    start_ms: int
    end_ms: int
    gen: int
    waiting: Waiting | None
    is_plain: bool
    """No task lies in it."""


def next_candidate(backfill: Backfill, clock_ms: int) -> Candidate | None:
    """Return the backfill's first eligible window in (cell, series) order, or None."""
    heap = backfill.heap
    while heap:
        cell_ms, symbol, position, want = heap[0]
        if want.position != position:
            heappop(heap)
            continue
        end = _free_until(want, position, cell_ms + backfill.cell_ms)
        if end:
            return Candidate(want, position, end, 0, None, True)
        found = _first_eligible(want, position, clock_ms)
        if found is None:
            want.position = -1
            heappop(heap)
            continue
        start, limit, gen, waiting = found
        start_cell = start - start % backfill.cell_ms
        if start_cell > cell_ms:
            want.position = start
            heapreplace(heap, (start_cell, symbol, start, want))
            continue
        if start != position:
            want.position = start
            heapreplace(heap, (start_cell, symbol, start, want))
        limit = min(limit, start_cell + backfill.cell_ms)
        end = _extent(want.series, start, limit, gen, waiting, clock_ms)
        return Candidate(want, start, end, gen, waiting, False)
    return None


def advance(candidate: Candidate) -> None:
    """Move the frontier past a candidate that has just been granted (the top of its heap)."""
    want = candidate.want
    backfill = want.backfill
    end = candidate.end_ms
    want.position = end
    cell = end - end % backfill.cell_ms
    heapreplace(backfill.heap, (cell, want.series.symbol, end, want))


def activate(state: State, backfill: Backfill) -> None:
    """Bring a backfill into play with its frontiers at the beginning (submit, resume, restore)."""
    group = backfill.dataset.group
    if group not in state.active_groups:
        state.match_epoch += 1
    state.active_groups[group] = state.active_groups.get(group, 0) + 1
    backfill.heap.clear()
    for want in backfill.wants:
        want.position = -1
        _move_back(state, want, want.ranges[0][0])


def deactivate(state: State, backfill: Backfill) -> None:
    """Take a backfill out of play (pause, cancel, finish)."""
    group = backfill.dataset.group
    state.active_groups[group] -= 1
    if not state.active_groups[group]:
        del state.active_groups[group]
        state.match_epoch += 1
    drop_ready(state, backfill)
    backfill.heap.clear()


def drop_ready(state: State, backfill: Backfill) -> None:
    """Note that a backfill has nothing eligible now."""
    if backfill.is_ready:
        ready = state.ready[backfill.dataset.group]
        del ready[bisect_left(ready, (backfill.order,))]
        backfill.is_ready = False


def reopen(state: State, series: Series, start: int) -> None:
    """Move frontiers back: bars at or after ``start`` may have become eligible."""
    for want in series.wants.values():
        if want.backfill.state is not BackfillState.ACTIVE:
            continue
        for a, b in want.ranges:
            if b > start:
                _move_back(state, want, max(a, start))
                break


def release_due(state: State) -> None:
    """Let waiting parts whose time has come be found again."""
    due, clock_ms = state.due, state.clock_ms
    while due and due[0][0] <= clock_ms:
        _, number, start = heappop(due)
        series = state.by_number[number]
        if series.quiet:
            _end_quiet(state, series)
        reopen(state, series, start)


def next_due(state: State) -> int | None:
    """Return the lease clock at which the next waiting part becomes due, or None."""
    due = state.due
    while due:
        not_before_ms, number, start = due[0]
        series = state.by_number[number]
        if not_before_ms in series.quiet.values:
            return not_before_ms
        piece = series.tasks.at(start)
        if piece is not None and piece[0] == start:
            task = piece[2]
            if type(task) is Waiting and task.not_before_ms == not_before_ms:
                return not_before_ms
        heappop(due)
    return None


def probe(series: Series, at: int, clock_ms: int) -> tuple[bool, int, int, Waiting | None]:
    """Look at one bar: (is it open or due, until where all is alike, gen, its waiting part).

    Whether anybody wants it is not asked here.
    """
    facts, tasks, redo = series.facts, series.tasks, series.redo
    i = bisect_right(facts.starts, at)
    end = facts.starts[i] if i < len(facts.starts) else FOREVER_MS
    is_open = True
    if i and facts.ends[i - 1] > at:
        end = facts.ends[i - 1]
        is_open = False
    gen = 0
    if redo.starts:
        i = bisect_right(redo.starts, at)
        if i and redo.ends[i - 1] > at:
            gen = redo.values[i - 1]
            is_open = True
            end = min(end, redo.ends[i - 1])
        elif i < len(redo.starts):
            end = min(end, redo.starts[i])
    if series.quiet.starts:
        quiet = series.quiet
        i = bisect_right(quiet.starts, at)
        if i and quiet.ends[i - 1] > at:
            is_open = is_open and quiet.values[i - 1] <= clock_ms
            end = min(end, quiet.ends[i - 1])
        elif i < len(quiet.starts):
            end = min(end, quiet.starts[i])
    i = bisect_right(tasks.starts, at)
    if i and tasks.ends[i - 1] > at:
        task = tasks.values[i - 1]
        task_end = tasks.ends[i - 1]
        if type(task) is Waiting:
            end = min(end, task_end)
            return is_open and task.not_before_ms <= clock_ms, end, gen, task
        return False, task_end, gen, None
    if i < len(tasks.starts) and tasks.starts[i] < end:
        end = tasks.starts[i]
    return is_open, end, gen, None


def _end_quiet(state: State, series: Series) -> None:
    for start, end, until_ms in series.quiet:
        if until_ms <= state.clock_ms:
            series.quiet.clear(start, end)
            reopen(state, series, start)
    if not series.is_dirty:
        touch(state, series)


def _move_back(state: State, want: Want, position: int) -> None:
    backfill = want.backfill
    if 0 <= want.position <= position:
        return
    want.position = position
    cell = position - position % backfill.cell_ms
    heappush(backfill.heap, (cell, want.series.symbol, position, want))
    if not backfill.is_ready:
        backfill.is_ready = True
        insort(state.ready.setdefault(backfill.dataset.group, []), (backfill.order, backfill))


def _free_until(want: Want, position: int, limit: int) -> int:
    """Return the end of the window at ``position`` in the plain case, else 0.

    Plain is nearly always: one wanted range, nothing to redo or quiet, no fact or task at the
    frontier, and no waiting part before the end that might join the window.
    """
    series = want.series
    if len(want.ranges) != 1 or series.redo.starts or series.quiet.starts:
        return 0
    range_start, range_end = want.ranges[0]
    if not range_start <= position < range_end:
        return 0
    end = limit if limit < range_end else range_end
    facts, tasks = series.facts, series.tasks
    starts = facts.starts
    i = bisect_right(starts, position)
    if i and facts.ends[i - 1] > position:
        return 0
    if i < len(starts) and starts[i] < end:
        end = starts[i]
    starts = tasks.starts
    i = bisect_right(starts, position)
    if i and tasks.ends[i - 1] > position:
        return 0
    if i < len(starts) and starts[i] < end:
        if type(tasks.values[i]) is Waiting:
            return 0
        end = starts[i]
    return end


def _first_eligible(
    want: Want, position: int, clock_ms: int
) -> tuple[int, int, int, Waiting | None] | None:
    """Return (start, end of its wanted range, gen, waiting part) of the first eligible bar."""
    series = want.series
    for range_start, range_end in want.ranges:
        if range_end <= position:
            continue
        at = max(position, range_start)
        while at < range_end:
            is_eligible, end, gen, waiting = probe(series, at, clock_ms)
            if is_eligible:
                return at, range_end, gen, waiting
            at = end
    return None


def _extent(
    series: Series, start: int, limit: int, gen: int, waiting: Waiting | None, clock_ms: int
) -> int:
    """Return how far a window from ``start`` reaches before gen, attempts or cursor change."""
    signature = _signature(waiting)
    at = start
    while at < limit:
        is_eligible, end, other_gen, other = probe(series, at, clock_ms)
        if not is_eligible or other_gen != gen or _signature(other) != signature:
            break
        at = end
    return min(at, limit)


def _signature(waiting: Waiting | None) -> tuple[int, int | None]:
    return (0, None) if waiting is None else (waiting.attempts, waiting.cursor_ms)
