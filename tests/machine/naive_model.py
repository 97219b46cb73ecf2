"""A model of the lease machine that is simple enough to be obviously right: one row per bar.

Owns nothing but a second opinion. Written from ``lease-machine.md`` alone, with a dict of bars per
series where the machine has interval sets, a scan where it has indexes, and no caches at all. Must
not import anything of the machine but the shapes of its commands and outcomes.

Readings of the design where its text leaves room (each is checked against the machine):

* A deadline is reached at ``clock_ms == deadline_ms``, the lock-delay ends at
  ``clock_ms == deadline_ms + 5 s``: all ranges are half-open.
* ``redo=missing`` opens gaps, ``failed`` violated bars and failed redos, at the generation they
  had. ``restated`` opens every wanted bar inside the listing dates at a new generation, those
  without a fact too, because their present holder may have read old values; it ends the leases
  that overlap those bars.
* ``redo=missing`` of gaps that rest on a listing date forgets the date: it is learnt again.
* Progress means that a lease completed at least one bar in its life. It sets the count of expiries
  back to zero, and the final Complete of such a lease counts no attempt.
* A quiet time (5 s after an end of a lease that may leave a write in flight) belongs to the bar,
  not to who wants it: cancelling and submitting again must not shorten it.
* A bar that no backfill wants any more keeps its fact; its attempts, its cursor and a pending redo
  are forgotten as soon as no lease holds it.
* ``low`` counts even in a request that is then refused: it says what the client has heard.
* A bar that nobody wants can be completed, but never becomes violated.
* A backfill that asked for a redo ends incomplete where the redo failed, though a fact stands.
* A fence is alive for a bar while a lease holds it, or while the bar waits since that lease
  expired; every other end kills it. Renew, Fail, Release, Snooze and Revoke need the lease itself.

Not modelled: source budgets by weight, table limits, the cap of 1,000 expiries a command, views.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

from msgspec.structs import replace

from machine.naive_claims import NaiveClaims
from seamfill.protocol.values import (
    CoveredRange,
    DatasetSpec,
    Directive,
    GapRange,
    GapReason,
    LeaseRef,
    Redo,
    Usage,
)
from seamfill_coordinator.machine import commands as c
from seamfill_coordinator.machine import outcomes as o
from seamfill_coordinator.machine.outcomes import Rejected, RejectReason

STEP_CAP_MS: Final = 2_000
LOCK_DELAY_MS: Final = 5_000
TTL_MIN_MS: Final = 10_000
TTL_MAX_MS: Final = 600_000
MAX_ATTEMPTS: Final = 5
MAX_EXPIRIES: Final = 20
BACKOFF_MS: Final = (1_000, 2_000, 4_000, 8_000)
SESSION_IDLE_MS: Final = 600_000
SESSION_SPAN: Final = 256

SeriesKey = tuple[str, str]
"""(dataset, symbol)."""


class Kind(Enum):
    """What is known about a bar."""

    COVERED = "covered"
    GAP = "gap"
    VIOLATED = "violated"


@dataclass(frozen=True)
class Fact:
    """What readers see. ``rev`` is when it became current, ``source`` what was completed then."""

    kind: Kind
    rev: int
    gen: int = 0
    reason: str = ""
    source: CoveredRange | None = None


@dataclass
class Bar:
    """One bar that somebody wanted once. At most one fact, at most one task."""

    fact: Fact | None = None
    history: list[Fact] = field(default_factory=list)
    redo: bool = False
    redo_failed: str | None = None
    gen: int = 0
    holder: int | None = None
    waiting: bool = False
    attempts: int = 0
    expiries: int = 0
    not_before: int = 0
    quiet_until: int = 0
    cursor: int | None = None
    late_fence: int | None = None

    @property
    def unfinished(self) -> bool:
        """Work is to be done: there is no fact, or the fact is to be replaced."""
        return self.fact is None or self.redo

    @property
    def alive_fence(self) -> int | None:
        """The one fence that may still complete this bar."""
        return self.holder if self.holder is not None else self.late_fence

    def forget_task(self) -> None:
        self.holder = None
        self.waiting = False
        self.attempts = 0
        self.expiries = 0
        self.not_before = 0
        self.cursor = None
        self.late_fence = None

    def set_fact(self, fact: Fact) -> None:
        self.fact = fact
        self.history.append(fact)
        self.redo = False
        self.redo_failed = None
        self.forget_task()

    def gen_as_of(self, rev: int) -> int:
        """What a reader of an older rev gets; later bars are served as they came."""
        gens = [fact.gen for fact in self.history if fact.kind is Kind.COVERED]
        before = [
            fact.gen for fact in self.history if fact.kind is Kind.COVERED and fact.rev <= rev
        ]
        return before[-1] if before else gens[0]

    def violate(self, reason: str, rev: int, *, told: bool) -> None:
        """End without success; a redo leaves the older fact, and is marked.

        An older violated fact takes the newer reason.
        """
        if not told:
            self.forget_task()
        elif self.redo and self.fact is not None and self.fact.kind is not Kind.VIOLATED:
            self.redo = False
            self.redo_failed = reason
            self.forget_task()
        else:
            self.set_fact(Fact(Kind.VIOLATED, rev, gen=self.gen, reason=reason))


@dataclass
class Series:
    bars: dict[int, Bar] = field(default_factory=dict)
    highest_gen: int = 0
    listed_from: int | None = None
    delisted_at: int | None = None

    def outside(self, ts: int) -> GapReason | None:
        """Say whether a bar is known not to exist because of a listing date."""
        if self.listed_from is not None and ts < self.listed_from:
            return GapReason.NOT_LISTED
        if self.delisted_at is not None and ts >= self.delisted_at:
            return GapReason.DELISTED
        return None


@dataclass
class Lease:
    fence: int
    series: SeriesKey
    start: int
    end: int
    worker: str
    deadline: int
    cursor: int | None
    attempts: int
    expiries: int
    progress: bool = False


@dataclass
class Backfill:
    id: str
    sequence: int
    request: tuple[object, ...]
    spec: DatasetSpec
    dataset: str
    wanted: dict[SeriesKey, set[int]]
    window_bars: int
    priority: int
    deadline: int | None
    redo: Redo | None
    plan: o.Accepted
    state: str = "active"

    @property
    def order(self) -> tuple[int, float, int]:
        """Smaller goes first: larger priority, earlier deadline (none is last), older backfill."""
        return (
            -self.priority,
            float("inf") if self.deadline is None else self.deadline,
            self.sequence,
        )

    def cell(self, ts: int) -> int:
        return ts // (self.window_bars * self.spec.interval_ms)


@dataclass
class Worker:
    boot: str
    dead_boots: set[str] = field(default_factory=set)
    draining: bool = False


@dataclass
class Session:
    low: int
    last_heard: int
    outcomes: dict[int, tuple[tuple[o.Outcome, ...], int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """A run of bars that could be granted now."""

    series: SeriesKey
    start: int
    end: int
    gen: int
    attempts: int
    cursor: int | None


class NaiveModel:
    """Predict every outcome and the state of every bar. ``apply`` mirrors the machine's door."""

    def __init__(self) -> None:
        self.rev = 0
        self.clock = 0
        self.fence = 0
        self.term = 0
        self.reign = 0
        self.datasets: dict[str, DatasetSpec] = {}
        self.series: dict[SeriesKey, Series] = {}
        self.leases: dict[int, Lease] = {}
        self.backfills: dict[str, Backfill] = {}
        self.workers: dict[str, Worker] = {}
        self.sessions: dict[int, Session] = {}
        self.paused_sources: set[str] = set()
        self.breakers: dict[str, int] = {}
        self.completions: dict[tuple[object, ...], tuple[str, int]] = {}
        self.claims = NaiveClaims()
        self.expired_count = 0
        self.used_clients: set[int] = set()

    # ------------------------------------------------------------------ the door

    def apply(self, command: c.Command) -> list[o.Reply]:
        self._advance(command.stamp)
        self._expire()
        return [self._request(request) for request in command.requests]

    def _advance(self, stamp: c.Stamp) -> None:
        if stamp.term < self.term:
            return
        if stamp.term > self.term:
            self.term, self.reign = stamp.term, stamp.reign_ms
            return
        self.clock += min(STEP_CAP_MS, max(0, stamp.reign_ms - self.reign))
        self.reign = max(self.reign, stamp.reign_ms)

    def _expire(self) -> None:
        for client, session in list(self.sessions.items()):
            if self.clock - session.last_heard >= SESSION_IDLE_MS:
                del self.sessions[client]
        self.claims.expire(self.clock)
        for lease in sorted(self.leases.values(), key=lambda lease: lease.fence):
            if self.clock >= lease.deadline + LOCK_DELAY_MS:
                self._expire_lease(lease)
        self._settle()

    def _expire_lease(self, lease: Lease) -> None:
        self.expired_count += 1
        expiries = (0 if lease.progress else lease.expiries) + 1
        held = self._held(lease)
        for bar in held:
            self._wait(lease, bar, not_before=self.clock)
            bar.expiries = expiries
            bar.late_fence = lease.fence
        if expiries >= MAX_EXPIRIES:
            self._violate(lease, held, "lease_expired")
        del self.leases[lease.fence]

    def _request(self, request: c.Request) -> o.Reply:
        if request.client == c.NO_CLIENT:
            return self._operations(request)
        session = self.sessions.get(request.client)
        if session is None:
            return self._refuse_all(request, RejectReason.SESSION_UNKNOWN)
        session.last_heard = self.clock
        session.low = max(session.low, request.low)
        for sequence in [s for s in session.outcomes if s < session.low]:
            del session.outcomes[sequence]
        if request.sequence < session.low:
            return self._refuse_all(request, RejectReason.SESSION_UNKNOWN)
        if request.sequence >= session.low + SESSION_SPAN:
            return self._refuse_all(request, RejectReason.INVALID)
        if request.sequence in session.outcomes:
            outcomes, rev = session.outcomes[request.sequence]
            return o.Reply(outcomes=outcomes, rev=rev, repeated=True)
        reply = self._operations(request)
        session.outcomes[request.sequence] = (reply.outcomes, reply.rev)
        return reply

    def _refuse_all(self, request: c.Request, reason: RejectReason) -> o.Reply:
        refusal = Rejected(reason=reason)
        return o.Reply(outcomes=(refusal,) * len(request.operations), rev=self.rev)

    def _operations(self, request: c.Request) -> o.Reply:
        outcomes = []
        for operation in request.operations:
            self.rev += 1
            outcomes.append(self._operation(operation))
            self._settle()
        return o.Reply(outcomes=tuple(outcomes), rev=self.rev)

    def _operation(self, operation: c.Operation) -> o.Outcome:
        match operation:
            case c.OpenSession():
                return o.Opened(client=0, expires_after_ms=SESSION_IDLE_MS)
            case c.Barrier() | c.Announce() | c.SetLimits() | c.SetVersion():
                return o.Done()
            case c.Submit():
                return self._submit(operation)
            case c.CancelBackfill():
                return self._move(operation.backfill_id, {"active", "paused"}, "cancelled")
            case c.PauseBackfill():
                return self._move(operation.backfill_id, {"active"}, "paused")
            case c.ResumeBackfill():
                return self._move(operation.backfill_id, {"paused"}, "active")
            case c.PauseSource():
                self.paused_sources.add(operation.source)
                return o.Done()
            case c.ResumeSource():
                self.paused_sources.discard(operation.source)
                return o.Done()
            case c.Acquire():
                return self._acquire(operation)
            case c.Renew():
                return self._renew(operation)
            case c.Complete():
                return self._complete(operation)
            case c.Fail():
                return self._fail(operation)
            case c.Release():
                quiet = 0 if operation.no_write_in_flight else LOCK_DELAY_MS
                return self._give_back(operation.lease, delay=quiet, quiet=quiet)
            case c.Snooze():
                self._heed(operation.usage)
                delay = max(operation.delay_ms, LOCK_DELAY_MS)
                return self._give_back(operation.lease, delay=delay, quiet=LOCK_DELAY_MS)
            case c.Revoke():
                return self._give_back(operation.lease, delay=LOCK_DELAY_MS, quiet=LOCK_DELAY_MS)
            case c.DrainWorker():
                worker = self.workers.get(operation.worker_id)
                if worker is None:
                    return Rejected(reason=RejectReason.NOT_FOUND)
                worker.draining = True
                return o.Done()
            case c.Claim():
                outcome = self.claims.claim(operation, self.clock, self.fence + 1)
                if isinstance(outcome, o.Claimed):
                    self.fence += 1
                return outcome
            case c.CompleteClaim():
                return self.claims.complete(operation, self.clock)
            case c.FailClaim():
                return self.claims.fail(operation, self.clock)
            case _:
                assert_never(operation)

    # ------------------------------------------------------------------ after every operation

    def _settle(self) -> None:
        """Apply what holds "at once": listing dates, dropped rows, finished backfills."""
        for key, series in self.series.items():
            wanted = self.wanted_bars(key)
            for ts, bar in series.bars.items():
                if ts in wanted and bar.unfinished and bar.holder is None:
                    reason = series.outside(ts)
                    if reason is not None:
                        bar.set_fact(Fact(Kind.GAP, self.rev, gen=bar.gen, reason=reason.value))
                if bar.holder is None and ts not in wanted:
                    bar.forget_task()
                    bar.redo = False
                    bar.gen = 0 if bar.fact is None else bar.fact.gen
        for backfill in self.backfills.values():
            if backfill.state in ("active", "paused"):
                self._finish(backfill)

    def wanted_bars(self, key: SeriesKey) -> set[int]:
        wanted: set[int] = set()
        for backfill in self.backfills.values():
            if backfill.state in ("active", "paused"):
                wanted |= backfill.wanted.get(key, set())
        return wanted

    def bars_of(self, backfill: Backfill) -> list[Bar]:
        return [
            self.series[key].bars[ts] for key, all_ts in backfill.wanted.items() for ts in all_ts
        ]

    def _finish(self, backfill: Backfill) -> None:
        bars = self.bars_of(backfill)
        if any(bar.unfinished for bar in bars):
            return
        failed = any(
            (bar.fact is not None and bar.fact.kind is Kind.VIOLATED)
            or (backfill.redo is not None and bar.redo_failed is not None)
            for bar in bars
        )
        backfill.state = "incomplete" if failed else "complete"

    # ------------------------------------------------------------------ backfills

    def _submit(self, submit: c.Submit) -> o.Outcome:
        refusal = self._check_submit(submit)
        if refusal is not None:
            return refusal
        interval = submit.spec.interval_ms
        requested = (
            submit.dataset, submit.spec, submit.wanted, submit.window_bars,
            submit.priority, submit.deadline_ms, submit.redo,
        )  # fmt: skip
        registered = self.datasets.get(submit.dataset)
        if registered is not None and registered != submit.spec:
            return Rejected(
                reason=RejectReason.SPEC_CONFLICT, field=_spec_difference(registered, submit.spec)
            )
        backfill_id = submit.backfill_id or f"bf-{self.rev}"
        known = self.backfills.get(backfill_id)
        if known is not None:
            if known.request != requested:
                return Rejected(reason=RejectReason.BACKFILL_CONFLICT)
            return _replace_plan(known.plan, repeated=True)
        wanted: dict[SeriesKey, set[int]] = {}
        for each in submit.wanted:
            for ts in range(each.start_ms, each.end_ms, interval):
                if submit.closed_before_ms == 0 or ts + interval <= submit.closed_before_ms:
                    wanted.setdefault((submit.dataset, each.symbol), set()).add(ts)
        backfill = Backfill(
            id=backfill_id, sequence=self.rev, request=requested, spec=submit.spec,
            dataset=submit.dataset, wanted=wanted, window_bars=submit.window_bars,
            priority=submit.priority, deadline=submit.deadline_ms, redo=submit.redo,
            plan=self._plan(submit, backfill_id, wanted),
        )  # fmt: skip
        if submit.dry_run:
            return _replace_plan(backfill.plan, dry_run=True)
        self.datasets.setdefault(submit.dataset, submit.spec)
        self.backfills[backfill_id] = backfill
        for key, all_ts in wanted.items():
            series = self.series.setdefault(key, Series())
            for ts in all_ts:
                series.bars.setdefault(ts, Bar())
            self._redo(key, all_ts, submit.redo)
        return backfill.plan

    def _check_submit(self, submit: c.Submit) -> Rejected | None:
        interval = submit.spec.interval_ms
        for index, each in enumerate(submit.wanted):
            on_grid = each.start_ms % interval == 0 and each.end_ms % interval == 0
            if not on_grid or each.start_ms >= each.end_ms:
                return Rejected(reason=RejectReason.INVALID, field=f"wanted[{index}].start_ms")
        return None

    def _plan(
        self, submit: c.Submit, backfill_id: str, wanted: dict[SeriesKey, set[int]]
    ) -> o.Accepted:
        """Count what is wanted, as it stands before this Submit's own redo."""
        kinds: list[Kind | None] = []
        cells: set[tuple[SeriesKey, int]] = set()
        cell_ms = submit.window_bars * submit.spec.interval_ms
        for key, all_ts in wanted.items():
            series = self.series.get(key, Series())
            for ts in all_ts:
                bar = series.bars.get(ts, Bar())
                kinds.append(None if bar.fact is None else bar.fact.kind)
                to_do = bar.unfinished or _is_redone(series, ts, bar, submit.redo)
                if to_do and series.outside(ts) is None:
                    cells.add((key, ts // cell_ms))
        every_ts = [ts for all_ts in wanted.values() for ts in all_ts]
        requested_start = min(each.start_ms for each in submit.wanted)
        requested_end = max(each.end_ms for each in submit.wanted)
        return o.Accepted(
            backfill_id=backfill_id,
            start_ms=min(every_ts, default=requested_start),
            end_ms=max(every_ts) + submit.spec.interval_ms if every_ts else requested_start,
            requested_start_ms=requested_start,
            requested_end_ms=requested_end,
            windows=len(cells),
            bars=len(kinds),
            already_covered=kinds.count(Kind.COVERED),
            already_gap=kinds.count(Kind.GAP),
            already_violated=kinds.count(Kind.VIOLATED),
            repeated=False,
            dry_run=False,
        )

    def _redo(self, key: SeriesKey, all_ts: set[int], redo: Redo | None) -> None:
        series = self.series[key]
        chosen = [ts for ts in sorted(all_ts) if _is_redone(series, ts, series.bars[ts], redo)]
        if redo is Redo.RESTATED:
            for lease in list(self.leases.values()):
                if lease.series == key and any(
                    series.bars[ts].holder == lease.fence for ts in chosen
                ):
                    self._end(lease, delay=LOCK_DELAY_MS, quiet=LOCK_DELAY_MS)
            ended = {series.bars[ts].late_fence for ts in chosen}
            for bar in series.bars.values():
                if bar.late_fence in ended:
                    bar.late_fence = None
            if chosen:
                series.highest_gen += 1
        for ts in chosen:
            bar = series.bars[ts]
            if redo is Redo.RESTATED:
                bar.gen = series.highest_gen
            elif bar.fact is not None and bar.redo_failed is None:
                bar.gen = bar.fact.gen
            if redo is Redo.MISSING and bar.fact is not None:
                if bar.fact.reason == GapReason.NOT_LISTED:
                    series.listed_from = None
                if bar.fact.reason == GapReason.DELISTED:
                    series.delisted_at = None
            bar.redo = bar.fact is not None
            bar.redo_failed = None

    def _move(self, backfill_id: str, allowed: set[str], to: str) -> o.Outcome:
        backfill = self.backfills.get(backfill_id)
        if backfill is None:
            return Rejected(reason=RejectReason.NOT_FOUND)
        if backfill.state == to:
            return o.Done()
        if backfill.state not in allowed:
            return Rejected(reason=RejectReason.WRONG_STATE)
        backfill.state = to
        return o.Done()

    # ------------------------------------------------------------------ grants

    def _acquire(self, acquire: c.Acquire) -> o.Outcome:
        me = acquire.worker
        worker = self.workers.setdefault(me.id, Worker(boot=me.boot))
        if me.boot in worker.dead_boots:
            return Rejected(reason=RejectReason.WORKER_REPLACED)
        if me.boot != worker.boot:
            for lease in [lease for lease in self.leases.values() if lease.worker == me.id]:
                self._end(lease, delay=LOCK_DELAY_MS, quiet=LOCK_DELAY_MS)
            self._settle()
            worker.dead_boots.add(worker.boot)
            worker.boot = me.boot
            worker.draining = False
        windows = [] if worker.draining else self.windows(acquire)
        grants = [self._grant(acquire, window) for window in windows[: acquire.max_windows]]
        if not grants:
            return o.Nothing(retry_after_ms=0, why="")
        return o.Granted(grants=tuple(grants))

    def windows(self, acquire: c.Acquire) -> list[Window]:
        """All windows this worker could be granted now, best first."""
        found = []
        for key, series in self.series.items():
            spec = self.datasets[key[0]]
            if not self._serves(acquire, spec):
                continue
            run: list[int] = []
            label: object = None
            best: Backfill | None = None
            for ts in sorted(series.bars):
                bar = series.bars[ts]
                winner = self._winner(key, ts) if self._grantable(series, ts) else None
                if winner is None:
                    here: object = None
                else:
                    here = (winner.id, winner.cell(ts), bar.gen, bar.attempts, bar.cursor)
                follows = bool(run) and run[-1] + spec.interval_ms == ts
                if run and not (follows and here == label):
                    found.append(self._window(key, run, best))
                    run = []
                if here is not None:
                    run.append(ts)
                label, best = here, winner
            if run:
                found.append(self._window(key, run, best))
        return [window for _, window in sorted(found, key=lambda pair: pair[0])]

    def _window(
        self, key: SeriesKey, run: list[int], winner: Backfill | None
    ) -> tuple[tuple[object, ...], Window]:
        assert winner is not None
        bar = self.series[key].bars[run[0]]
        window = Window(
            series=key, start=run[0], end=run[-1] + winner.spec.interval_ms, gen=bar.gen,
            attempts=bar.attempts, cursor=bar.cursor,
        )  # fmt: skip
        cell_start = winner.cell(run[0]) * winner.window_bars * winner.spec.interval_ms
        return (*winner.order, cell_start, key, run[0]), window

    def _serves(self, acquire: c.Acquire, spec: DatasetSpec) -> bool:
        if spec.source in self.paused_sources or self.clock < self.breakers.get(spec.source, 0):
            return False
        offered = any(offer.source == spec.source for offer in acquire.offers)
        stored = any(
            spec.store.startswith(store[:-1]) if store.endswith("*") else spec.store == store
            for store in acquire.stores
        )
        return offered and stored

    def _grantable(self, series: Series, ts: int) -> bool:
        bar = series.bars[ts]
        due = self.clock >= max(bar.not_before, bar.quiet_until)
        return bar.unfinished and bar.holder is None and due

    def _winner(self, key: SeriesKey, ts: int) -> Backfill | None:
        wanting = [
            backfill
            for backfill in self.backfills.values()
            if backfill.state == "active" and ts in backfill.wanted.get(key, set())
        ]
        return min(wanting, key=lambda backfill: backfill.order, default=None)

    def _grant(self, acquire: c.Acquire, window: Window) -> o.Grant:
        self.fence += 1
        ttl = min(TTL_MAX_MS, max(TTL_MIN_MS, acquire.ttl_ms))
        series = self.series[window.series]
        spec = self.datasets[window.series[0]]
        bars = [series.bars[ts] for ts in range(window.start, window.end, spec.interval_ms)]
        self.leases[self.fence] = Lease(
            fence=self.fence, series=window.series, start=window.start, end=window.end,
            worker=acquire.worker.id, deadline=self.clock + ttl, cursor=window.cursor,
            attempts=window.attempts, expiries=max(bar.expiries for bar in bars),
        )  # fmt: skip
        for bar in bars:
            bar.forget_task()
            bar.holder = self.fence
        return o.Grant(
            dataset=window.series[0],
            symbol=window.series[1],
            start_ms=window.start,
            end_ms=window.end,
            gen=window.gen,
            fence=self.fence,
            ttl_ms=ttl,
            spec=spec,
            cursor_ms=window.cursor,
            attempts=window.attempts,
            listed_from_ms=series.listed_from,
            delisted_at_ms=series.delisted_at,
        )

    # ------------------------------------------------------------------ a lease's life

    def _held(self, lease: Lease) -> list[Bar]:
        bars = self.series[lease.series].bars
        return [bars[ts] for ts in sorted(bars) if bars[ts].holder == lease.fence]

    def _wait(self, lease: Lease, bar: Bar, *, not_before: int) -> None:
        bar.forget_task()
        bar.waiting = True
        bar.attempts = lease.attempts
        bar.expiries = 0 if lease.progress else lease.expiries
        bar.cursor = lease.cursor
        bar.not_before = not_before

    def _violate(self, lease: Lease, bars: list[Bar], reason: str) -> None:
        """End bars without success; nobody is told about those that nobody wants any more."""
        series = self.series[lease.series]
        told = {
            id(series.bars[ts])
            for ts in self.wanted_bars(lease.series)
            if series.outside(ts) is None
        }
        for bar in bars:
            bar.violate(reason, self.rev, told=id(bar) in told)

    def _end(self, lease: Lease, *, delay: int, quiet: int, attempts: int | None = None) -> None:
        """End a lease for good: what it still holds waits, and its fence is dead."""
        if attempts is not None:
            lease.attempts = attempts
        for bar in self._held(lease):
            self._wait(lease, bar, not_before=self.clock + delay)
            bar.quiet_until = self.clock + quiet
        del self.leases[lease.fence]

    def _find(self, ref: LeaseRef) -> Lease | None:
        lease = self.leases.get(ref.fence)
        if lease is None or lease.series != (ref.series.dataset, ref.series.symbol):
            return None
        return lease

    def _stale(self, ref: LeaseRef) -> Rejected:
        """Refuse a dead fence, and say whether its bars are covered all the same."""
        key = (ref.series.dataset, ref.series.symbol)
        bars = self.series[key].bars if key in self.series else {}
        inside = [bars[ts] for ts in sorted(bars) if ref.start_ms <= ts < ref.end_ms]
        covered = bool(inside) and all(
            bar.fact is not None and bar.fact.kind is Kind.COVERED for bar in inside
        )
        return Rejected(reason=RejectReason.STALE_FENCE, covered=covered)

    def _late(self, ref: LeaseRef) -> list[Bar]:
        """Bars that wait because this fence expired, and for which it is still the latest."""
        key = (ref.series.dataset, ref.series.symbol)
        bars = self.series[key].bars if key in self.series else {}
        return [bar for bar in bars.values() if bar.late_fence == ref.fence]

    def _heed(self, usage: tuple[Usage, ...]) -> None:
        for each in usage:
            if each.penalty_ms:
                until = self.clock + each.penalty_ms
                self.breakers[each.source] = max(self.breakers.get(each.source, 0), until)

    def _renew(self, renew: c.Renew) -> o.Outcome:
        self._heed(renew.usage)
        lease = self._find(renew.lease)
        if lease is None:
            if self._late(renew.lease):
                return Rejected(reason=RejectReason.EXPIRED)
            return self._stale(renew.lease)
        if self.clock >= lease.deadline:
            return Rejected(reason=RejectReason.EXPIRED)
        if renew.cursor_ms is not None:
            lease.cursor = renew.cursor_ms
        ttl = min(TTL_MAX_MS, max(TTL_MIN_MS, renew.ttl_ms))
        lease.deadline = max(lease.deadline, self.clock + ttl)
        return o.Renewed(ttl_ms=lease.deadline - self.clock, directive=self._directive(lease))

    def _directive(self, lease: Lease) -> Directive:
        wanting = {
            backfill.state
            for backfill in self.backfills.values()
            if backfill.state in ("active", "paused")
            and any(lease.start <= ts < lease.end for ts in backfill.wanted.get(lease.series, ()))
        }
        if not wanting:
            return Directive.CANCEL
        if self.workers[lease.worker].draining:
            return Directive.DRAIN
        paused = self.datasets[lease.series[0]].source in self.paused_sources
        if paused or wanting == {"paused"}:
            return Directive.PAUSE
        return Directive.CONTINUE

    def _fail(self, fail: c.Fail) -> o.Outcome:
        self._heed(fail.usage)
        lease = self._find(fail.lease)
        if lease is None:
            return self._stale(fail.lease)
        attempts = lease.attempts + 1
        if not fail.retryable or attempts >= MAX_ATTEMPTS:
            held = self._held(lease)
            for bar in held:
                bar.quiet_until = self.clock + LOCK_DELAY_MS
            self._violate(lease, held, fail.code)
            del self.leases[lease.fence]
            return o.Violated(reason=fail.code)
        delay = max(BACKOFF_MS[attempts - 1], fail.delay_ms, LOCK_DELAY_MS)
        self._end(lease, delay=delay, quiet=LOCK_DELAY_MS, attempts=attempts)
        return o.Requeued(delay_ms=delay, attempts=attempts)

    def _give_back(self, ref: LeaseRef, *, delay: int, quiet: int) -> o.Outcome:
        lease = self._find(ref)
        if lease is None:
            return self._stale(ref)
        self._end(lease, delay=delay, quiet=quiet)
        return o.Released(delay_ms=delay)

    # ------------------------------------------------------------------ facts

    def _complete(self, complete: c.Complete) -> o.Outcome:
        ref = complete.lease
        key = (ref.series.dataset, ref.series.symbol)
        if key not in self.series:
            return self._stale(ref)
        if not self._well_formed(complete):
            return Rejected(reason=RejectReason.INVALID)
        self._heed(complete.usage)
        results = {_result_range(ref, each): each for each in _results(complete)}
        known = {place: self.completions[place] for place in results if place in self.completions}
        if any(content != _content(results[place]) for place, (content, _) in known.items()):
            return Rejected(reason=RejectReason.RESULT_CONFLICT)
        if results and len(known) == len(results):
            return o.Already(coverage_rev=max(rev for _, rev in known.values()))
        fresh = {place: each for place, each in results.items() if place not in known}
        lease = self._find(ref)
        bars = self.series[key].bars
        interval = self.datasets[key[0]].interval_ms
        facts = {
            ts: self._result(each, bars[ts])
            for each in fresh.values()
            for ts in range(each.start_ms, each.end_ms, interval)
        }  # fmt: skip
        late = self._late(ref)
        if (lease is None and not late) or any(bars[ts].alive_fence != ref.fence for ts in facts):
            return self._stale(ref)
        if self._contradicts_listing(complete, facts):
            return Rejected(reason=RejectReason.RESULT_CONFLICT)
        self._learn_listing(complete)
        for ts, fact in facts.items():
            bars[ts].set_fact(fact)
        for place, each in fresh.items():
            self.completions[place] = (_content(each), self.rev)
        return self._close(complete, lease, progressed=bool(facts))

    def _result(self, each: CoveredRange | GapRange, bar: Bar) -> Fact:
        if isinstance(each, CoveredRange):
            return Fact(Kind.COVERED, self.rev, gen=bar.gen, source=each)
        return Fact(Kind.GAP, self.rev, gen=bar.gen, reason=each.reason.value)

    def _close(self, complete: c.Complete, lease: Lease | None, *, progressed: bool) -> o.Outcome:
        """Keep the rest under the same fence, or give it back."""
        if lease is None:
            for bar in self._late(complete.lease):
                if progressed:
                    bar.expiries = 0
                if complete.final:
                    bar.late_fence = None
            return o.Completed(coverage_rev=self.rev, remaining=False)
        lease.progress = lease.progress or progressed
        rest = self._held(lease)
        if not rest:
            del self.leases[lease.fence]
        elif complete.final:
            self._close_with_rest(lease, rest)
        return o.Completed(coverage_rev=self.rev, remaining=bool(rest) and not complete.final)

    def _close_with_rest(self, lease: Lease, rest: list[Bar]) -> None:
        """What a final Complete left over waits; without any progress this was an attempt."""
        if lease.progress:
            self._end(lease, delay=LOCK_DELAY_MS, quiet=LOCK_DELAY_MS)
            return
        attempts = lease.attempts + 1
        delay = max(LOCK_DELAY_MS, BACKOFF_MS[min(attempts, len(BACKOFF_MS)) - 1])
        self._end(lease, delay=delay, quiet=LOCK_DELAY_MS, attempts=attempts)
        if attempts >= MAX_ATTEMPTS:
            self._violate(lease, rest, "no_progress")

    def _well_formed(self, complete: c.Complete) -> bool:
        ref = complete.lease
        spec = self.datasets[ref.series.dataset]
        seen: set[int] = set()
        for each in _results(complete):
            if each.start_ms % spec.interval_ms or each.end_ms % spec.interval_ms:
                return False
            if not ref.start_ms <= each.start_ms < each.end_ms <= ref.end_ms:
                return False
            all_ts = set(range(each.start_ms, each.end_ms, spec.interval_ms))
            if seen & all_ts:
                return False
            seen |= all_ts
            if isinstance(each, CoveredRange) and spec.dense and each.rows != len(all_ts):
                return False
        return True

    def _contradicts_listing(self, complete: c.Complete, facts: dict[int, Fact]) -> bool:
        """Say whether a listing date and a covered bar, known or new, exclude each other."""
        ref = complete.lease
        series = self.series[(ref.series.dataset, ref.series.symbol)]
        future = Series(listed_from=series.listed_from, delisted_at=series.delisted_at)
        if complete.listed_from is not None:
            if series.listed_from not in (None, complete.listed_from.at_ms):
                return True
            future.listed_from = complete.listed_from.at_ms
        if complete.delisted_at is not None:
            if series.delisted_at not in (None, complete.delisted_at.at_ms):
                return True
            future.delisted_at = complete.delisted_at.at_ms
        known = {ts: bar.fact for ts, bar in series.bars.items() if bar.fact is not None}
        return any(
            fact.kind is Kind.COVERED and future.outside(ts) is not None
            for ts, fact in (known | facts).items()
        )

    def _learn_listing(self, complete: c.Complete) -> None:
        ref = complete.lease
        series = self.series[(ref.series.dataset, ref.series.symbol)]
        if complete.listed_from is not None:
            series.listed_from = complete.listed_from.at_ms
        if complete.delisted_at is not None:
            series.delisted_at = complete.delisted_at.at_ms


def _is_redone(series: Series, ts: int, bar: Bar, redo: Redo | None) -> bool:
    """Say whether a Submit opens this bar again; ``no_right_neighbour`` needs no asking."""
    if redo is Redo.RESTATED:
        return series.outside(ts) is None
    if bar.fact is None or bar.redo:
        return False
    kind, reason = bar.fact.kind, bar.fact.reason
    if redo is Redo.FAILED and bar.redo_failed is not None:
        return True
    if kind is Kind.VIOLATED and (redo is Redo.FAILED or reason == "no_right_neighbour"):
        return True
    return redo is Redo.MISSING and kind is Kind.GAP


def _results(complete: c.Complete) -> list[CoveredRange | GapRange]:
    return [*complete.covered, *complete.gaps]


def _result_range(ref: LeaseRef, each: CoveredRange | GapRange) -> tuple[object, ...]:
    return (ref.series, ref.fence, each.start_ms, each.end_ms)


def _content(each: CoveredRange | GapRange) -> str:
    return each.content_digest if isinstance(each, CoveredRange) else each.reason.value


def _spec_difference(known: DatasetSpec, other: DatasetSpec) -> str:
    for name in ("kind", "interval_ms", "source", "store", "dense"):
        if getattr(known, name) != getattr(other, name):
            return f"spec.{name}"
    raise AssertionError("the specs are equal")


def _replace_plan(plan: o.Accepted, *, repeated: bool = False, dry_run: bool = False) -> o.Accepted:
    return replace(plan, repeated=repeated, dry_run=dry_run)
