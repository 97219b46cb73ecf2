"""What is known about one series: coverage now and as of an earlier rev, why a bar stands still.

Pure reads; see ``views``.
"""

from __future__ import annotations

from typing import Final, TypeVar

from seamfill.protocol.backfills import (
    CoverageAnswer,
    CoveredView,
    GapView,
    InFlightView,
    ViolatedView,
    ViolationsAnswer,
)
from seamfill.protocol.leases import LeaseExplanation
from seamfill.protocol.values import SeriesId
from seamfill_coordinator.machine.completing import unlisted_reason
from seamfill_coordinator.machine.facts import bars_within, unfinished, wanted_within
from seamfill_coordinator.machine.interval_map import IntervalMap
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.model import (
    BackfillState,
    Covered,
    Fact,
    Gap,
    Lease,
    Series,
    State,
    Violation,
    Waiting,
    new_facts,
)
from seamfill_coordinator.machine.view_tables import lease_view

__all__ = ["coverage", "explain", "violations"]

MAX_PIECES: Final = 50_000
"""Ranges in one coverage answer; more and it says ``truncated``."""

Span = tuple[int, int]
V = TypeVar("V")


def coverage(
    machine: LeaseMachine,
    series: SeriesId,
    start_ms: int | None,
    end_ms: int | None,
    *,
    as_of: int | None = None,
    in_flight: bool = True,
) -> CoverageAnswer:
    """Return what is known about [start_ms, end_ms) of a series; None: as far as anything is.

    Ranges that reach out of the asked range are clipped; a clipped covered range has no digest,
    since nobody knows the digest of a part.
    """
    state = machine.state
    row = state.series.get((series.dataset, series.symbol))
    low, high = _hull(row, start_ms, end_ms)
    high = max(low, high)
    if row is None:
        dataset = state.datasets.get(series.dataset)
        return CoverageAnswer(
            series=series,
            start_ms=low,
            end_ms=high,
            rev=state.rev,
            coverage_rev=0,
            spec=None if dataset is None else dataset.spec,
            covered=(),
            gaps=(),
            violated=(),
            in_flight=(),
            as_of=as_of,
        )
    facts, restated = _facts_as_of(state, row, low, high, as_of)
    flights = _in_flight(state, row, low, high) if in_flight else []
    return CoverageAnswer(
        series=series,
        start_ms=low,
        end_ms=high,
        rev=state.rev,
        coverage_rev=row.coverage_rev,
        spec=row.dataset.spec,
        covered=tuple(_covered(facts)[:MAX_PIECES]),
        gaps=tuple(_gaps(row, facts)[:MAX_PIECES]),
        violated=tuple(_violated(row, facts, low, high)[:MAX_PIECES]),
        in_flight=tuple(flights[:MAX_PIECES]),
        as_of=as_of,
        restated=tuple(restated[:MAX_PIECES]),
        listed_from_ms=None if row.listed_from is None else row.listed_from.at_ms,
        delisted_at_ms=None if row.delisted_at is None else row.delisted_at.at_ms,
        truncated=max(len(facts), len(flights), len(restated)) > MAX_PIECES,
    )


def violations(machine: LeaseMachine, *, limit: int = 1000) -> ViolationsAnswer:
    """Return what could not be filled, series by series."""
    found: list[tuple[SeriesId, ViolatedView]] = []
    total = 0
    for row in machine.state.series.values():
        facts = [piece for piece in row.facts if type(piece[2]) is Violation]
        views = _violated(row, facts, None, None)
        total += len(views)
        if len(found) < limit:
            name = SeriesId(dataset=row.dataset.name, symbol=row.symbol)
            found += [(name, view) for view in views[: limit - len(found)]]
    return ViolationsAnswer(violations=tuple(found), total=total)


def explain(machine: LeaseMachine, series: SeriesId, ts_ms: int) -> LeaseExplanation:
    """Say in a sentence who works on a bar, or why nobody does."""
    state = machine.state
    row = state.series.get((series.dataset, series.symbol))
    holder: Lease | None = None
    if row is None:
        word, sentence = "unknown", "Nobody ever asked for this series."
    else:
        at = ts_ms - ts_ms % row.interval_ms
        piece = row.tasks.at(at)
        if piece is not None and type(piece[2]) is Lease:
            holder = piece[2]
        word, sentence = _explain(state, row, at)
    return LeaseExplanation(
        series=series,
        ts_ms=ts_ms,
        state=word,
        sentence=sentence,
        lease=None if holder is None else lease_view(state, holder),
    )


def _explain(state: State, row: Series, at: int) -> tuple[str, str]:
    fact, task = _value(row.facts.at(at)), _value(row.tasks.at(at))
    if type(task) is Lease:
        left_ms = task.deadline_ms - state.clock_ms
        if left_ms > 0:
            return "leased", f"Worker {task.worker.id} holds it for another {left_ms} ms."
        return "lock_delay", "Its lease expired; nobody gets it until the lock-delay has passed."
    if fact is not None and row.redo.at(at) is None:
        return _explain_fact(fact)
    wants = [want for want in row.wants.values() if bars_within(want.ranges, at, at + 1, 1)]
    if not wants:
        reason = unlisted_reason(row, at)
        extra = f" It is {reason.value}." if reason is not None else ""
        return "unwanted", f"No unfinished backfill wants it.{extra}"
    if type(task) is Waiting and task.not_before_ms > state.clock_ms:
        wait_ms = task.not_before_ms - state.clock_ms
        return "waiting", f"It waits another {wait_ms} ms: {task.note}."
    active = [want for want in wants if want.backfill.state is BackfillState.ACTIVE]
    if not active:
        return "paused", f"Only paused backfills want it: {wants[0].backfill.id}."
    source = state.sources.get(row.dataset.spec.source)
    if source is not None and source.is_paused:
        return "paused", f"Source {source.name} is paused."
    if source is not None and source.breaker_until_ms > state.clock_ms:
        left_ms = source.breaker_until_ms - state.clock_ms
        return "breaker", f"Source {source.name} asked everybody to wait another {left_ms} ms."
    best = min(active, key=lambda want: want.backfill.order).backfill.id
    spec = row.dataset.spec
    return "open", (
        f"It is due for backfill {best}; a worker with source {spec.source} and store "
        f"{spec.store} has to ask for it."
    )


def _explain_fact(fact: Fact) -> tuple[str, str]:
    if type(fact) is Covered:
        return "covered", f"It is covered at gen {fact.gen}."
    if type(fact) is Gap:
        return "gap", f"It is proved absent at the source: {fact.reason.value}."
    assert type(fact) is Violation
    return "violated", f"It was given up: {fact.reason}. A redo would try again."


def _value(piece: tuple[int, int, V] | None) -> V | None:
    return None if piece is None else piece[2]


def _hull(row: Series | None, start_ms: int | None, end_ms: int | None) -> Span:
    """Return the asked range, on the grid, with its open ends closed by what is known."""
    if row is None:
        return (start_ms or 0, end_ms or start_ms or 0)
    ends = [(m.starts[0], m.ends[-1]) for m in (row.facts, row.tasks) if m]
    ends += [(want.ranges[0][0], want.ranges[-1][1]) for want in row.wants.values()]
    low = min((a for a, _ in ends), default=0) if start_ms is None else start_ms
    high = max((b for _, b in ends), default=low) if end_ms is None else end_ms
    interval_ms = row.interval_ms
    return (low - low % interval_ms, high + -high % interval_ms)


def _facts_as_of(
    state: State, row: Series, low: int, high: int, as_of: int | None
) -> tuple[list[tuple[int, int, Fact]], list[Span]]:
    """Return the facts of a range with the values of a rev, and where nobody knows them any more.

    The ledger is walked back from the newest restatement. Bars covered later are served as they
    are now: ``as_of`` fixes values, not extent. Where the ledger was trimmed, a gen above 0 may
    have had an older value that is not known: ``restated``.
    """
    if as_of is None or as_of >= state.rev:
        return row.facts.within(low, high), []
    then: IntervalMap[Fact] = new_facts()
    then.load(row.facts.within(low, high))
    for change in reversed(state.restatements):
        if change.rev <= as_of:
            break
        if (change.dataset, change.symbol) != (row.dataset.name, row.symbol):
            continue
        before = new_facts()
        old = Covered(change.gen_before, change.rows_before, change.digest_before)
        before.put(change.start_ms, change.end_ms, old)
        for s, e, fact in before.within(low, high):
            then.put(s, e, fact)
    if as_of >= state.ledger_floor_rev:
        return list(then), []
    known: list[tuple[int, int, Fact]] = []
    unknown: list[Span] = []
    for s, e, fact in then:
        if type(fact) is Covered and fact.gen > 0:
            unknown.append((s, e))
        else:
            known.append((s, e, fact))
    return known, unknown


def _covered(facts: list[tuple[int, int, Fact]]) -> list[CoveredView]:
    return [
        CoveredView(
            start_ms=s,
            end_ms=e,
            gen=fact.gen,
            rows=fact.rows,
            content_digest=None if fact.content_digest is None else f"{fact.content_digest:032x}",
        )
        for s, e, fact in facts
        if type(fact) is Covered
    ]


def _gaps(row: Series, facts: list[tuple[int, int, Fact]]) -> list[GapView]:
    found = []
    for s, e, fact in facts:
        if type(fact) is not Gap:
            continue
        receipt = fact.receipt
        if receipt is None:  # it rests on the series' listing date
            date = row.listed_from if fact.reason.value == "not_listed" else row.delisted_at
            receipt = None if date is None else date.receipt
        found.append(GapView(start_ms=s, end_ms=e, reason=fact.reason, receipt=receipt))
    return found


def _violated(
    row: Series, facts: list[tuple[int, int, Fact]], low: int | None, high: int | None
) -> list[ViolatedView]:
    found = [
        ViolatedView(start_ms=s, end_ms=e, reason=fact.reason, detail=fact.detail)
        for s, e, fact in facts
        if type(fact) is Violation
    ]
    if row.redo_failed:
        first = row.redo_failed.starts[0] if low is None else low
        last = row.redo_failed.ends[-1] if high is None else high
        found += [
            ViolatedView(
                start_ms=s, end_ms=e, reason=mark.reason, detail=mark.detail, redo_failed=True
            )
            for s, e, mark in row.redo_failed.within(first, last)
        ]
        found.sort(key=lambda view: view.start_ms)
    return found


def _in_flight(state: State, row: Series, low: int, high: int) -> list[InFlightView]:
    """Return what is leased, waiting, or wanted and open."""
    found = []
    for s, e, task in row.tasks.within(low, high):
        if type(task) is Lease:
            found.append(
                InFlightView(
                    start_ms=s,
                    end_ms=e,
                    state="leased",
                    holder=task.worker.id,
                    eta_ms=max(0, task.deadline_ms - state.clock_ms),
                    backfills=_wanting(row, s, e),
                )
            )
        elif type(task) is Waiting:
            found.append(
                InFlightView(
                    start_ms=s,
                    end_ms=e,
                    state="waiting",
                    eta_ms=max(0, task.not_before_ms - state.clock_ms),
                    backfills=_wanting(row, s, e),
                    note=task.note,
                )
            )
    for start, end in wanted_within(row, low, high):
        for hole_start, hole_end in row.tasks.holes(start, end):
            for s, e in unfinished(row, hole_start, hole_end):
                found.append(
                    InFlightView(start_ms=s, end_ms=e, state="open", backfills=_wanting(row, s, e))
                )
    found.sort(key=lambda view: view.start_ms)
    return found


def _wanting(row: Series, start: int, end: int) -> tuple[str, ...]:
    return tuple(
        want.backfill.id
        for want in row.wants.values()
        if any(a < end and b > start for a, b in want.ranges)
    )
