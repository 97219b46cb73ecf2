"""Submit: a wanted set joins the series, once.

Owns validation of requests, registration of datasets and series, redo, and the plan that is
answered. Must not know leases beyond ending those that a restatement overlaps.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import DatasetSpec, GapReason, Redo
from seamfill_coordinator.machine.commands import Submit
from seamfill_coordinator.machine.ending import end_for_redo
from seamfill_coordinator.machine.facts import (
    order_again,
    outside_listing,
    segments,
    unfinished,
)
from seamfill_coordinator.machine.finishing import finish_if_done
from seamfill_coordinator.machine.model import (
    FOREVER_MS,
    Backfill,
    BackfillState,
    Dataset,
    Gap,
    Series,
    State,
    Violation,
    Want,
)
from seamfill_coordinator.machine.outcomes import Accepted, Outcome, Rejected, RejectReason
from seamfill_coordinator.machine.schedule import activate, reopen
from seamfill_coordinator.machine.tables import MAX_TIME_MS, emit, invalid, is_name, refused, touch
from seamfill_coordinator.machine.tasks import apply_listing

__all__ = ["submit"]

MAX_WANTED: Final = 2_000
MAX_WINDOW_BARS: Final = 100_000
MAX_INTERVAL_MS: Final = 366 * 86_400_000
MAX_PRIORITY: Final = 1_000
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_ENCODER: Final = msgspec.msgpack.Encoder()

Ranges = dict[str, list[tuple[int, int]]]


def submit(state: State, op: Submit) -> Outcome:
    """Add a wanted set, or say what keeps it out; nothing changes when refused or on a dry run."""
    problem = _check(op) or _check_spec(state, op)
    if problem is not None:
        return problem
    requested = _fingerprint(op)
    known = state.backfills.get(op.backfill_id) if op.backfill_id else None
    if known is not None:
        if known.requested != requested:
            return refused(
                RejectReason.BACKFILL_CONFLICT,
                f"backfill {op.backfill_id!r} exists with another requested set",
            )
        return msgspec.structs.replace(known.plan, repeated=True, dry_run=op.dry_run)
    ranges = _normalise(op)
    problem = _check_limits(state, op, ranges)
    if problem is not None:
        return problem
    plan = _plan(state, op, ranges)
    if op.dry_run:
        return plan
    _add(state, op, ranges, plan, requested)
    return plan


def _check(op: Submit) -> Rejected | None:
    if op.backfill_id and not _ID.fullmatch(op.backfill_id):
        return invalid("backfill_id", "must be 1-100 letters, digits, '.', '_', ':' or '-'")
    if not is_name(op.dataset):
        return invalid("dataset", "must be 1-200 characters without control characters and '|'")
    for part in ("kind", "source", "store"):
        if not is_name(getattr(op.spec, part)):
            return invalid(f"spec.{part}", "must be 1-200 characters, no control characters or '|'")
    if not 1 <= op.spec.interval_ms <= MAX_INTERVAL_MS:
        return invalid("spec.interval_ms", f"must be 1 to {MAX_INTERVAL_MS}")
    if not 1 <= op.window_bars <= MAX_WINDOW_BARS:
        return invalid("window_bars", f"must be 1 to {MAX_WINDOW_BARS}")
    if abs(op.priority) > MAX_PRIORITY:
        return invalid("priority", f"must be -{MAX_PRIORITY} to {MAX_PRIORITY}")
    if op.deadline_ms is not None and not 0 <= op.deadline_ms <= MAX_TIME_MS:
        return invalid("deadline_ms", "is no time in epoch milliseconds")
    if not 0 <= op.closed_before_ms <= MAX_TIME_MS:
        return invalid("closed_before_ms", "is no time in epoch milliseconds")
    if not 1 <= len(op.wanted) <= MAX_WANTED:
        return invalid("wanted", f"must hold 1 to {MAX_WANTED} ranges")
    return _check_wanted(op)


def _check_wanted(op: Submit) -> Rejected | None:
    interval_ms = op.spec.interval_ms
    for i, wanted in enumerate(op.wanted):
        if not is_name(wanted.symbol):
            return invalid(
                f"wanted[{i}].symbol", "must be 1-200 characters, no control characters or '|'"
            )
        if wanted.start_ms < 0 or wanted.start_ms % interval_ms:
            return invalid(f"wanted[{i}].start_ms", f"is not on the grid of {interval_ms} ms")
        if wanted.end_ms > MAX_TIME_MS or wanted.end_ms % interval_ms:
            return invalid(f"wanted[{i}].end_ms", f"is not on the grid of {interval_ms} ms")
        if wanted.start_ms >= wanted.end_ms:
            return invalid(f"wanted[{i}].start_ms", "must be before end_ms")
    return None


def _check_spec(state: State, op: Submit) -> Rejected | None:
    dataset = state.datasets.get(op.dataset)
    if dataset is None or dataset.spec == op.spec:
        return None
    for part in DatasetSpec.__struct_fields__:
        registered, requested = getattr(dataset.spec, part), getattr(op.spec, part)
        if registered != requested:
            return Rejected(
                reason=RejectReason.SPEC_CONFLICT,
                field=f"spec.{part}",
                detail=f"dataset {op.dataset!r} is registered with {registered!r}",
            )
    return None


def _check_limits(state: State, op: Submit, ranges: Ranges) -> Rejected | None:
    limits = state.limits
    if op.dataset not in state.datasets and len(state.datasets) >= limits.datasets:
        return refused(RejectReason.LIMIT_EXCEEDED, f"{limits.datasets} datasets are registered")
    new = sum(1 for symbol in ranges if (op.dataset, symbol) not in state.series)
    if len(state.series) + new > limits.series:
        return refused(RejectReason.LIMIT_EXCEEDED, f"more than {limits.series} series")
    if len(state.backfills) - len(state.finished) >= limits.backfills:
        return refused(RejectReason.LIMIT_EXCEEDED, f"{limits.backfills} backfills are unfinished")
    return None


def _fingerprint(op: Submit) -> bytes:
    """Digest what was *requested*: a repetition may be clipped elsewhere and is still the same."""
    parts = (op.dataset, op.spec, op.wanted, op.window_bars, op.priority, op.deadline_ms, op.redo)
    return hashlib.blake2b(_ENCODER.encode(parts), digest_size=16).digest()


def _normalise(op: Submit) -> Ranges:
    """Clip to the last closed bar, sort and unite, symbols in the order they were named."""
    limit = op.closed_before_ms or FOREVER_MS
    limit -= limit % op.spec.interval_ms
    by_symbol: Ranges = {}
    for wanted in op.wanted:
        end = min(wanted.end_ms, limit)
        if wanted.start_ms < end:
            by_symbol.setdefault(wanted.symbol, []).append((wanted.start_ms, end))
    for symbol, spans in by_symbol.items():
        if len(spans) > 1:
            spans.sort()
            united = [spans[0]]
            for start, end in spans[1:]:
                if start <= united[-1][1]:
                    united[-1] = (united[-1][0], max(end, united[-1][1]))
                else:
                    united.append((start, end))
            by_symbol[symbol] = united
    return by_symbol


def _plan(state: State, op: Submit, ranges: Ranges) -> Accepted:
    interval_ms = op.spec.interval_ms
    cell_ms = op.window_bars * interval_ms
    requested_start = min(wanted.start_ms for wanted in op.wanted)
    kept = [span for spans in ranges.values() for span in spans]
    found = [0, 0, 0]
    windows = 0
    for symbol, spans in ranges.items():
        series = state.series.get((op.dataset, symbol))
        last_cell = -1
        for start, end in spans:
            for a, b in [(start, end)] if series is None else _to_do(series, op.redo, start, end):
                first_cell = max(a // cell_ms, last_cell + 1)
                windows += max(0, (b - 1) // cell_ms - first_cell + 1)
                last_cell = max(last_cell, (b - 1) // cell_ms)
            for s, e, fact in series.facts.within(start, end) if series is not None else ():
                found[fact.kind] += (e - s) // interval_ms
    return Accepted(
        backfill_id=op.backfill_id or _new_id(state),
        start_ms=min((a for a, _ in kept), default=requested_start),
        end_ms=max((b for _, b in kept), default=requested_start),
        requested_start_ms=requested_start,
        requested_end_ms=max(wanted.end_ms for wanted in op.wanted),
        windows=windows,
        bars=sum(b - a for a, b in kept) // interval_ms,
        already_covered=found[0],
        already_gap=found[1],
        already_violated=found[2],
        repeated=False,
        dry_run=op.dry_run,
    )


def _to_do(series: Series, redo: Redo | None, start: int, end: int) -> list[tuple[int, int]]:
    """Return what of [start, end) is, or would be by ``redo``, unfinished, inside the listing."""
    spans = unfinished(series, start, end)
    spans += [(a, b) for a, b, _ in _redone(series, redo, start, end)]
    for a, b, _ in outside_listing(series, start, end):
        spans = [
            part for s, e in spans for part in ((s, min(e, a)), (max(s, b), e)) if part[0] < part[1]
        ]
    return sorted(spans)


def _redone(series: Series, redo: Redo | None, start: int, end: int) -> list[tuple[int, int, int]]:
    """Return the parts of [start, end) that a redo opens again, with the gen they get.

    ``missing`` opens gaps and ``failed`` violated bars and failed redos, at the gen they had:
    nobody can have read a value of it. ``restated`` opens whatever was ever asked for, inside the
    listing dates, at a new gen, *also bars without a fact*: a late write of their present holder
    may carry the old values. Bars violated as ``no_right_neighbour`` are opened by every Submit.
    """
    if redo is Redo.RESTATED:
        outer = outside_listing(series, start, end)
        low = max([start, *(b for _, b, r in outer if r is GapReason.NOT_LISTED)])
        high = min([end, *(a for a, _, r in outer if r is GapReason.DELISTED)])
        return [(low, high, series.high_gen + 1)] if low < high else []
    found = []
    for a, b, fact, is_pending in segments(series, start, end):
        if fact is None or is_pending:
            continue
        is_due = (redo is Redo.MISSING and type(fact) is Gap) or (
            type(fact) is Violation and (redo is Redo.FAILED or fact.reason == "no_right_neighbour")
        )
        if is_due:
            found.append((a, b, fact.gen))
    if redo is Redo.FAILED:
        found += [(a, b, mark.gen) for a, b, mark in series.redo_failed.within(start, end)]
    return found


def _new_id(state: State) -> str:
    name = f"bf-{state.rev}"
    while name in state.backfills:  # a caller may have chosen this very id
        name += "-1"
    return name


def _add(state: State, op: Submit, ranges: Ranges, plan: Accepted, requested: bytes) -> None:
    dataset = _register(state, op)
    state.backfills_issued += 1
    deadline = FOREVER_MS if op.deadline_ms is None else op.deadline_ms
    backfill = Backfill(
        id=plan.backfill_id,
        sequence=state.backfills_issued,
        dataset=dataset,
        state=BackfillState.ACTIVE,
        window_bars=op.window_bars,
        priority=op.priority,
        deadline_ms=op.deadline_ms,
        redo=op.redo,
        requested=requested,
        plan=plan,
        wanted=list(ranges.items()),
        bars=plan.bars,
        order=(-op.priority, deadline, state.backfills_issued),
        cell_ms=op.window_bars * op.spec.interval_ms,
    )
    state.backfills[backfill.id] = backfill
    touch(state, backfill)
    series_list = [_series(state, dataset, symbol) for symbol in ranges]
    for series in series_list:
        _redo(state, series, op.redo, ranges[series.symbol])
    for series in series_list:
        _want(backfill, series, ranges[series.symbol])
    activate(state, backfill)
    for series in series_list:
        if series.listed_from is not None or series.delisted_at is not None:
            apply_listing(state, series)
    emit(
        state,
        "backfill.submitted",
        ("backfill", backfill.id, "dataset", dataset.name, "bars", backfill.bars),
    )
    finish_if_done(state, backfill)


def _register(state: State, op: Submit) -> Dataset:
    dataset = state.datasets.get(op.dataset)
    if dataset is None:
        dataset = Dataset(name=op.dataset, spec=op.spec, group=(op.spec.source, op.spec.store))
        state.datasets[op.dataset] = dataset
        touch(state, dataset)
    return dataset


def _series(state: State, dataset: Dataset, symbol: str) -> Series:
    key = (dataset.name, symbol)
    series = state.series.get(key)
    if series is None:
        series = Series(
            dataset=dataset,
            symbol=symbol,
            number=len(state.by_number),
            interval_ms=dataset.spec.interval_ms,
        )
        state.series[key] = series
        state.by_number.append(series)
        touch(state, series)
    return series


def _redo(state: State, series: Series, redo: Redo | None, spans: list[tuple[int, int]]) -> None:
    found = [part for start, end in spans for part in _redone(series, redo, start, end)]
    for start, end, gen in found:
        if redo is Redo.RESTATED:
            end_for_redo(state, series, start, end)
        if redo is Redo.MISSING:
            _forget_listing(series, start, end)
        order_again(state, series, start, end, gen)
        reopen(state, series, start)


def _forget_listing(series: Series, start: int, end: int) -> None:
    """Ask again for a listing date when the gaps that rest on it are redone."""
    for _, _, fact in series.facts.overlapping(start, end):
        if type(fact) is Gap and fact.reason is GapReason.NOT_LISTED:
            series.listed_from = None
        if type(fact) is Gap and fact.reason is GapReason.DELISTED:
            series.delisted_at = None


def _want(backfill: Backfill, series: Series, spans: list[tuple[int, int]]) -> None:
    """Let the backfill want ``spans`` and count what is there already."""
    want = Want(backfill, series, spans)
    backfill.wants.append(want)
    series.wants[backfill.sequence] = want
    interval_ms = series.interval_ms
    for start, end in spans:
        if not series.facts.touches(start, end):
            backfill.open_bars += (end - start) // interval_ms
            continue
        for a, b, fact, is_pending in segments(series, start, end):
            bars = (b - a) // interval_ms
            if fact is None or is_pending:
                backfill.open_bars += bars
            if fact is not None:
                backfill.fact_bars[fact.kind] += bars


def wanted_ranges(backfill: Backfill) -> tuple[Wanted, ...]:
    """Return a backfill's wanted set after clipping."""
    return tuple(
        Wanted(symbol=symbol, start_ms=start, end_ms=end)
        for symbol, spans in backfill.wanted
        for start, end in spans
    )
