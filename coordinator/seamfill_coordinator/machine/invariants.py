"""The promises S1–S12 of lease-machine.md as checks over a machine.

Owns the recomputation of every cache and counter from the tables, and the comparison of two moments
of one machine. Far too slow for production; tests and simulation run it after every command, and
``--validate`` on demand. S6 (no better bar skipped) is proved by the naive model, S8 (``apply``
never raises) by fuzzing, S9 and S10 by ``verify_copies``.
"""

from __future__ import annotations

from typing import ClassVar

from seamfill.errors import SeamfillError
from seamfill_coordinator.machine.digest import hash_row, state_digest
from seamfill_coordinator.machine.facts import segments, unfinished, wanted_within
from seamfill_coordinator.machine.interval_map import IntervalMap
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.model import (
    DIGEST_MODULUS,
    Backfill,
    BackfillState,
    Covered,
    Fact,
    Gap,
    Lease,
    Row,
    Series,
    State,
    Waiting,
)
from seamfill_coordinator.machine.rows import encode_row
from seamfill_coordinator.machine.schedule import probe

__all__ = ["InvariantBroken", "Watch", "check", "verify_copies"]


class InvariantBroken(SeamfillError):
    """The machine's state contradicts itself: a bug; keep the log and report it."""

    code: ClassVar[str] = "invariant_broken"


class Watch:
    """Checks a machine after every command, and that its history only went forward."""

    def __init__(self) -> None:
        self._numbers: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._ratios: dict[str, float] = {}
        self._facts: dict[tuple[str, str], tuple[int, list[tuple[int, int, Fact]]]] = {}
        self._fences: set[int] = set()
        self._sizes: dict[str, int] = {}

    def check(self, machine: LeaseMachine) -> None:
        """Raise ``InvariantBroken`` when the present state, or the step to it, breaks a promise."""
        check(machine)
        state = machine.state
        numbers = (state.rev, state.clock_ms, state.fence, state.term)
        for name, before, now in zip(
            ("rev", "clock_ms", "fence", "term"), self._numbers, numbers, strict=True
        ):
            _require(now >= before, f"S1: {name} went from {before} to {now}")
        for fence in state.leases.keys() - self._fences:
            _require(fence > self._numbers[2], f"S2: fence {fence} was issued before")
        self._numbers, self._fences = numbers, set(state.leases)
        self._check_caps(state)
        for series in state.series.values():
            self._check_facts(series)
        for backfill in state.backfills.values():
            ratio = _ratio(backfill)
            highest = self._ratios.get(backfill.id, 0.0)
            _require(ratio >= highest, f"S11: {backfill.id} fell from {highest} to {ratio}")
            self._ratios[backfill.id] = ratio

    def _check_caps(self, state: State) -> None:
        """S7: no table above its cap grows (it may be above after ``SetLimits``)."""
        sizes = _sizes(state)
        for name, size in sizes.items():
            cap = max(getattr(state.limits, name), self._sizes.get(name, 0))
            _require(size <= cap, f"S7: {size} {name}")
        self._sizes = sizes

    def _check_facts(self, series: Series) -> None:
        """S4: a fact stays, or gives way to one of a redo: a covered bar only to a higher gen, or
        to a gap of it; and nothing changes without a new ``coverage_rev``."""
        key = (series.dataset.name, series.symbol)
        seen = self._facts.get(key)
        facts = list(series.facts)
        self._facts[key] = (series.coverage_rev, facts)
        if seen is None:
            return
        rev, before = seen
        if rev == series.coverage_rev:
            _require(before == facts, f"S4: facts of {key} changed at one coverage_rev")
            return
        for start, end, old in before:
            _require(not series.facts.holes(start, end), f"S4: a fact of {key} vanished")
            for s, e, new in series.facts.overlapping(start, end):
                if type(old) is not Covered:
                    continue
                if type(new) is Covered and new.gen == old.gen:
                    continue
                _require(
                    type(new) is not Covered or new.gen > old.gen,
                    f"S4: {key} [{s}, {e}) fell from gen {old.gen} to {new.gen}",
                )
                _require(type(new) in (Covered, Gap), f"S4: {key} [{s}, {e}) lost a covered bar")


def check(machine: LeaseMachine) -> None:
    """Raise ``InvariantBroken`` when the state contradicts itself."""
    state = machine.state
    for series in state.series.values():
        _check_series(state, series)
    for backfill in state.backfills.values():
        _check_backfill(state, backfill)
    _check_leases(state)
    _check_caches(state)
    _check_digest(state)


def verify_copies(machine: LeaseMachine) -> None:
    """S10: a restored copy has the same bytes and digest, and itself holds every invariant."""
    data = machine.snapshot()
    copy = LeaseMachine.restore(data)
    check(copy)
    _require(copy.snapshot() == data, "S10: the restored state has another snapshot")
    _require(copy.state_digest() == machine.state_digest(), "S10: another digest after restore")


def _check_series(state: State, series: Series) -> None:
    name = f"{series.dataset.name}/{series.symbol}"
    maps: dict[str, IntervalMap[object]] = {
        "facts": series.facts,  # type: ignore[dict-item]  # read only, so covariance is safe
        "tasks": series.tasks,  # type: ignore[dict-item]
        "redo": series.redo,  # type: ignore[dict-item]
        "redo_failed": series.redo_failed,  # type: ignore[dict-item]
        "quiet": series.quiet,  # type: ignore[dict-item]
    }
    for label, pieces in maps.items():
        at = -1
        for start, end, _ in pieces:
            _require(at <= start < end, f"S5: {label} of {name} overlap at {start}")
            _require(
                start % series.interval_ms == 0 and end % series.interval_ms == 0,
                f"S5: {label} of {name} leave the grid at {start}",
            )
            at = end
    for start, end, task in series.tasks:
        if type(task) is Waiting:
            _require(
                wanted_within(series, start, end) == [(start, end)],
                f"S5: {name} [{start}, {end}) waits though nobody wants it",
            )
            _require(
                unfinished(series, start, end) == [(start, end)],
                f"S5: {name} [{start}, {end}) waits though it is finished",
            )
        else:
            for a, b, fact, is_pending in segments(series, start, end):
                _require(
                    fact is None or is_pending or not wanted_within(series, a, b),
                    f"S5: {name} [{a}, {b}) is leased and finished",
                )
    for start, end, _ in series.redo:
        free = [part for part in series.tasks.holes(start, end) if part]
        for a, b in free:
            _require(
                wanted_within(series, a, b) == [(a, b)],
                f"S5: a redo is pending on {name} [{a}, {b}) and nobody wants it",
            )
    for start, end, until_ms in series.quiet:
        _require(until_ms > state.clock_ms, f"S12: {name} [{start}, {end}) is quiet for too long")
    _require(len(series.facts) <= state.limits.fragments_per_series + 2_560, f"S7: {name} facts")


def _check_backfill(state: State, backfill: Backfill) -> None:
    name = backfill.id
    is_open = backfill.state.is_open
    _require(bool(backfill.wants) == (is_open and backfill.bars > 0), f"S12: wants of {name}")
    if not is_open:
        return
    _require(backfill.open_bars > 0, f"S12: {name} has nothing open and is not finished")
    open_bars, fact_bars = 0, [0, 0, 0]
    for want in backfill.wants:
        series = want.series
        _require(series.wants.get(backfill.sequence) is want, f"S12: {name} is not wanting")
        for start, end in want.ranges:
            for a, b, fact, is_pending in segments(series, start, end):
                bars = (b - a) // series.interval_ms
                open_bars += bars if fact is None or is_pending else 0
                if fact is not None:
                    fact_bars[fact.kind] += bars
        if backfill.state is BackfillState.ACTIVE:
            _check_frontier(state, backfill, want.series, want.ranges, want.position)
            if want.position >= 0:
                _require(
                    any(w is want and at == want.position for _, _, at, w in backfill.heap),
                    f"S12: {name} lost the frontier of {series.symbol}",
                )
                _require(backfill.is_ready, f"S12: {name} has work and is not ready")
    _require(open_bars == backfill.open_bars, f"S12: {name} counts {backfill.open_bars} open")
    _require(fact_bars == backfill.fact_bars, f"S12: {name} counts {backfill.fact_bars}")


def _check_frontier(
    state: State,
    backfill: Backfill,
    series: Series,
    ranges: list[tuple[int, int]],
    position: int,
) -> None:
    for start, end in ranges:
        at = start
        stop = end if position < 0 else min(end, position)
        while at < stop:
            is_eligible, at_end, _, _ = probe(series, at, state.clock_ms)
            _require(
                not is_eligible,
                f"S12: {backfill.id} passed by {series.symbol} at {at} (frontier {position})",
            )
            at = at_end


def _check_leases(state: State) -> None:
    held: dict[int, int] = {}
    waiting = gaps = 0
    for series in state.series.values():
        for start, end, task in series.tasks:
            if type(task) is Lease:
                _require(state.leases.get(task.fence) is task, f"S3: {task.fence} is no lease")
                _require(task.series is series, f"S3: lease {task.fence} is in another series")
                _require(
                    task.start_ms <= start and end <= task.end_ms,
                    f"S3: lease {task.fence} holds more than its window",
                )
                held[task.fence] = held.get(task.fence, 0) + end - start
            else:
                waiting += 1
        gaps += sum(1 for _, _, fact in series.facts if type(fact) is Gap)
    for fence, lease in state.leases.items():
        _require(fence <= state.fence, f"S2: fence {fence} was never issued")
        _require(held.get(fence) == lease.left_ms, f"S3: lease {fence} counts what it holds wrong")
        _require(lease.worker.leases.get(fence) is lease, f"S12: {fence} is not its worker's")
        _require(
            any(f == fence and at <= lease.deadline_ms for at, f in state.deadlines),
            f"S12: nobody watches the deadline of {fence}",
        )
    _require(
        sum(len(worker.leases) for worker in state.workers.values()) == len(state.leases),
        "S12: workers hold other leases than there are",
    )
    _require(waiting == state.waiting_count, f"S12: {state.waiting_count} waiting, not {waiting}")
    _require(gaps == state.gap_count, f"S12: {state.gap_count} gaps counted, not {gaps}")


def _check_caches(state: State) -> None:
    due = set(state.due)
    for series in state.series.values():
        for start, _, task in series.tasks:
            if type(task) is Waiting and task.not_before_ms > state.clock_ms:
                entry = (task.not_before_ms, series.number, start)
                _require(entry in due, f"S12: nobody wakes {series.symbol} at {start}")
        for _, _, until_ms in series.quiet:
            _require(
                any(at == until_ms and number == series.number for at, number, _ in due),
                f"S12: nobody ends the quiet of {series.symbol}",
            )
        for backfill_sequence, want in series.wants.items():
            _require(want.backfill.sequence == backfill_sequence, "S12: a want has lost its owner")
            _require(want.backfill.state.is_open, f"S12: {want.backfill.id} is finished and wants")
    for group, ready in state.ready.items():
        _require([order for order, _ in ready] == sorted(o for o, _ in ready), "S12: ready order")
        for _, backfill in ready:
            _require(backfill.is_ready, f"S12: {backfill.id} is ready and does not know it")
            _require(backfill.state is BackfillState.ACTIVE, f"S12: {backfill.id} is not active")
            _require(backfill.dataset.group == group, f"S12: {backfill.id} is in a wrong group")
    active: dict[tuple[str, str], int] = {}
    for backfill in state.backfills.values():
        if backfill.state is BackfillState.ACTIVE:
            active[backfill.dataset.group] = active.get(backfill.dataset.group, 0) + 1
    _require(active == state.active_groups, "S12: active groups")
    stored = sum(len(r) for s in state.sessions.values() for r in s.replies.values())
    _require(stored == state.session_bytes, "S12: bytes of sessions")
    live = sum(len(namespace.live) for namespace in state.namespaces.values())
    _require(live == len(state.claims), "S12: live claims")


def _sizes(state: State) -> dict[str, int]:
    return {
        "series": len(state.series),
        "datasets": len(state.datasets),
        "leases": len(state.leases),
        "workers": len(state.workers),
        "sessions": len(state.sessions),
        "sources": len(state.sources),
        "claims": len(state.claims),
        "claims_done": len(state.claims_done),
        "completions": len(state.completions),
        "restatements": len(state.restatements),
        "events": len(state.events),
        "finished_backfills": len(state.finished),
        "backfills": len(state.backfills) - len(state.finished),
        "gaps": state.gap_count,
    }


def _check_digest(state: State) -> None:
    """S12 for the digest: the running sum equals a sum over the tables from nothing."""
    state_digest(state)
    rows: list[Row] = [
        *state.datasets.values(),
        *state.series.values(),
        *state.workers.values(),
        *state.sources.values(),
        *state.leases.values(),
        *state.backfills.values(),
        *state.sessions.values(),
        *state.namespaces.values(),
        *state.claims.values(),
        *state.members.values(),
        *state.restatements,
        *state.completions,
    ]
    for row in rows:
        _require(row.row_digest == hash_row(row), f"S12: a {type(row).__name__} changed unnoticed")
        _require(row.encoded == encode_row(row), f"S12: a {type(row).__name__} kept old bytes")
    total = sum(row.row_digest for row in rows) % DIGEST_MODULUS
    _require(total == state.digest_sum, "S12: the digest's sum")


def _ratio(backfill: Backfill) -> float:
    if not backfill.bars:
        return 1.0
    return (backfill.fact_bars[Covered.kind] + backfill.fact_bars[Gap.kind]) / backfill.bars


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvariantBroken(message)
