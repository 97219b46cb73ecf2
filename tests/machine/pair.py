"""The machine and the naive model side by side: every command goes to both, then all is compared.

Owns the comparison. Must not decide what is right: the model does. What is *not* compared is listed
in ``_comparable``: texts for people, and the numbers that the design leaves to the machine.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from machine.builders import DIGEST_MODULUS
from machine.naive_model import Bar, Kind, NaiveModel, SeriesKey, Session
from seamfill.protocol.backfills import CoveredView
from seamfill.protocol.values import CoveredRange, SeriesId
from seamfill_coordinator.machine import codec, invariants, views
from seamfill_coordinator.machine import commands as c
from seamfill_coordinator.machine import outcomes as o
from seamfill_coordinator.machine.machine import LeaseMachine


class Diverged(AssertionError):
    """The machine and the model disagree."""


class Pair:
    """One world seen twice. ``log`` keeps the encoded commands, for replays."""

    def __init__(
        self,
        machine: LeaseMachine | None = None,
        model: NaiveModel | None = None,
        apply: Callable[[LeaseMachine, c.Command], o.Applied] | None = None,
        *,
        compare: bool = True,
    ) -> None:
        self.machine = LeaseMachine() if machine is None else machine
        self.model = NaiveModel() if model is None else model
        self._apply = _apply_encoded if apply is None else apply
        self._compare = compare
        self._watch = invariants.Watch()
        self.term = 1
        self.reign_ms = 0
        self.log: list[bytes] = []
        self.send()

    # ------------------------------------------------------------------ commands

    def send(
        self,
        *operations: c.Operation,
        client: int = c.NO_CLIENT,
        sequence: int = 0,
        low: int = 0,
        advance_ms: int = 0,
    ) -> tuple[o.Outcome, ...]:
        """Apply one request on both sides, compare, and return what the machine answered."""
        requests: tuple[c.Request, ...] = ()
        if operations:
            requests = (
                c.Request(operations=operations, client=client, sequence=sequence, low=low),
            )
        replies = self.send_requests(requests, advance_ms=advance_ms)
        return replies[0].outcomes if replies else ()

    def send_requests(
        self, requests: tuple[c.Request, ...], *, advance_ms: int = 0, look: bool = True
    ) -> tuple[o.Reply, ...]:
        """Send requests as one command; without ``look`` only the answers are compared."""
        self.reign_ms += advance_ms
        stamp = c.Stamp(term=self.term, reign_ms=self.reign_ms, wall_ms=1_700_000_000_000)
        command = c.Command(version=1, stamp=stamp, requests=requests)
        self.log.append(codec.encode_command(command))
        applied = self._apply(self.machine, command)
        if look:
            self._watch.check(self.machine)
        if not self._compare:
            return applied.replies
        expected = self.model.apply(command)
        self._bind_sessions(applied)
        self._compare_replies(expected, applied.replies)
        if look:
            self.compare_state()
        return applied.replies

    def advance(self, total_ms: int) -> None:
        """Let the lease clock run, in ticks no longer than a stamp may count; look at the last."""
        while total_ms > 0:
            step = min(total_ms, 2_000)
            total_ms -= step
            self.send_requests((), advance_ms=step, look=total_ms == 0)

    def new_term(self, reign_ms: int = 0) -> None:
        """Another leader: its first command does not move the lease clock."""
        self.term += 1
        self.reign_ms = reign_ms
        self.send()

    def _bind_sessions(self, applied: o.Applied) -> None:
        """Client ids are the machine's choice; that they are new is checked here."""
        for reply in applied.replies:
            for outcome in reply.outcomes:
                if isinstance(outcome, o.Opened) and not reply.repeated:
                    if outcome.client in self.model.used_clients or outcome.client < 1:
                        raise Diverged(f"client {outcome.client} was used before")
                    self.model.used_clients.add(outcome.client)
                    self.model.sessions[outcome.client] = Session(
                        low=0, last_heard=self.model.clock
                    )

    # ------------------------------------------------------------------ comparison

    def _compare_replies(self, expected: list[o.Reply], actual: tuple[o.Reply, ...]) -> None:
        _same("number of replies", len(expected), len(actual))
        for wanted, got in zip(expected, actual, strict=True):
            _same("repeated", wanted.repeated, got.repeated)
            _same("rev of the reply", wanted.rev, got.rev)
            _same("number of outcomes", len(wanted.outcomes), len(got.outcomes))
            for left, right in zip(wanted.outcomes, got.outcomes, strict=True):
                _same("outcome", _comparable(left), _comparable(right))

    def compare_state(self) -> None:
        """Compare counters, every bar of every series, backfills and leases; run invariants."""
        machine, model = self.machine, self.model
        _same("rev", model.rev, machine.rev)
        _same("clock", model.clock, machine.clock_ms)
        _same("fence", model.fence, machine.fence)
        for key in model.series:
            self._compare_series(key)
        self._compare_backfills()
        counts = views.lease_counts(machine)
        live = sum(1 for lease in model.leases.values() if model.clock < lease.deadline)
        _same("live leases", live, counts.live)
        _same("leases in lock-delay", len(model.leases) - live, counts.lock_delay)
        _same("compatibility leases", len(model.claims.live), counts.compatibility)
        _same("expired leases", model.expired_count, counts.expired_total)

    def _compare_series(self, key: SeriesKey) -> None:
        answer = views.coverage(self.machine, SeriesId(dataset=key[0], symbol=key[1]), None, None)
        interval = self.model.datasets[key[0]].interval_ms
        seen: dict[int, list[str]] = {}

        def note(start_ms: int, end_ms: int, text: str) -> None:
            for ts in range(start_ms, end_ms, interval):
                seen.setdefault(ts, []).append(text)

        for covered in answer.covered:
            note(covered.start_ms, covered.end_ms, f"covered gen {covered.gen}")
            self._check_content(key, covered)
        for gap in answer.gaps:
            note(gap.start_ms, gap.end_ms, f"gap {gap.reason.value}")
        for violated in answer.violated:
            kind = "redo failed" if violated.redo_failed else "violated"
            note(violated.start_ms, violated.end_ms, f"{kind} {violated.reason}")
        for flight in answer.in_flight:
            note(flight.start_ms, flight.end_ms, flight.state)

        series = self.model.series[key]
        wanted = self.model.wanted_bars(key)
        for ts, bar in series.bars.items():
            expected = _labels(bar, wanted=ts in wanted, now=self.model.clock)
            _same(f"{key} bar {ts}", sorted(expected), sorted(seen.pop(ts, [])))
        _same(f"{key}: bars that nobody ever wanted", {}, seen)
        _same(f"{key}: listed", series.listed_from, answer.listed_from_ms)
        _same(f"{key}: delisted", series.delisted_at, answer.delisted_at_ms)

    def _check_content(self, key: SeriesKey, view: CoveredView) -> None:
        """Rows and digest are those of the completed ranges it consists of, as long as it is whole.

        Merged ranges lose their digest together when a redo splits them, and never otherwise.
        """
        interval = self.model.datasets[key[0]].interval_ms
        bars = self.model.series[key].bars
        inside: dict[CoveredRange, int] = {}
        for ts in range(view.start_ms, view.end_ms, interval):
            fact = bars[ts].fact
            if fact is None or fact.source is None:
                raise Diverged(f"{key} bar {ts} is not covered")
            inside[fact.source] = inside.get(fact.source, 0) + 1
        whole = all(
            count * interval == source.end_ms - source.start_ms for source, count in inside.items()
        )
        if view.content_digest is None:
            replaced = any(len(bar.history) > 1 for bar in bars.values())
            _same(f"{key} {view} lost its digest to a redo", True, replaced)
            return
        _same(f"{key} {view} consists of whole ranges", True, whole)
        total = sum(int(source.content_digest, 16) for source in inside) % DIGEST_MODULUS
        _same(f"{key} content digest", f"{total:032x}", view.content_digest)
        _same(f"{key} rows", sum(source.rows for source in inside), view.rows)

    def _compare_backfills(self) -> None:
        for backfill in self.model.backfills.values():
            view = views.backfill(self.machine, backfill.id)
            if view is None:
                raise Diverged(f"backfill {backfill.id} is not known")
            _same(f"{backfill.id} state", backfill.state, view.state)
            if backfill.state not in ("active", "paused"):
                continue
            bars = self.model.bars_of(backfill)
            kinds = [bar.fact.kind for bar in bars if bar.fact is not None]
            _same(f"{backfill.id} wanted", len(bars), view.bars_wanted)
            _same(f"{backfill.id} verified", kinds.count(Kind.COVERED), view.bars_verified)
            _same(f"{backfill.id} gap", kinds.count(Kind.GAP), view.bars_gap)
            _same(f"{backfill.id} violated", kinds.count(Kind.VIOLATED), view.bars_violated)

    def check_as_of(self, rev: int) -> None:
        """Readers of an older rev get the generation that was current then, in all covered bars."""
        for key, series in self.model.series.items():
            answer = views.coverage(
                self.machine, SeriesId(dataset=key[0], symbol=key[1]), None, None, as_of=rev
            )
            interval = self.model.datasets[key[0]].interval_ms
            seen = {
                ts: covered.gen
                for covered in answer.covered
                for ts in range(covered.start_ms, covered.end_ms, interval)
            }
            for ts, bar in series.bars.items():
                if bar.fact is not None and bar.fact.kind is Kind.COVERED:
                    _same(f"{key} bar {ts} as of {rev}", bar.gen_as_of(rev), seen.get(ts))

    # ------------------------------------------------------------------ copies

    def check_snapshot(self) -> None:
        """A restored copy is equal, and answers the next commands like the original."""
        copy = LeaseMachine.restore(self.machine.snapshot())
        _same("digest after restore", self.machine.state_digest(), copy.state_digest())
        _same("snapshot of the copy", self.machine.snapshot(), copy.snapshot())
        self.machine = copy

    def check_replay(self) -> None:
        """The whole log, applied to an empty machine, gives the same state."""
        other = LeaseMachine()
        for data in self.log:
            codec.apply_encoded(other, data)
        _same("digest after replay", self.machine.state_digest(), other.state_digest())


def _apply_encoded(machine: LeaseMachine, command: c.Command) -> o.Applied:
    """Go through the codec, so that it is tested on the way."""
    return codec.apply_encoded(machine, codec.encode_command(command))


def _labels(bar: Bar, *, wanted: bool, now: int) -> list[str]:
    labels = []
    match bar.fact:
        case None:
            pass
        case fact if fact.kind is Kind.COVERED:
            labels.append(f"covered gen {fact.gen}")
        case fact:
            labels.append(f"{fact.kind.value} {fact.reason}")
    if bar.redo_failed is not None:
        labels.append(f"redo failed {bar.redo_failed}")
    if bar.holder is not None:
        labels.append("leased")
    elif bar.unfinished and wanted:
        labels.append("waiting" if bar.waiting else "open")
    return labels


def _comparable(outcome: o.Outcome) -> object:
    """What the model predicts of an outcome: everything but texts and free choices."""
    match outcome:
        case o.Rejected():
            return (outcome.reason, outcome.covered if outcome.reason == "stale_fence" else None)
        case o.Opened():
            return replace(outcome, client=0)
        case o.Granted():
            return tuple(replace(grant, budget_weight=0) for grant in outcome.grants)
        case o.Nothing():
            return o.Nothing
        case _:
            return outcome


def _same(what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise Diverged(f"{what}: the model says {expected!r}, the machine says {actual!r}")
