"""Facts of a series: how they come to be, are replaced, and are counted by the backfills.

Owns ``series.facts``, ``redo`` and ``redo_failed``, and the counters ``open_bars`` and
``fact_bars`` of unfinished backfills. Must not know leases.

Invariants: a bar's fact changes only while a redo is pending on it (or under a lease that was
granted for one); each counter equals a recount; a backfill whose last open bar got its fact is in
``state.finishing``.
"""

from __future__ import annotations

from seamfill.protocol.values import GapReason
from seamfill_coordinator.machine.model import (
    Covered,
    Fact,
    Gap,
    Restatement,
    Series,
    State,
    Violation,
)
from seamfill_coordinator.machine.tables import forget, touch

__all__ = [
    "bars_within",
    "count_covered",
    "note_change",
    "order_again",
    "outside_listing",
    "put_fact",
    "segments",
    "unfinished",
    "violate",
    "wanted_within",
]

Span = tuple[int, int]


def put_fact(state: State, series: Series, start: int, end: int, fact: Fact) -> None:
    """Give every bar of [start, end) one fact, in one step, ending any redo pending on it.

    At the ledger's cap a gap becomes violated(``ledger_full``): a proof that can not be kept is
    none.
    """
    if type(fact) is Gap and state.gap_count >= state.limits.gaps:
        fact = Violation(fact.gen, "ledger_full", "")
    is_plain = (
        type(fact) is Covered
        and not series.redo.starts
        and not series.redo_failed.starts
        and not series.facts.touches(start, end)
    )
    if is_plain:  # nearly always: fresh bars are covered for the first time
        _count(state, series, start, end, was_open=True, old=None, new=0)
        series.facts.put(start, end, fact)
    else:
        _replace(state, series, start, end, fact)
    note_change(state, series)


def note_change(state: State, series: Series) -> None:
    """Give the series a new ``coverage_rev``, once per operation or expiry round.

    It is the operation's rev, but for expiries, which raise no rev: they count up from the last
    one, since caches must never take two states of the facts for one.
    """
    if series.changed_in != state.step:
        series.changed_in = state.step
        series.coverage_rev = max(state.rev, series.coverage_rev + 1)
    if not series.is_dirty:
        touch(state, series)


def violate(state: State, series: Series, start: int, end: int, violation: Violation) -> None:
    """Give up on [start, end): violated, or marked ``redo_failed`` where an older fact stands.

    An older *violated* fact takes the newer reason: there is nothing in it worth keeping.
    """
    for want in series.wants.values():
        if bars_within(want.ranges, start, end, series.interval_ms):
            want.backfill.windows_violated += 1
            touch(state, want.backfill)
    for a, b, fact, is_pending in segments(series, start, end):
        if fact is None or (is_pending and type(fact) is Violation):
            put_fact(state, series, a, b, violation)
        elif is_pending:
            _count(state, series, a, b, was_open=True, old=fact.kind, new=fact.kind)
            series.redo.clear(a, b)
            series.redo_failed.put(a, b, violation)
            note_change(state, series)


def order_again(state: State, series: Series, start: int, end: int, gen: int) -> None:
    """Mark [start, end) to be fetched (again) at ``gen``; facts stay until they are replaced."""
    for a, b, fact, is_pending in segments(series, start, end):
        if fact is not None and not is_pending:
            bars = (b - a) // series.interval_ms
            for want in series.wants.values():
                n = bars_within(want.ranges, a, b, series.interval_ms) if bars else 0
                if n:
                    want.backfill.open_bars += n
                    touch(state, want.backfill)
    series.redo.put(start, end, gen)
    series.redo_failed.clear(start, end)
    series.high_gen = max(series.high_gen, gen)
    touch(state, series)


def segments(series: Series, start: int, end: int) -> list[tuple[int, int, Fact | None, bool]]:
    """Split [start, end) where its fact, or whether a redo is pending, changes."""
    facts: list[tuple[int, int, Fact | None]] = []
    at = start
    for s, e, fact in series.facts.within(start, end):
        if s > at:
            facts.append((at, s, None))
        facts.append((s, e, fact))
        at = e
    if at < end:
        facts.append((at, end, None))
    if not series.redo.touches(start, end):
        return [(s, e, fact, False) for s, e, fact in facts]
    found: list[tuple[int, int, Fact | None, bool]] = []
    for s, e, known in facts:
        at = s
        for rs, re, _ in series.redo.within(s, e):
            if rs > at:
                found.append((at, rs, known, False))
            found.append((rs, re, known, True))
            at = re
        if at < e:
            found.append((at, e, known, False))
    return found


def unfinished(series: Series, start: int, end: int) -> list[Span]:
    """Return the parts of [start, end) that have no fact, or a pending redo; joined, in order."""
    spans: list[Span] = []
    for a, b, fact, is_pending in segments(series, start, end):
        if fact is None or is_pending:
            if spans and spans[-1][1] == a:
                spans[-1] = (spans[-1][0], b)
            else:
                spans.append((a, b))
    return spans


def wanted_within(series: Series, start: int, end: int) -> list[Span]:
    """Return the parts of [start, end) that an unfinished backfill wants; joined, in order."""
    spans = []
    for want in series.wants.values():
        for a, b in want.ranges:
            if a < end and b > start:
                if a <= start and b >= end:
                    return [(start, end)]
                spans.append((max(a, start), min(b, end)))
    spans.sort()
    joined: list[Span] = []
    for a, b in spans:
        if joined and joined[-1][1] >= a:
            joined[-1] = (joined[-1][0], max(b, joined[-1][1]))
        else:
            joined.append((a, b))
    return joined


def outside_listing(series: Series, start: int, end: int) -> list[tuple[int, int, GapReason]]:
    """Return the parts of [start, end) before the first or after the last bar of the series."""
    found = []
    inner = start
    if series.listed_from is not None and start < series.listed_from.at_ms:
        inner = min(end, series.listed_from.at_ms)
        found.append((start, inner, GapReason.NOT_LISTED))
    if series.delisted_at is not None and end > series.delisted_at.at_ms:
        outer = max(inner, series.delisted_at.at_ms)
        if outer < end:
            found.append((outer, end, GapReason.DELISTED))
    return found


def bars_within(ranges: list[Span], start: int, end: int, interval_ms: int) -> int:
    """Count the bars of [start, end) that lie in sorted, disjoint ranges."""
    total = 0
    for a, b in ranges:
        if a >= end:
            break
        if b > start:
            total += (b if b < end else end) - (a if a > start else start)
    return total // interval_ms


def _replace(state: State, series: Series, start: int, end: int, fact: Fact) -> None:
    for a, b, old, is_pending in segments(series, start, end):
        old_kind = None if old is None else old.kind
        was_open = old is None or is_pending
        _count(state, series, a, b, was_open=was_open, old=old_kind, new=fact.kind)
        if type(old) is Covered and (type(fact) is not Covered or fact.gen != old.gen):
            _note_restatement(state, series, a, b, old, fact)
    # Gaps are counted by pieces; one piece more on each side, since neighbours may join.
    before = _gap_pieces(series, start - 1, end + 1)
    series.facts.put(start, end, fact)
    state.gap_count += _gap_pieces(series, start - 1, end + 1) - before
    series.redo.clear(start, end)
    series.redo_failed.clear(start, end)


def _gap_pieces(series: Series, start: int, end: int) -> int:
    return sum(1 for _, _, fact in series.facts.overlapping(start, end) if type(fact) is Gap)


def count_covered(state: State, series: Series, start: int, end: int) -> None:
    """Count fresh bars that are covered for the first time."""
    _count(state, series, start, end, was_open=True, old=None, new=0)


def _count(
    state: State,
    series: Series,
    start: int,
    end: int,
    *,
    was_open: bool,
    old: int | None,
    new: int,
) -> None:
    """Move the bars of [start, end) from their old count to the new one, in every backfill."""
    for want in series.wants.values():
        ranges = want.ranges
        if len(ranges) == 1 and ranges[0][0] <= start and end <= ranges[0][1]:
            n = (end - start) // series.interval_ms
        else:
            n = bars_within(ranges, start, end, series.interval_ms)
        if not n:
            continue
        backfill = want.backfill
        if old is not None:
            backfill.fact_bars[old] -= n
        backfill.fact_bars[new] += n
        if was_open:
            backfill.open_bars -= n
            if backfill.open_bars == 0:
                state.finishing.append(backfill)
        if not backfill.is_dirty:
            touch(state, backfill)


def _note_restatement(
    state: State, series: Series, start: int, end: int, old: Covered, new: Fact
) -> None:
    state.restatements_issued += 1
    row = Restatement(
        number=state.restatements_issued,
        dataset=series.dataset.name,
        symbol=series.symbol,
        start_ms=start,
        end_ms=end,
        gen_before=old.gen,
        rows_before=old.rows,
        digest_before=old.content_digest,
        gen_after=new.gen if type(new) is Covered else None,
        digest_after=new.content_digest if type(new) is Covered else None,
        rev=state.rev,
        wall_ms=state.wall_ms,
    )
    state.restatements.append(row)
    touch(state, row)
    while len(state.restatements) > max(1, state.limits.restatements):
        oldest = state.restatements.popleft()
        state.ledger_floor_rev = max(state.ledger_floor_rev, oldest.rev)
        forget(state, oldest)
