"""A small world for the machine's unit tests: one command per call, time by milliseconds."""

from __future__ import annotations

from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import (
    Asked,
    CoveredRange,
    DatasetSpec,
    GapRange,
    GapReason,
    LeaseRef,
    ListingDate,
    Receipt,
    Redo,
    SeriesId,
    SourceOffer,
    WorkerIdentity,
)
from seamfill_coordinator.machine.codec import apply_encoded, encode_command
from seamfill_coordinator.machine.commands import (
    Acquire,
    Command,
    Operation,
    Request,
    Stamp,
    Submit,
)
from seamfill_coordinator.machine.invariants import Watch
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Grant, Granted, Outcome

MINUTE = 60_000
SPEC = DatasetSpec(kind="ohlcv", interval_ms=MINUTE, source="ccxt:sim", store="parquet:main")


class Bench:
    """A machine with a leader: sends commands through the codec and checks every invariant."""

    def __init__(self) -> None:
        self.machine = LeaseMachine()
        self.watch = Watch()
        self.reign_ms = 0
        self.term = 1
        self.log: list[bytes] = []
        self.apply()

    def apply(self, *requests: Request, after_ms: int = 0, wall_ms: int = 0) -> Applied:
        """Apply one command ``after_ms`` after the last one."""
        self.reign_ms += after_ms
        stamp = Stamp(term=self.term, reign_ms=self.reign_ms, wall_ms=wall_ms)
        data = encode_command(Command(version=1, stamp=stamp, requests=requests))
        self.log.append(data)
        applied = apply_encoded(self.machine, data)
        self.watch.check(self.machine)
        return applied

    def do(self, operation: Operation, *, after_ms: int = 0) -> Outcome:
        """Apply one operation and return its outcome."""
        applied = self.apply(Request(operations=(operation,)), after_ms=after_ms)
        return applied.replies[0].outcomes[0]

    def wait(self, total_ms: int) -> None:
        """Let lease time pass, in steps that a stamp may count."""
        while total_ms > 0:
            step_ms = min(total_ms, 2_000)
            self.apply(after_ms=step_ms)
            total_ms -= step_ms

    def grants(self, operation: Acquire, *, after_ms: int = 0) -> tuple[Grant, ...]:
        """Return what an Acquire granted; empty for Nothing."""
        outcome = self.do(operation, after_ms=after_ms)
        return outcome.grants if isinstance(outcome, Granted) else ()


def submit(
    start: int,
    end: int,
    *,
    name: str = "bf",
    symbols: tuple[str, ...] = ("BTC/USDT",),
    window_bars: int = 100,
    priority: int = 0,
    redo: Redo | None = None,
    spec: DatasetSpec = SPEC,
    dry_run: bool = False,
    closed_before_ms: int = 0,
) -> Submit:
    """Return a Submit of bars [start, end) of each symbol."""
    return Submit(
        backfill_id=name,
        dataset="bars",
        spec=spec,
        wanted=tuple(
            Wanted(symbol=symbol, start_ms=start * MINUTE, end_ms=end * MINUTE)
            for symbol in symbols
        ),
        closed_before_ms=closed_before_ms,
        window_bars=window_bars,
        priority=priority,
        deadline_ms=None,
        redo=redo,
        dry_run=dry_run,
    )


def acquire(
    worker: str = "w1",
    *,
    boot: str = "boot",
    windows: int = 1,
    ttl_ms: int = 30_000,
    offer: SourceOffer | None = None,
    stores: tuple[str, ...] = ("parquet:*",),
) -> Acquire:
    """Return an Acquire of a worker that can do everything here."""
    return Acquire(
        worker=WorkerIdentity(id=worker, boot=boot),
        offers=(offer or SourceOffer(source="ccxt:sim"),),
        stores=stores,
        max_windows=windows,
        ttl_ms=ttl_ms,
    )


def ref(grant: Grant) -> LeaseRef:
    """Return a grant's lease."""
    return LeaseRef(
        series=SeriesId(dataset=grant.dataset, symbol=grant.symbol),
        start_ms=grant.start_ms,
        end_ms=grant.end_ms,
        fence=grant.fence,
    )


def covered(start: int, end: int, content: int = 1) -> CoveredRange:
    """Return bars [start, end) as covered, with a digest of ``content`` per bar."""
    rows = end - start
    return CoveredRange(
        start_ms=start * MINUTE,
        end_ms=end * MINUTE,
        rows=rows,
        content_digest=f"{rows * content:032x}",
    )


def whole(grant: Grant, content: int = 1) -> tuple[CoveredRange, ...]:
    """Return a grant's window as covered."""
    return (covered(grant.start_ms // MINUTE, grant.end_ms // MINUTE, content),)


def receipt(reason: GapReason) -> Receipt:
    """Return a receipt of one answer."""
    asked = Asked(
        start_ms=0, end_ms=1, server_time_ms=2, http_status=200, body_sha256="0" * 64, rows=0
    )
    return Receipt(reason=reason, asked=(asked,))


def gap(start: int, end: int, reason: GapReason = GapReason.VENUE_OUTAGE) -> GapRange:
    """Return bars [start, end) as a proved gap."""
    return GapRange(
        start_ms=start * MINUTE, end_ms=end * MINUTE, reason=reason, receipt=receipt(reason)
    )


def listing(bar: int, reason: GapReason) -> ListingDate:
    """Return a listing date at a bar."""
    return ListingDate(at_ms=bar * MINUTE, receipt=receipt(reason))
