"""Snapshots of a large machine, while commands go on: how long does a turn of the loop get?

Builds a machine with 100,000 live leases on 10,000 series and 65,536 remembered completions, then
has turns as a node has them: a command of 64 renewals or of acquires and completions, a digest
point every 64 commands, and, where a snapshot is being written, one slice of it. The same turns
without a snapshot come first, for what they cost by themselves. Then the file is loaded as at a
start, and received in pieces as from a leader.

Cyclic garbage is collected meanwhile, as in a node that leads; the longest pauses while the state
grew and in the turns are a line of their own, and so is the thorough collection that a node has
when it follows. Times are wall clock, and in brackets the CPU time of this process, on which
neighbours have less influence.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from msgspec.structs import replace

from bench.environment import describe
from bench.machine import ACQUIRE, INTERVAL_MS, WINDOW_BARS, command, completions, granted
from seamfill.clock import SystemClock
from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import DatasetSpec, LeaseRef, SeriesId
from seamfill_coordinator.garbage import GarbageCollection
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import Command, Renew, Submit
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Grant
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.digests import DIGEST_EVERY
from seamfill_coordinator.raft.journal_files import OsFiles
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore, SnapshotWriter

SERIES = 10_000
SERIES_PER_SUBMIT = 2_000
LIVE_LEASES = 99_840
"""As many as fit below the cap of 100,000 and leave room for the turns' own."""
COMPLETIONS = 65_536
PER_COMMAND = 64
T = TypeVar("T")
PART_BYTES = 256 << 10
PLAIN_TURNS = 400
ROUNDS = 3


@dataclass(slots=True)
class Load:
    """A machine under load, turn by turn."""

    applier: Applier = field(default_factory=lambda: Applier(LeaseMachine()))
    index: int = 0
    live: deque[Grant] = field(default_factory=deque)

    def apply(self, command: Command) -> Applied:
        self.index += 1
        applied = self.applier.apply(self.index, encode_command(command))
        self.applier.digests.reached(self.index)
        return applied

    def grow(self) -> None:
        """Have the first windows of each series completed, and some of the next ones leased."""
        acquire = replace(ACQUIRE, max_windows=32, ttl_ms=600_000)
        for first in range(0, SERIES, SERIES_PER_SUBMIT):
            self.apply(command(submission(first, 0, 7)))
        for _ in range(0, COMPLETIONS, 32 * 32):
            self.apply(completions(granted(self.apply(command(*[acquire] * 32))), 16))
        for first in range(0, SERIES, SERIES_PER_SUBMIT):
            is_last = first + SERIES_PER_SUBMIT == SERIES
            self.apply(command(submission(first, 7, 38 if is_last else 18)))
        while len(self.live) < LIVE_LEASES:
            self.live.extend(granted(self.apply(command(*[acquire] * 4))))

    def turn(self) -> None:
        """Renew 64 leases, or complete 64 and acquire as many."""
        if self.index % 2:
            old = [self.live.popleft() for _ in range(PER_COMMAND)]
            self.apply(command(*[renewal(grant) for grant in old]))
            self.live.extend(old)
        else:
            done = [self.live.popleft() for _ in range(PER_COMMAND)]
            self.apply(completions(done, 1))
            acquire = replace(ACQUIRE, ttl_ms=600_000)
            self.live.extend(granted(self.apply(command(*[acquire] * PER_COMMAND))))


def submission(first: int, start: int, end: int) -> Submit:
    """Return a Submit of windows [start, end) of some series."""
    window_ms = WINDOW_BARS * INTERVAL_MS
    return Submit(
        backfill_id=f"bench-{first}-{start}",
        dataset="bench",
        spec=DatasetSpec(
            kind="ohlcv", interval_ms=INTERVAL_MS, source="ccxt:bench", store="questdb:bench"
        ),
        wanted=tuple(
            Wanted(symbol=f"S{i:05d}/USDT", start_ms=start * window_ms, end_ms=end * window_ms)
            for i in range(first, first + SERIES_PER_SUBMIT)
        ),
        closed_before_ms=0,
        window_bars=WINDOW_BARS,
        priority=0,
        deadline_ms=None,
        redo=None,
        dry_run=False,
    )


def renewal(grant: Grant) -> Renew:
    return Renew(
        lease=LeaseRef(
            series=SeriesId(dataset=grant.dataset, symbol=grant.symbol),
            start_ms=grant.start_ms,
            end_ms=grant.end_ms,
            fence=grant.fence,
        ),
        ttl_ms=600_000,
        cursor_ms=grant.start_ms,
    )


class Collections:
    """Measures every collection of cyclic garbage that Python begins by itself."""

    def __init__(self) -> None:
        self._began = 0.0
        self._ms: list[float] = []
        gc.callbacks.append(self._about)

    def so_far(self) -> str:
        """Return how many there were since this was last asked, and the longest."""
        text = f"{len(self._ms)}, longest {max(self._ms, default=0):.1f} ms"
        self._ms.clear()
        return text

    def _about(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._ms.append((time.perf_counter() - self._began) * 1000)


class Stopwatch:
    """Measures calls by wall clock and by CPU time, both in ms."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def time(self, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.cpu.append((time.process_time() - cpu) * 1000)
        self.wall.append((time.perf_counter() - wall) * 1000)
        return result

    @property
    def longest(self) -> str:
        return f"{max(self.wall):.1f} ms [{max(self.cpu):.1f}]"

    @property
    def middle(self) -> str:
        return f"{statistics.median(self.wall):.1f} ms [{statistics.median(self.cpu):.1f}]"

    @property
    def total(self) -> str:
        return f"{sum(self.wall) / 1000:.2f} s [{sum(self.cpu) / 1000:.2f}]"


def write(load: Load, store: SnapshotStore) -> SnapshotInfo:
    """Write a snapshot, a slice a turn, and print how it went."""
    capture, slices, turns = Stopwatch(), Stopwatch(), Stopwatch()

    def first_turn() -> SnapshotWriter:
        load.turn()
        return capture.time(
            lambda: store.begin(
                load.applier.machine, last_index=load.index, last_term=1, configuration=None
            )
        )

    def next_turn() -> SnapshotInfo | None:
        load.turn()
        return slices.time(writer.step)

    writer = turns.time(first_turn)
    while (info := turns.time(next_turn)) is None:
        pass
    print(
        f"  written: capture {capture.longest}; {len(slices.wall)} slices, p50 {slices.middle}, "
        f"longest {slices.longest}; longest turn {turns.longest}; total {turns.total}; "
        f"{info.size / 1e6:.1f} MB"
    )
    return info


def load_file(info: SnapshotInfo, store: SnapshotStore) -> None:
    """Load it as at a start, and print how long that took."""
    loading = Stopwatch()
    machine = loading.time(lambda: store.load(info))
    print(f"  loaded in {loading.total}")
    del machine  # off the clock: letting go of a machine takes its time too
    gc.collect()


def receive(info: SnapshotInfo, source: SnapshotStore, target: SnapshotStore) -> None:
    """Receive it piece by piece, and print how it went."""
    reader = source.open(info)
    receiver = target.receive(last_index=info.last_index, last_term=1, size=info.size)
    pieces, finishing = Stopwatch(), Stopwatch()
    while not receiver.is_complete:
        data = reader.read(receiver.offset, PART_BYTES)
        assert pieces.time(lambda: receiver.add(receiver.offset, data))  # noqa: B023
    reader.close()
    _, machine = finishing.time(receiver.finish)
    print(
        f"  received: {len(pieces.wall)} pieces of 256 KiB, p50 {pieces.middle}, "
        f"longest {pieces.longest}; together {pieces.total}; finish {finishing.longest}"
    )
    del machine
    gc.collect()


def main() -> None:
    print("Snapshots: 100,000 live leases, 10,000 series, 65,536 completions, commands meanwhile")
    print(describe("msgspec"))
    # Not in the system's temporary directory, which may be memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        source = SnapshotStore(Path(scratch) / "a", OsFiles(), cluster_id="bench")
        target = SnapshotStore(Path(scratch) / "b", OsFiles(), cluster_id="bench")
        load = Load()
        with GarbageCollection(is_following=lambda: False, clock=SystemClock()):
            info = lead(load, source)
        thorough = Stopwatch()
        thorough.time(gc.collect)
        print(f"  a thorough collection, which a node has when it follows: {thorough.longest}")
        with GarbageCollection(is_following=lambda: True, clock=SystemClock()):
            for _ in range(ROUNDS):
                load_file(info, source)
            for _ in range(ROUNDS):
                receive(info, source, target)


def lead(load: Load, store: SnapshotStore) -> SnapshotInfo:
    """Grow a state, have turns without snapshots and with them, and print how that went."""
    collections = Collections()
    load.grow()
    state = load.applier.machine.state
    print(
        f"  {len(state.leases):,} leases, {len(state.series):,} series, "
        f"{len(state.completions):,} completions, index {load.index:,}"
    )
    print(f"  collections of cyclic garbage while they came: {collections.so_far()}")
    kept = sum(len(row) + 33 for row in load.applier.machine.capture().rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  bytes kept on rows {kept / 1e6:.1f} MB, of {peak:.0f} MB that the process has")
    turns = Stopwatch()
    for _ in range(PLAIN_TURNS):
        turns.time(load.turn)
    print(
        f"  turns without a snapshot: p50 {turns.middle}, longest {turns.longest} "
        f"(digest every {DIGEST_EVERY} commands)"
    )
    for _ in range(ROUNDS):
        info = write(load, store)
        store.drop_older_than(info)
    print(f"  collections in all these turns: {collections.so_far()}")
    return info


if __name__ == "__main__":
    main()
