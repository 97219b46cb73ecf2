"""Measure what a store costs a worker: rows per second from write to visible to read back.

Run with ``python tests/bench/stores.py [--store parquet|questdb|memory] [--windows N]``. Prints the
environment and, for several ways of working, medians of three runs. ``send only`` is the bare
client without waiting or reading: the floor that a worker is compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from seamfill.bars import content_digest
from seamfill.connectors import GenRange, Store, WindowWrite
from seamfill.memory_store import MemoryStore
from seamfill.sources.questdb_address import QuestDBAddress
from seamfill.testing.store_contract import StoreContract, make_window
from seamfill_chaos.parts.questdb import running
from seamfill_worker.stores.questdb_sender import QuestDBSender
from seamfill_worker.stores.registry import open_store

BARS = 1_800
SYMBOLS = 8
RUNS = 3

Way = Callable[[Store, Sequence[WindowWrite]], Awaitable[None]]


def windows_of(run: int, count: int) -> list[WindowWrite]:
    """Return windows as workers get them: the same time of many symbols, then the next time."""
    first_ms = 1_600_041_600_000 + run * 400 * BARS * 60_000
    return [
        make_window(
            f"S{at % SYMBOLS}/USDT",
            start_ms=first_ms + at // SYMBOLS * BARS * 60_000,
            bars=BARS,
            fence=at + 1,
            seed=at,
        )
        for at in range(count)
    ]


async def check(store: Store, window: WindowWrite, expected: str) -> None:
    """Read a window back and compare, as a worker does before it completes."""
    whole = GenRange(start_ms=window.start_ms, end_ms=window.end_ms, gen=window.gen)
    found = await store.read(window.series, [whole])
    assert content_digest(found) == expected


async def one_by_one(store: Store, windows: Sequence[WindowWrite]) -> None:
    """Write, wait and read back each window before the next."""
    for window in windows:
        await store.write([window])
        await check(store, window, content_digest(window.bars))


async def many_at_once(store: Store, windows: Sequence[WindowWrite]) -> None:
    """Eight leases in flight, each written, waited for and read back on its own."""
    waiting = list(reversed(windows))

    async def lease() -> None:
        while waiting:
            window = waiting.pop()
            expected = content_digest(window.bars)
            await store.write([window])
            await check(store, window, expected)

    async with asyncio.TaskGroup() as group:
        for _ in range(SYMBOLS):
            group.create_task(lease())


async def write_only(store: Store, windows: Sequence[WindowWrite]) -> None:
    """Eight windows a write, visible, not read back."""
    for at in range(0, len(windows), SYMBOLS):
        await store.write(windows[at : at + SYMBOLS])


async def read_only(store: Store, windows: Sequence[WindowWrite]) -> None:
    """Read back and digest, four at once."""
    for at in range(0, len(windows), 4):
        await asyncio.gather(
            *(check(store, each, content_digest(each.bars)) for each in windows[at : at + 4])
        )


async def measure(name: str, way: Way, store: Store, windows: Sequence[WindowWrite]) -> float:
    began = time.perf_counter()
    await way(store, windows)
    took = time.perf_counter() - began
    return len(windows) * BARS / took


@asynccontextmanager
async def a_store(kind: str, place: Path) -> AsyncIterator[tuple[Store, Mapping[str, str]]]:
    if kind == "memory":
        yield MemoryStore(), {}
    elif kind == "parquet":
        yield open_store(f"parquet:{place}", environment={}), {}
    elif os.environ.get("QUESTDB_DSN"):
        yield open_store("questdb:bench_bars", environment=os.environ), os.environ
    else:
        async with running(place) as server:
            store = open_store("questdb:bench_bars", environment=server.environment)
            yield store, server.environment


async def bench(kind: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        async with a_store(kind, Path(place)) as (store, environment):
            await store.prepare(StoreContract.spec)
            await write_only(store, windows_of(99, SYMBOLS))  # connections, first partitions
            report: dict[str, list[float]] = {}
            run = 0
            for _ in range(RUNS):
                for way in (one_by_one, many_at_once, write_only, read_only):
                    run += way is not read_only
                    rate = await measure(way.__name__, way, store, windows_of(run, count))
                    report.setdefault(way.__name__, []).append(rate)
                if kind == "questdb":
                    run += 1
                    rate = await send_only(environment, windows_of(run, count))
                    report.setdefault("send_only", []).append(rate)
            await store.aclose()
    for name, rates in report.items():
        low, middle, high = min(rates), statistics.median(rates), max(rates)
        print(f"  {kind:8} {name:13} {middle:10,.0f} rows/s   ({low:,.0f} … {high:,.0f})")


async def send_only(environment: Mapping[str, str], windows: Sequence[WindowWrite]) -> float:
    """The bare client: acknowledged, neither visible nor read back."""
    address = QuestDBAddress.from_environment(environment, http_required=True)
    assert address.http is not None
    sender = QuestDBSender(address.http, "bench_bars")
    began = time.perf_counter()
    for window in windows:
        await sender.send([window])
    took = time.perf_counter() - began
    await sender.aclose()
    return len(windows) * BARS / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", choices=["memory", "parquet", "questdb"], action="append")
    parser.add_argument("--windows", type=int, default=64)
    options = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} CPUs{load}")
    print(f"{options.windows} windows of {BARS} bars, {SYMBOLS} symbols, median of {RUNS} runs")
    for kind in options.store or ["memory", "parquet", "questdb"]:
        asyncio.run(bench(kind, options.windows))


if __name__ == "__main__":
    main()
