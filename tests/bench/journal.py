"""The journal alone: groups and entries per second on this disk, beside pysyncobj's own.

Each side appends entries of 200 bytes in groups of 1, 64 and 1,024 and makes every group safe in
the only way it has: ours with ``sync`` (one write and one fdatasync), pysyncobj's ``FileJournal``
with ``flush`` (msync of its whole map). Stock pysyncobj never calls that ``flush``; how fast it is
without is the third row, and what the bare disk allows (write and fdatasync of the same bytes into
reserved space) the first. Rounds alternate between the sides; the median of each is printed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pysyncobj.journal import FileJournal

from bench.environment import describe
from seamfill_coordinator.raft.journal import open_journal

COMMAND = b"\0" + b"x" * 199
GROUP_SIZES = (1, 64, 1024)
ROUND_S = 1.0
ROUNDS = 3

Append = Callable[[int, int], None]
"""Append and make safe: first index, count."""


def bare(directory: Path) -> tuple[Append, Callable[[], None]]:
    file = os.open(directory / "bare", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, 64 << 20)
    os.fsync(file)
    end = 0

    def append(_first: int, count: int) -> None:
        nonlocal end
        data = COMMAND * count
        if end + len(data) > 64 << 20:
            end = 0
        os.pwrite(file, data, end)
        os.fdatasync(file)
        end += len(data)

    return append, lambda: os.close(file)


def ours(directory: Path) -> tuple[Append, Callable[[], None]]:
    def fatal(what: str, exc: BaseException) -> None:
        raise SystemExit(f"{what}: {exc}")

    journal = open_journal(directory / "ours", cluster_id="b", incarnation="b", fatal=fatal)

    def append(first: int, count: int) -> None:
        for index in range(first, first + count):
            journal.add(COMMAND, index, 1)
        journal.sync()

    return append, journal.close


def stock(directory: Path, *, flush: bool) -> tuple[Append, Callable[[], None]]:
    journal = FileJournal(str(directory / f"stock{flush}"))

    def append(first: int, count: int) -> None:
        for index in range(first, first + count):
            journal.add(COMMAND, index, 1)
        if flush:
            journal.flush()

    return append, journal._destroy


SIDES: dict[str, Callable[[Path], tuple[Append, Callable[[], None]]]] = {
    "bare disk, write + fdatasync": bare,
    "seamfill, one group per sync": ours,
    "pysyncobj, never synced (stock)": lambda directory: stock(directory, flush=False),
    "pysyncobj, flush after each group": lambda directory: stock(directory, flush=True),
}


def run(side: str, count: int) -> tuple[float, list[float]]:
    """Return groups per second and the latencies in ms of one round."""
    # Not in the system's temporary directory, which may be memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        append, close = SIDES[side](Path(scratch))
        latencies: list[float] = []
        index, started = 1, time.perf_counter()
        while (now := time.perf_counter()) - started < ROUND_S:
            append(index, count)
            latencies.append((time.perf_counter() - now) * 1000)
            index += count
        rate = len(latencies) / (time.perf_counter() - started)
        close()
    return rate, latencies


def main() -> None:
    print("Raft journal: entries of 200 bytes, in groups that are safe before the next one begins")
    print(describe("pysyncobj"))
    for count in GROUP_SIZES:
        print(f"\n  {count:,} entries in a group")
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        latencies: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(ROUNDS):
            for side in SIDES:
                rate, round_latencies = run(side, count)
                rates[side].append(rate)
                latencies[side].extend(round_latencies)
        for side in SIDES:
            rate = statistics.median(rates[side])
            ordered = sorted(latencies[side])
            print(
                f"    {side:<34} {rate:>9,.0f} groups/s {rate * count:>11,.0f} entries/s   "
                f"p50 {ordered[len(ordered) // 2]:.2f} ms  p99 "
                f"{ordered[int(len(ordered) * 0.99)]:.2f} ms"
            )


if __name__ == "__main__":
    main()
