"""Complete: the only way a bar becomes covered, or a gap, by a worker's proof.

Owns validation of what a holder claims to have done, the listing dates it may bring, and the ring
of completions that recognises a repetition. One step: either everything in it counts, or nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import Final

import msgspec

from seamfill.protocol.values import GapReason, LeaseRef, ListingDate
from seamfill_coordinator.machine.budgets import note_usage
from seamfill_coordinator.machine.commands import Complete
from seamfill_coordinator.machine.ending import (
    LOCK_DELAY_MS,
    MAX_ATTEMPTS,
    backoff_ms,
    find,
    give_back,
    give_up_rest,
    stale,
)
from seamfill_coordinator.machine.facts import count_covered, note_change, put_fact
from seamfill_coordinator.machine.model import (
    FOREVER_MS,
    Completion,
    Covered,
    Fact,
    Gap,
    Lease,
    Series,
    State,
    Waiting,
)
from seamfill_coordinator.machine.outcomes import (
    Already,
    Completed,
    Outcome,
    Rejected,
    RejectReason,
)
from seamfill_coordinator.machine.tables import emit, forget, invalid, refused, touch
from seamfill_coordinator.machine.tasks import apply_listing, clear_tasks, drop_lease, put_waiting

__all__ = ["complete"]

MAX_RANGES: Final = 1_280

Item = tuple[int, int, str, Fact]
"""Start, end, content as remembered, the fact."""


def complete(state: State, op: Complete) -> Outcome:
    """Accept facts for exactly the ranges this holder fetched, wrote and read back.

    Accepted while the fence is still the latest for each range and nothing but expiry happened to
    the lease. A range accepted before with the same content is skipped, with another refused.
    """
    ref = op.lease
    lease = find(state, ref)
    series = (
        lease.series
        if lease is not None
        else state.series.get((ref.series.dataset, ref.series.symbol))
    )
    if series is None:
        return stale(state, ref)
    if lease is not None and len(op.covered) == 1 and not op.gaps:
        outcome = _complete_whole(state, op, lease)
        if outcome is not None:
            return outcome
    gen = lease.gen if lease is not None else former_gen(series, ref)
    items = _read(series, op, gen if gen is not None else 0)
    if type(items) is Rejected:
        return items
    assert type(items) is list
    note_usage(state, op.usage)
    done = state.completed.get(ref.fence)
    if done:
        fresh = _not_repeated(done, items)
        if type(fresh) is Rejected:
            return fresh
        assert type(fresh) is list
        if not fresh and items:
            return Already(coverage_rev=_newest(done, items))
        items = fresh
    if lease is None and (gen is None or not _holds_all_expired(series, ref, items)):
        return stale(state, ref)
    if lease is not None and not _holds_all(series, lease, items):
        return stale(state, ref)
    problem = _check_listing(series, op, items) or _check_fragments(state, series, items)
    if problem is not None:
        return problem
    return _apply(state, op, series, lease, items)


def _complete_whole(state: State, op: Complete, lease: Lease) -> Completed | None:
    """Accept one covered range that is the whole lease, of bars never done before.

    Nearly every Complete is this; it does in one go what the general way does, to the same end.
    None, and nothing done, when the case is not as plain as that.
    """
    series = lease.series
    done = op.covered[0]
    start, end = lease.start_ms, lease.end_ms
    if (
        done.start_ms != start
        or done.end_ms != end
        or lease.left_ms != end - start
        or series.redo.starts
        or series.redo_failed.starts
        or (series.listed_from or series.delisted_at or op.listed_from or op.delisted_at)
    ):
        return None
    bars = (end - start) // series.interval_ms
    if done.rows != bars and (series.dataset.spec.dense or not 0 <= done.rows <= bars):
        return None
    content_digest = _digest(done.content_digest)
    facts, tasks = series.facts, series.tasks
    at = bisect_right(facts.ends, start)
    if content_digest is None or (at < len(facts.starts) and facts.starts[at] < end):
        return None
    if len(facts.starts) >= state.limits.fragments_per_series:
        return None
    if op.usage:
        note_usage(state, op.usage)
    tasks.drop(bisect_left(tasks.starts, start))
    facts.place(at, start, end, Covered(lease.gen, done.rows, content_digest))
    count_covered(state, series, start, end)
    note_change(state, series)
    _remember(state, lease.fence, start, end, done.content_digest)
    _tell(state, op, 1)
    worker = lease.worker
    worker.seen_ms = state.clock_ms
    worker.completed_total += 1
    if not worker.is_dirty:
        touch(state, worker)
    drop_lease(state, lease)
    return Completed(coverage_rev=state.rev, remaining=False)


def _apply(
    state: State, op: Complete, series: Series, lease: Lease | None, items: list[Item]
) -> Outcome:
    for start, end, content, fact in items:
        if lease is not None:
            series.tasks.clear(start, end)
            lease.left_ms -= end - start
        else:
            clear_tasks(state, series, start, end)
        put_fact(state, series, start, end, fact)
        _remember(state, op.lease.fence, start, end, content)
    if op.listed_from is not None or op.delisted_at is not None:
        _learn_listing(state, series, op)
    _tell(state, op, len(items))
    if lease is None:
        _settle_late(state, series, op, has_progress=bool(items))
        return Completed(coverage_rev=state.rev, remaining=False)
    worker = lease.worker
    worker.seen_ms = state.clock_ms
    if not worker.is_dirty:
        touch(state, worker)
    if items:
        lease.has_progress = True
        lease.expiries = 0
        worker.completed_total += len(items)
    if lease.left_ms == 0:
        drop_lease(state, lease)
        return Completed(coverage_rev=state.rev, remaining=False)
    if not op.final:
        touch(state, lease)
        return Completed(coverage_rev=state.rev, remaining=True)
    _end_with_rest(state, lease)
    return Completed(coverage_rev=state.rev, remaining=False)


def _end_with_rest(state: State, lease: Lease) -> None:
    """Return what a final Complete left over to waiting; without any progress it was an attempt."""
    if lease.has_progress:
        give_back(state, lease, name="lease.completed", note="rest", delay_ms=LOCK_DELAY_MS)
        return
    attempts = lease.attempts + 1
    if attempts >= MAX_ATTEMPTS:
        give_up_rest(state, lease, "no_progress")
        return
    give_back(
        state,
        lease,
        name="lease.completed",
        note="no_progress",
        delay_ms=backoff_ms(attempts),
        attempts=attempts,
    )


def _read(series: Series, op: Complete, gen: int) -> list[Item] | Rejected:
    """Check the ranges of a Complete against its lease and each other; return them in order."""
    low, high = op.lease.start_ms, op.lease.end_ms
    interval_ms = series.interval_ms
    is_dense = series.dataset.spec.dense
    if len(op.covered) + len(op.gaps) > MAX_RANGES:
        return invalid("covered", f"more than {MAX_RANGES} ranges")
    items: list[Item] = []
    for i, done in enumerate(op.covered):
        start, end = done.start_ms, done.end_ms
        if not low <= start < end <= high or start % interval_ms or end % interval_ms:
            return invalid(f"covered[{i}].start_ms", "is no range of bars inside the lease")
        bars = (end - start) // interval_ms
        if done.rows != bars and (is_dense or not 0 <= done.rows <= bars):
            return invalid(f"covered[{i}].rows", f"{done.rows} rows in a range of {bars} bars")
        content_digest = _digest(done.content_digest)
        if content_digest is None:
            return invalid(f"covered[{i}].content_digest", "must be 32 hex digits")
        items.append((start, end, done.content_digest, Covered(gen, done.rows, content_digest)))
    for i, gap in enumerate(op.gaps):
        start, end = gap.start_ms, gap.end_ms
        if not low <= start < end <= high or start % interval_ms or end % interval_ms:
            return invalid(f"gaps[{i}].start_ms", "is no range of bars inside the lease")
        if gap.receipt.reason is not gap.reason:
            return invalid(f"gaps[{i}].receipt", "gives another reason than the gap")
        items.append((start, end, f"gap:{gap.reason.value}", Gap(gen, gap.reason, gap.receipt)))
    if len(items) > 1:
        items.sort(key=_start)
        for left, right in pairwise(items):
            if left[1] > right[0]:
                return invalid("covered", f"two ranges overlap at {right[0]}")
    for part, date in (("listed_from", op.listed_from), ("delisted_at", op.delisted_at)):
        if date is not None and (date.at_ms < 0 or date.at_ms % interval_ms):
            return invalid(f"{part}.at_ms", f"is not on the grid of {interval_ms} ms")
    return items


def _start(item: Item) -> int:
    return item[0]


def _digest(text: str) -> int | None:
    if len(text) != 32:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return int.from_bytes(raw, "big") if len(raw) == 16 else None


def _not_repeated(done: tuple[Completion, ...], items: list[Item]) -> list[Item] | Rejected:
    """Return the items not accepted before under this fence; refuse other content for a range."""
    before = {(row.start_ms, row.end_ms): row.content for row in done}
    fresh = []
    for item in items:
        start, end, content, _ = item
        known = before.get((start, end))
        if known is None:
            fresh.append(item)
        elif known.lower() != content.lower():
            return refused(
                RejectReason.RESULT_CONFLICT,
                f"[{start}, {end}) was completed under this fence with other content",
            )
    return fresh


def _newest(done: tuple[Completion, ...], items: list[Item]) -> int:
    ranges = {(start, end) for start, end, _, _ in items}
    return max(row.rev for row in done if (row.start_ms, row.end_ms) in ranges)


def _holds_all(series: Series, lease: Lease, items: list[Item]) -> bool:
    if lease.left_ms == lease.end_ms - lease.start_ms:
        return True
    return all(
        not series.tasks.holes(start, end)
        and all(task is lease for _, _, task in series.tasks.overlapping(start, end))
        for start, end, _, _ in items
    )


def _holds_all_expired(series: Series, ref: LeaseRef, items: list[Item]) -> bool:
    return all(
        not series.tasks.holes(start, end)
        and all(_is_former(task, ref) for _, _, task in series.tasks.overlapping(start, end))
        for start, end, _, _ in items
    )


def _is_former(task: Lease | Waiting, ref: LeaseRef) -> bool:
    return (
        type(task) is Waiting
        and task.expired
        and task.fence == ref.fence
        and task.lease_start_ms == ref.start_ms
        and task.lease_end_ms == ref.end_ms
    )


def former_gen(series: Series, ref: LeaseRef) -> int | None:
    """Return the gen of an expired lease of which something still waits untouched, or None."""
    for _, _, task in series.tasks.overlapping(ref.start_ms, ref.end_ms):
        if type(task) is Waiting and _is_former(task, ref):
            return task.lease_gen
    return None


def _check_listing(series: Series, op: Complete, items: list[Item]) -> Rejected | None:
    """Refuse dates that contradict what is known, and covered bars outside the listing."""
    low, high = 0, FOREVER_MS
    known_and_new = (
        ("listed_from", series.listed_from, op.listed_from),
        ("delisted_at", series.delisted_at, op.delisted_at),
    )
    for part, known, new in known_and_new:
        if known is not None and new is not None and known.at_ms != new.at_ms:
            return Rejected(
                reason=RejectReason.RESULT_CONFLICT,
                field=f"{part}.at_ms",
                detail=f"the series has {known.at_ms} already",
            )
    low = _at(series.listed_from, op.listed_from, low)
    high = _at(series.delisted_at, op.delisted_at, high)
    if low == 0 and high == FOREVER_MS:
        return None
    for start, end, _, fact in items:
        if type(fact) is Covered and (start < low or end > high):
            return refused(
                RejectReason.RESULT_CONFLICT, f"covered bars in [{start}, {end}) are not listed"
            )
    if op.listed_from is not None or op.delisted_at is not None:
        outside = series.facts.overlapping(0, low) + series.facts.overlapping(high, FOREVER_MS)
        for start, end, fact in outside:
            if type(fact) is Covered:
                return refused(
                    RejectReason.RESULT_CONFLICT, f"[{start}, {end}) is covered and not listed"
                )
    return None


def _at(known: ListingDate | None, new: ListingDate | None, default: int) -> int:
    date = known or new
    return default if date is None else date.at_ms


def _check_fragments(state: State, series: Series, items: list[Item]) -> Rejected | None:
    if len(series.facts) + len(items) > state.limits.fragments_per_series:
        return refused(RejectReason.LIMIT_EXCEEDED, "the series has too many fragments")
    return None


def _learn_listing(state: State, series: Series, op: Complete) -> None:
    """Keep the dates; unleased bars outside become gaps now, leased ones when their lease ends."""
    series.listed_from = series.listed_from or op.listed_from
    series.delisted_at = series.delisted_at or op.delisted_at
    note_change(state, series)
    apply_listing(state, series)


def _remember(state: State, fence: int, start: int, end: int, content: str) -> None:
    row = Completion(fence=fence, start_ms=start, end_ms=end, content=content, rev=state.rev)
    state.completions.append(row)
    known = state.completed.get(fence)
    state.completed[fence] = (row,) if known is None else (*known, row)
    row.is_dirty = True
    state.dirty.append(row)
    while len(state.completions) > state.limits.completions:
        oldest = state.completions.popleft()
        rows = state.completed[oldest.fence][1:]
        if rows:
            state.completed[oldest.fence] = rows
        else:
            del state.completed[oldest.fence]
        forget(state, oldest)


def _settle_late(state: State, series: Series, op: Complete, *, has_progress: bool) -> None:
    """Deal with what a late Complete leaves over: progress forgives the expiries, and a final one
    was the last word under its fence."""
    ref = op.lease
    for s, e, task in series.tasks.within(ref.start_ms, ref.end_ms):
        if type(task) is Waiting and _is_former(task, ref):
            settled = msgspec.structs.replace(
                task,
                expiries=0 if has_progress else task.expiries,
                expired=task.expired and not op.final,
            )
            if settled != task:
                put_waiting(state, series, s, e, settled)


def _tell(state: State, op: Complete, ranges: int) -> None:
    ref = op.lease
    rows = sum([done.rows for done in op.covered])
    emit(
        state,
        "lease.completed",
        (
            ("dataset", ref.series.dataset),
            ("symbol", ref.series.symbol),
            ("start_ms", ref.start_ms),
            ("end_ms", ref.end_ms),
            ("fence", ref.fence),
            ("rows", rows),
            ("ranges", ranges),
        ),
    )


def unlisted_reason(series: Series, at: int) -> GapReason | None:
    """Return why a bar is outside the series' listing dates, or None."""
    if series.listed_from is not None and at < series.listed_from.at_ms:
        return GapReason.NOT_LISTED
    if series.delisted_at is not None and at >= series.delisted_at.at_ms:
        return GapReason.DELISTED
    return None
