"""A small world for random commands: three series, three workers, a few backfills, one clock.

Owns the rules that turn small drawn numbers into commands, and the Hypothesis state machine made
of them. Must not judge anything: ``Pair`` does after every command. Numbers are drawn small and
wrapped around whatever exists (leases, backfills, requests), so that nearly every draw means
something: a random fence would only ever be stale.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from machine.builders import DENSE, SPARSE, covered, gap, listing
from machine.naive_model import Lease
from machine.pair import Pair
from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import (
    CoveredRange,
    DatasetSpec,
    GapRange,
    GapReason,
    LeaseRef,
    Redo,
    SeriesId,
    SourceOffer,
    Usage,
    WorkerIdentity,
)
from seamfill_coordinator.machine import commands as c
from seamfill_coordinator.machine import outcomes as o

SERIES: Final = (("dense", "BTC/USDT"), ("dense", "ETH/USDT"), ("sparse", "BTC/USDT"))
SPECS: Final[dict[str, DatasetSpec]] = {"dense": DENSE, "sparse": SPARSE}
FIRST_BAR: Final = 100
OFFERS: Final = tuple(SourceOffer(source=source) for source in ("ccxt:sim", "ccxt:other"))
CLAIM_KEYS: Final = (
    "ohlcv:sim:BTC/USDT:1m:60:0:240:w:",
    "ohlcv:sim:BTC/USDT:1m:60:180:540:w:",
    "ohlcv:sim:BTC/USDT:1m:60:600:600:w:",
    "ohlcv:sim:BTC/USDT:1m:60:0:240:w:blake3:ff",
    "node:60:0:120::",
    "node:60:60:180",
    "an opaque key",
    "native:dense|BTC/USDT|0|60000",
)
GAP_REASONS: Final = (GapReason.VENUE_OUTAGE, GapReason.NO_TRADES)
CODES: Final = ("source_error", "no_right_neighbour", "mismatch")

small = st.integers(0, 15)
few = st.integers(0, 3)
pause = st.sampled_from((0, 0, 0, 100, 1_000, 2_000, 5_000))


def bars(series: int, start: int, length: int) -> tuple[str, int, int]:
    """A range of one series, counted in bars from the world's first."""
    dataset, symbol = SERIES[series]
    interval = SPECS[dataset].interval_ms
    first = (FIRST_BAR + start) * interval
    return symbol, first, first + length * interval


class World(RuleBasedStateMachine):
    """Random commands to both; every rule ends in ``Pair.send``, which compares."""

    met: ClassVar[Counter[str]] = Counter()
    """Which outcomes occurred over a whole run: a test that never met its fault proved nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.make_pair()
        self.granted: list[o.Grant] = []
        self.completes: list[c.Complete] = []
        self.requests: list[c.Request] = []
        self.clients: list[int] = []
        self.sequences: dict[int, int] = {}
        self.tokens: list[tuple[str, str]] = []
        self.client = c.NO_CLIENT
        self.backfill_ids: list[str] = ["nobody's"]
        self.boots = ["a", "a", "a"]
        self.steps = 0

    def make_pair(self) -> Pair:
        """Return what is tested; the rig's tests put broken ones here."""
        return Pair()

    # ------------------------------------------------------------------ sending

    def send(self, *operations: c.Operation, advance_ms: int = 0) -> None:
        """Send under the current session, if any, and remember what the answers made possible."""
        request = c.Request(operations=operations)
        if self.client != c.NO_CLIENT:
            sequence = self.sequences[self.client]
            self.sequences[self.client] += 1
            request = c.Request(
                operations=operations,
                client=self.client,
                sequence=sequence,
                low=max(0, sequence - 3),
            )
            self.requests.append(request)
        (reply,) = self.pair.send_requests((request,), advance_ms=advance_ms)
        self._learn(operations, reply)

    def _learn(self, operations: tuple[c.Operation, ...], reply: o.Reply) -> None:
        self.steps += 1
        if self.steps % 16 == 0:
            self.pair.check_snapshot()
            self.pair.check_as_of(self.pair.model.rev * 2 // 3)
        for operation, outcome in zip(operations, reply.outcomes, strict=True):
            name = type(outcome).__name__
            if isinstance(outcome, o.Rejected):
                name = f"{type(operation).__name__} {outcome.reason}"
            self.met[name] += 1
            match outcome:
                case o.Granted(grants=grants):
                    self.granted.extend(grants)
                case o.Accepted(backfill_id=backfill_id, dry_run=False):
                    self.backfill_ids.append(backfill_id)
                case o.Opened(client=client):
                    self.clients.append(client)
                    self.sequences[client] = 1
                case o.Claimed(token=token) if isinstance(operation, c.Claim):
                    self.tokens.append((operation.key, token))

    def teardown(self) -> None:
        self.pair.check_snapshot()
        self.pair.check_replay()

    # ------------------------------------------------------------------ backfills

    @initialize(window=st.sampled_from((4, 10)), both=st.booleans(), session=st.booleans())
    def begin(self, window: int, both: bool, session: bool) -> None:
        """Something to do from the start, so that no run is about nothing."""
        if session:
            self.change_session(how=0, which=0)
        ranges = [bars(0, 0, 20), bars(1, 4, 10)] if both else [bars(0, 0, 20)]
        self.send(self._submit("dense", ranges, window, 0, None, None))
        self.send(self._acquire(0, 2, 30_000, None))

    @rule(
        series=st.integers(0, 2), start=st.integers(0, 24), length=st.integers(1, 20),
        window=st.sampled_from((3, 5, 8, 40)), priority=st.sampled_from((0, 0, 0, 1, -1)),
        deadline=st.sampled_from((None, None, 10, 20)),
        redo=st.sampled_from((None, None, None, *Redo)), also=few,
    )  # fmt: skip
    def submit(
        self, series: int, start: int, length: int, window: int, priority: int,
        deadline: int | None, redo: Redo | None, also: int,
    ) -> None:  # fmt: skip
        """An ordinary backfill; ``also`` adds ranges of the same dataset, overlapping or not."""
        ranges = [bars(series, start, length)]
        if also == 1:
            ranges.append(bars(series, start + length // 2, length))
        if also == 2 and series < 2:
            ranges.append(bars(1 - series, start + 2, length))
        self.send(self._submit(SERIES[series][0], ranges, window, priority, deadline, redo))

    @rule(
        series=st.integers(0, 2), start=st.integers(0, 24), length=st.integers(0, 9),
        how=st.integers(0, 5), number=few,
    )  # fmt: skip
    def submit_oddly(self, series: int, start: int, length: int, how: int, number: int) -> None:
        """A dry run, a repeated id, a clipped end, a foreign spec, or a range off the grid."""
        dataset = SERIES[series][0]
        symbol, first, end = bars(series, start, length)
        closed = 0
        spec = SPECS[dataset]
        if how == 2:
            closed = first + number * 2 * spec.interval_ms + 7
        if how == 3:
            spec = DatasetSpec(
                kind="ohlcv",
                interval_ms=spec.interval_ms,
                source=spec.source,
                store="elsewhere",
                dense=spec.dense,
            )
        if how == 4:
            first += 1
        self.send(
            c.Submit(
                backfill_id=f"named-{number}" if how in (1, 2) else "",
                dataset=dataset,
                spec=spec,
                wanted=(Wanted(symbol=symbol, start_ms=first, end_ms=end),),
                closed_before_ms=closed,
                window_bars=4,
                priority=0,
                deadline_ms=None,
                redo=None,
                dry_run=how == 0,
            )
        )

    def _submit(
        self, dataset: str, ranges: list[tuple[str, int, int]], window: int, priority: int,
        deadline: int | None, redo: Redo | None,
    ) -> c.Submit:  # fmt: skip
        return c.Submit(
            backfill_id="",
            dataset=dataset,
            spec=SPECS[dataset],
            wanted=tuple(
                Wanted(symbol=symbol, start_ms=start, end_ms=end) for symbol, start, end in ranges
            ),
            closed_before_ms=0,
            window_bars=window,
            priority=priority,
            deadline_ms=deadline,
            redo=redo,
            dry_run=False,
        )

    @precondition(lambda self: len(self.backfill_ids) > 1)
    @rule(which=small, verb=st.integers(0, 4))
    def move_backfill(self, which: int, verb: int) -> None:
        verbs = (
            c.CancelBackfill, c.PauseBackfill, c.ResumeBackfill, c.PauseBackfill, c.ResumeBackfill,
        )  # fmt: skip
        backfill_id = self.backfill_ids[-1 - which % len(self.backfill_ids)]
        self.send(verbs[verb](backfill_id=backfill_id))

    @rule(which=st.integers(0, 1), pause=st.booleans())
    def pause_source(self, which: int, pause: bool) -> None:
        source = OFFERS[which].source
        self.send(c.PauseSource(source=source) if pause else c.ResumeSource(source=source))

    # ------------------------------------------------------------------ leases

    @rule(
        worker=st.integers(0, 2), count=st.integers(1, 4), advance=pause,
        ttl=st.sampled_from((1, 10_000, 30_000)), only=st.sampled_from((None, None, None, 0, 1)),
    )  # fmt: skip
    def acquire(self, worker: int, count: int, advance: int, ttl: int, only: int | None) -> None:
        self.send(self._acquire(worker, count, ttl, only), advance_ms=advance)

    @rule(worker=st.integers(0, 2), advance=pause)
    def acquire_much(self, worker: int, advance: int) -> None:
        self.send(self._acquire(worker, 20, 10_000, None), advance_ms=advance)

    @rule(worker=st.integers(1, 2), how=st.integers(0, 5))
    def worker_trouble(self, worker: int, how: int) -> None:
        """Now and then a worker restarts, an old process of it wakes up, or it is drained."""
        if how == 0:
            self.boots[worker] = chr(ord(self.boots[worker]) + 1)
            self.send(self._acquire(worker, 2, 10_000, None))
        elif how == 1:
            self.send(self._acquire(worker, 2, 10_000, None, boot="a"))
        elif how == 2:
            self.send(c.DrainWorker(worker_id=f"w{worker}"))
        else:
            self.send(self._acquire(worker, 1, 10_000, None))

    def _acquire(
        self, worker: int, count: int, ttl: int, only: int | None, *, boot: str | None = None
    ) -> c.Acquire:
        stores = ("parquet:*", "questdb:main") if only is None else ("parquet:main",)
        return c.Acquire(
            worker=WorkerIdentity(id=f"w{worker}", boot=boot or self.boots[worker]),
            offers=OFFERS if only is None else (OFFERS[only],),
            stores=stores,
            max_windows=count,
            ttl_ms=ttl,
        )

    def _pick(self, which: int) -> tuple[o.Grant, LeaseRef]:
        """Choose a lease: mostly one that is alive, at times one from the past."""
        choices = [grant for grant in self.granted if grant.fence in self.pair.model.leases]
        if not choices or which % 4 == 3:
            choices = self.granted
        grant = choices[-1 - (which // 4) % len(choices)]
        series = SeriesId(dataset=grant.dataset, symbol=grant.symbol)
        return grant, LeaseRef(
            series=series, start_ms=grant.start_ms, end_ms=grant.end_ms, fence=grant.fence
        )

    def _rest(self, grant: o.Grant) -> list[int]:
        """The bars that this fence may still complete; the whole window when it is dead."""
        all_bars = self.pair.model.series[(grant.dataset, grant.symbol)].bars
        inside = range(grant.start_ms, grant.end_ms, grant.spec.interval_ms)
        alive = [ts for ts in inside if all_bars[ts].alive_fence == grant.fence]
        return alive or list(inside)

    @precondition(lambda self: self.granted)
    @rule(which=small, advance=pause)
    def complete_all(self, which: int, advance: int) -> None:
        """What happens nearly always: every bar that is left, covered."""
        grant, ref = self._pick(which)
        ranges = _ranges(grant, self._rest(grant))
        self._complete(c.Complete(lease=ref, covered=ranges), advance_ms=advance)

    @precondition(lambda self: self.granted)
    @rule(
        which=small, skip=few, take=st.integers(0, 6), holes=st.integers(0, 3),
        reason=st.sampled_from(GAP_REASONS), final=st.booleans(), advance=pause,
    )  # fmt: skip
    def complete_part(
        self, which: int, skip: int, take: int, holes: int, reason: GapReason, final: bool,
        advance: int,
    ) -> None:  # fmt: skip
        """Some bars covered, some after them a proved gap, the rest left over."""
        grant, ref = self._pick(which)
        rest = self._rest(grant)[skip:]
        ranges = _ranges(grant, rest[:take])
        gaps = tuple(
            gap(start, end, reason)
            for start, end in _runs(rest[take : take + holes], grant.spec.interval_ms)
        )
        self._complete(
            c.Complete(lease=ref, covered=ranges, gaps=gaps, final=final), advance_ms=advance
        )

    @precondition(lambda self: self.granted)
    @rule(which=small, how=st.integers(0, 4))
    def complete_wrongly(self, which: int, how: int) -> None:
        """Outside the lease, overlapping itself, off the grid, too few rows, a foreign fence."""
        grant, ref = self._pick(which)
        step = grant.spec.interval_ms
        start, end = grant.start_ms, grant.end_ms
        good = covered(grant.symbol, start, end, grant.spec)
        ranges: tuple[CoveredRange, ...] = (good,)
        gaps: tuple[GapRange, ...] = ()
        if how == 0:
            ranges = (covered(grant.symbol, start, end + step, grant.spec),)
        elif how == 1:
            gaps = (gap(end - step, end),)
        elif how == 2:
            ranges = (covered(grant.symbol, start, end - step // 2, grant.spec),)
        elif how == 3 and grant.spec.dense:
            ranges = (
                CoveredRange(
                    start_ms=start,
                    end_ms=end,
                    rows=good.rows - 1,
                    content_digest=good.content_digest,
                ),
            )
        else:
            ref = LeaseRef(series=ref.series, start_ms=start, end_ms=end, fence=ref.fence + 1000)
        self._complete(c.Complete(lease=ref, covered=ranges, gaps=gaps))

    @precondition(lambda self: self.granted)
    @rule(which=small, at=st.integers(0, 24), late=st.booleans())
    def complete_with_listing(self, which: int, at: int, late: bool) -> None:
        """A listing date that leaves the rest of the window to it."""
        grant, ref = self._pick(which)
        series = self.pair.model.series[(grant.dataset, grant.symbol)]
        at_ms = (FIRST_BAR + at) * grant.spec.interval_ms
        rest = self._rest(grant)
        if late:
            at_ms = series.delisted_at or at_ms
            ranges = _ranges(grant, [ts for ts in rest if ts < at_ms])
            dated = c.Complete(
                lease=ref, covered=ranges, delisted_at=listing(at_ms, GapReason.DELISTED)
            )
        else:
            at_ms = series.listed_from or at_ms
            ranges = _ranges(grant, [ts for ts in rest if ts >= at_ms])
            dated = c.Complete(
                lease=ref, covered=ranges, listed_from=listing(at_ms, GapReason.NOT_LISTED)
            )
        self._complete(dated)

    def _complete(self, complete: c.Complete, advance_ms: int = 0) -> None:
        self.completes.append(complete)
        self.send(complete, advance_ms=advance_ms)

    @precondition(lambda self: self.completes)
    @rule(which=small)
    def repeat_complete(self, which: int) -> None:
        """The same completion again, without a session: the answer was lost."""
        self.send(self.completes[-1 - which % len(self.completes)])

    @precondition(lambda self: self.granted)
    @rule(
        which=small, code=st.sampled_from(CODES), retryable=st.sampled_from((True, True, False)),
        delay=st.sampled_from((0, 0, 6_000)), penalty=st.sampled_from((None, None, None, 3_000)),
    )  # fmt: skip
    def fail(self, which: int, code: str, retryable: bool, delay: int, penalty: int | None) -> None:
        grant, ref = self._pick(which)
        usage: tuple[Usage, ...] = ()
        if penalty is not None:
            usage = (Usage(source=grant.spec.source, penalty_ms=penalty, status=429),)
        self.send(c.Fail(lease=ref, code=code, retryable=retryable, delay_ms=delay, usage=usage))

    @precondition(lambda self: self.granted)
    @rule(which=small, how=st.integers(0, 3))
    def give_back(self, which: int, how: int) -> None:
        _, ref = self._pick(which)
        self.send(
            (
                c.Release(lease=ref),
                c.Release(lease=ref, no_write_in_flight=True),
                c.Snooze(lease=ref, delay_ms=7_000),
                c.Revoke(lease=ref),
            )[how]
        )

    @precondition(lambda self: self.granted)
    @rule(which=small, come=few, ttl=st.sampled_from((10_000, 20_000)), advance=pause)
    def renew(self, which: int, come: int, ttl: int, advance: int) -> None:
        grant, ref = self._pick(which)
        cursor = None
        if come:
            cursor = min(grant.start_ms + come * grant.spec.interval_ms, grant.end_ms)
        self.send(c.Renew(lease=ref, ttl_ms=ttl, cursor_ms=cursor), advance_ms=advance)

    @precondition(lambda self: self.granted)
    @rule(which=small, again=small)
    def several_at_once(self, which: int, again: int) -> None:
        """One request with operations that depend on each other."""
        (grant, ref), (_, other) = self._pick(which), self._pick(again)
        ranges = _ranges(grant, self._rest(grant)[:1])
        self.send(
            c.Complete(lease=ref, covered=ranges, final=False),
            c.Release(lease=other, no_write_in_flight=True),
            self._acquire(0, 1, 10_000, None),
        )

    # ------------------------------------------------------------------ time

    @rule(ms=st.sampled_from((100, 2_000, 5_000, 10_000, 15_000, 35_000)))
    def wait(self, ms: int) -> None:
        self.pair.advance(ms)

    @rule()
    def wait_for_the_next_deadline(self) -> None:
        """Go exactly to a lease's deadline, where an off-by-one shows."""
        leases: list[Lease] = list(self.pair.model.leases.values())
        left = [lease.deadline - self.pair.model.clock for lease in leases]
        if any(ms > 0 for ms in left):
            self.pair.advance(min(ms for ms in left if ms > 0))

    @rule()
    def wait_out_the_lock_delay(self) -> None:
        leases: list[Lease] = list(self.pair.model.leases.values())
        left = [lease.deadline + 5_000 - self.pair.model.clock for lease in leases]
        if left:
            self.pair.advance(min(left))

    @rule(how=few, ms=st.sampled_from((0, 50, 3_000, 60_000)))
    def odd_stamp(self, how: int, ms: int) -> None:
        """A new leader, one who stalled for long, or a proposal that was overtaken by another."""
        if how == 0:
            self.pair.new_term(reign_ms=ms)
        elif how == 1:
            self.pair.send(advance_ms=ms)
        else:
            here = self.pair.reign_ms
            self.pair.reign_ms = max(0, here - ms)
            self.pair.send(c.Barrier())
            self.pair.reign_ms = here
            self.pair.send()

    # ------------------------------------------------------------------ sessions

    @rule(how=st.integers(0, 5), which=few)
    def change_session(self, how: int, which: int) -> None:
        """Open a session, use another one or none, or ask under one that never was."""
        if how == 0 and len(self.clients) < 4:
            self.client = c.NO_CLIENT
            self.send(c.OpenSession())
            self.client = self.clients[-1]
        elif how == 1:
            self.pair.send(c.Barrier(), client=77 << which, sequence=1)
        else:
            choices = [c.NO_CLIENT, *self.clients]
            self.client = choices[which % len(choices)]

    @precondition(lambda self: self.requests)
    @rule(which=small)
    def repeat_request(self, which: int) -> None:
        """The same request again: the stored answer, or SESSION_UNKNOWN, and never two effects."""
        request = self.requests[-1 - which % len(self.requests)]
        self.pair.send_requests((request, request))
        self.met["repeated request"] += 1

    @rule(which=few, sequence=st.sampled_from((1, 5, 255, 256, 257, 300)))
    def ask_out_of_order(self, which: int, sequence: int) -> None:
        """Pipelined requests arrive in any order, and some far too early."""
        if not self.clients:
            return
        client = self.clients[which % len(self.clients)]
        request = c.Request(
            operations=(c.Barrier(),),
            client=client,
            sequence=self.sequences[client] + sequence,
            low=max(0, self.sequences[client] - 3),
        )
        self.pair.send_requests((request,))
        if sequence <= 5:
            self.sequences[client] += sequence + 1

    # ------------------------------------------------------------------ compatibility

    @rule(key=st.sampled_from(CLAIM_KEYS), lease_ms=st.sampled_from((0, 1, 5_000)), advance=pause)
    def claim(self, key: str, lease_ms: int, advance: int) -> None:
        self.send(c.Claim(key=key, lease_ms=lease_ms), advance_ms=advance)

    @precondition(lambda self: self.tokens)
    @rule(which=few, complete=st.booleans(), wrong=st.sampled_from((False, False, False, True)))
    def finish_claim(self, which: int, complete: bool, wrong: bool) -> None:
        key, token = self.tokens[-1 - which % len(self.tokens)]
        token = "0" if wrong else token
        if complete:
            self.send(c.CompleteClaim(key=key, token=token))
        else:
            self.send(c.FailClaim(key=key, token=token, reason="test"))


def _runs(all_ts: list[int], interval: int) -> list[tuple[int, int]]:
    """Contiguous ranges of a sorted list of bars."""
    runs: list[tuple[int, int]] = []
    for ts in all_ts:
        if runs and runs[-1][1] == ts:
            runs[-1] = (runs[-1][0], ts + interval)
        else:
            runs.append((ts, ts + interval))
    return runs


def _ranges(grant: o.Grant, all_ts: list[int]) -> tuple[CoveredRange, ...]:
    return tuple(
        covered(grant.symbol, start, end, grant.spec, f"fence {grant.fence}")
        for start, end in _runs(all_ts, grant.spec.interval_ms)
    )
