"""Measure the pure lease machine: submit, memory, claim rates, cycles per second.

Run as ``python tests/bench/machine.py [--seconds S]``; prints, asserts nothing. How it counts:

* *submit*: one ``Submit`` of 500 series × 20,000 windows of 1,800 bars, applied to an empty machine
  (decoded before the clock starts); memory is what tracemalloc sees of a second, equal run.
* *claims*: ``Acquire`` of one window each, 64 requests in a command, without the codec, against
  10⁴ and 10⁷ submitted windows of 500 series, interleaved with Completes that keep about 1,000
  leases alive. The two machines take turns, so that a noisy neighbour meets both.
* *cycles*: one cycle is an ``Acquire`` of one window and its ``Complete`` (1,800 bars, digest).
  Everything is counted that a leader does per cycle: building and encoding the command, decoding
  it, applying it, and reading the outcomes; 64 requests with one operation each in a command. The
  second figure adds what a replica does besides: a state digest after every 64 commands. The third
  asks as workers do: 16 windows an ``Acquire``, 16 Completes a request, 64 windows in a command.

All times are CPU time of this process.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
import time
import tracemalloc
from collections import deque
from pathlib import Path

import msgspec
from msgspec.structs import replace

from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import (
    CoveredRange,
    DatasetSpec,
    LeaseRef,
    SeriesId,
    SourceOffer,
    WorkerIdentity,
)
from seamfill_coordinator.machine.codec import apply_encoded, encode_command
from seamfill_coordinator.machine.commands import (
    Acquire,
    Command,
    Complete,
    Operation,
    Request,
    Stamp,
    Submit,
)
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Completed, Grant, Granted

CLOCK = time.process_time
"""CPU time of this process: the machine does nothing but compute, and neighbours do not count."""
INTERVAL_MS = 60_000
WINDOW_BARS = 1_800
SERIES = 500
REQUESTS_PER_COMMAND = 64
LIVE_LEASES = 1_024
CONTENT_DIGEST = "0123456789abcdef0123456789abcdef"

ACQUIRE = Acquire(
    worker=WorkerIdentity(id="worker-1", boot="boot-1"),
    offers=(SourceOffer(source="ccxt:bench"),),
    stores=("questdb:bench",),
    max_windows=1,
    ttl_ms=30_000,
)


def submission(windows: int) -> Submit:
    """Return one Submit of ``windows`` windows, spread over the series."""
    length_ms = windows // SERIES * WINDOW_BARS * INTERVAL_MS
    return Submit(
        backfill_id="bench",
        dataset="bench",
        spec=DatasetSpec(
            kind="ohlcv", interval_ms=INTERVAL_MS, source="ccxt:bench", store="questdb:bench"
        ),
        wanted=tuple(
            Wanted(symbol=f"S{i:04d}/USDT", start_ms=0, end_ms=length_ms) for i in range(SERIES)
        ),
        closed_before_ms=0,
        window_bars=WINDOW_BARS,
        priority=0,
        deadline_ms=None,
        redo=None,
        dry_run=False,
    )


def command(*operations: Operation) -> Command:
    """Return a command with one request per operation; the lease clock stands still."""
    return Command(
        version=1,
        stamp=Stamp(term=1, reign_ms=0, wall_ms=0),
        requests=tuple([Request(operations=(operation,)) for operation in operations]),
    )


def completion(grant: Grant) -> Complete:
    """Return the full Complete of a grant."""
    start, end = grant.start_ms, grant.end_ms
    rows = (end - start) // INTERVAL_MS
    return Complete(
        lease=LeaseRef(
            series=SeriesId(dataset=grant.dataset, symbol=grant.symbol),
            start_ms=start,
            end_ms=end,
            fence=grant.fence,
        ),
        covered=(
            CoveredRange(start_ms=start, end_ms=end, rows=rows, content_digest=CONTENT_DIGEST),
        ),
    )


def completions(grants: list[Grant], windows: int) -> Command:
    """Return a command that completes grants, ``windows`` of them a request."""
    operations = [completion(grant) for grant in grants]
    return replace(
        command(),
        requests=tuple(
            Request(operations=tuple(operations[at : at + windows]))
            for at in range(0, len(operations), windows)
        ),
    )


def granted(applied: Applied) -> list[Grant]:
    """Return the grants of all replies."""
    found: list[Grant] = []
    for reply in applied.replies:
        outcome = reply.outcomes[0]
        if not isinstance(outcome, Granted):
            raise SystemExit(f"expected a grant, got {outcome}")
        found += outcome.grants
    return found


def measure_submit() -> None:
    """Print the time and memory of one Submit of ten million windows."""
    bulk = command(submission(10_000_000))
    times = []
    for _ in range(5):
        machine = LeaseMachine()
        began = CLOCK()
        machine.apply(bulk)
        times.append(CLOCK() - began)
    gc.collect()
    tracemalloc.start()
    machine = LeaseMachine()
    machine.apply(bulk)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    median_ms = sorted(times)[2] * 1e3
    print(f"submit 10,000,000 windows (500 series): {median_ms:.1f} ms, {size / 1e6:.2f} MB")
    print(f"snapshot after that: {len(machine.snapshot()) / 1e3:.0f} kB")


class Claims:
    """A machine from which windows are claimed, about a thousand leases alive at any time."""

    def __init__(self, windows: int) -> None:
        self.machine = LeaseMachine()
        self.machine.apply(command(submission(windows)))
        self.live: deque[Grant] = deque()
        self.acquires = command(*[ACQUIRE] * REQUESTS_PER_COMMAND)
        self.claimed = 0
        self.spent_s = 0.0

    def turn(self) -> None:
        """Claim 64 windows on the clock, and complete as many off it once enough are alive."""
        began = CLOCK()
        applied = self.machine.apply(self.acquires)
        self.spent_s += CLOCK() - began
        self.live.extend(granted(applied))
        self.claimed += REQUESTS_PER_COMMAND
        if len(self.live) > LIVE_LEASES:
            done = [completion(self.live.popleft()) for _ in range(REQUESTS_PER_COMMAND)]
            self.machine.apply(command(*done))


def measure_claims() -> None:
    """Print claim rates at 10⁴ and 10⁷ windows, by turns, best of five."""
    rates: dict[int, list[float]] = {10_000: [], 10_000_000: []}
    for _ in range(5):
        runs = {windows: Claims(windows) for windows in rates}
        for _ in range(140):
            for run in runs.values():
                run.turn()
        for windows, run in runs.items():
            rates[windows].append(run.claimed / run.spent_s)
    small, large = (max(found) for found in rates.values())
    print(f"claims per second at 10^4 windows: {small:,.0f}; at 10^7: {large:,.0f}")
    print(f"difference: {abs(small - large) / small:.1%}")


def measure_cycles(seconds: float, *, digest_every: int, windows: int = 1) -> None:
    """Print acquire + complete cycles per second, codec included."""
    machine = LeaseMachine()
    acquire = replace(ACQUIRE, max_windows=windows)
    acquires = command(*[acquire] * (REQUESTS_PER_COMMAND // windows))
    machine.apply(command(submission(10_000_000)))
    rates = []
    for _ in range(5):
        cycles = 0
        began = CLOCK()
        while (spent := CLOCK() - began) < seconds:
            grants = granted(apply_encoded(machine, encode_command(acquires)))
            data = encode_command(completions(grants, windows))
            for reply in apply_encoded(machine, data).replies:
                for outcome in reply.outcomes:
                    if not isinstance(outcome, Completed):
                        raise SystemExit(f"expected a completion, got {outcome}")
            cycles += len(grants)
            if cycles % (digest_every * REQUESTS_PER_COMMAND // 2) == 0:
                machine.state_digest()
        rates.append(cycles / spent)
    rates.sort()
    label = f"{windows} a request, digest every {digest_every} commands"
    print(f"cycles per second, codec included, {label}: {rates[2]:,.0f} (best {rates[4]:,.0f})")


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each cycle run")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, msgspec {msgspec.__version__}, {platform.machine()}"
    )
    print(f"{sys.platform}, {_processor()}")
    measure_submit()
    measure_claims()
    measure_cycles(options.seconds, digest_every=4_096)
    measure_cycles(options.seconds, digest_every=64)
    measure_cycles(options.seconds, digest_every=64, windows=16)


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        return platform.processor()
    return f"{len(names)} × {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
