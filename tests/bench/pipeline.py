"""Rows per second from source to verified in QuestDB, beside the bare loop anybody would write.

Both sides fetch the same 1,800-bar windows of the same exchange through ccxt with its limiter off,
and write through the official client into a table of the same definition. The bare loop believes
what it gets and stops at the acknowledgement. The other side is the product: three coordinators,
two workers, leases, validation, read-back, completion by a Raft commit.

Three runs of each, alternating, each into a table of its own; the median counts.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.environment import describe
from integration.filling import StoreUnderTest, a_world, create_backfill, watch_backfill
from seamfill_chaos.live.world import Exchange
from seamfill_chaos.parts import questdb

SYMBOLS = 8
WINDOW_BARS = 1_800
WINDOWS = 40
BARS = WINDOW_BARS * WINDOWS
START_MS = 1_704_067_200_000 // (WINDOW_BARS * 60_000) * (WINDOW_BARS * 60_000) + (
    WINDOW_BARS * 60_000
)
RUNS = 3
BARE_LOOP = Path(__file__).with_name("_bare_loop.py")


async def bare_loop(exchange: Exchange, environment: dict[str, str], table: str) -> float:
    """Run the bare loop in a process of its own; return its rows per second."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(BARE_LOOP),
        *(exchange.url, environment["QUESTDB_HTTP"], table),
        *(str(START_MS), str(WINDOWS), str(WINDOW_BARS), ",".join(symbol_names())),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise SystemExit("the bare loop failed")
    return float(output)


async def product(
    exchange_options: list[str], store: StoreUnderTest, directory: Path
) -> tuple[float, int]:
    """Fill the same windows with three coordinators and two workers; rows per second, violated."""
    async with a_world(directory, store) as world:
        exchange = await world.start_exchange(*exchange_options)
        await world.start_cluster(directory / "cluster")
        for name in ("w1", "w2"):
            await world.start_worker(name, exchange, "--store", store.spec)
        await asyncio.sleep(1)  # both workers are importing ccxt no longer: they are ready
        started = time.perf_counter()
        created = await create_backfill(
            world, symbol_names(), START_MS, START_MS + BARS * 60_000, store=store
        )
        printed = await watch_backfill(world, created["id"], timeout_s=300)
        elapsed_s = time.perf_counter() - started
        if printed.exit_code != 0:
            raise SystemExit(printed.stdout + printed.stderr)
        return BARS * SYMBOLS / elapsed_s, printed.exit_code


def symbol_names() -> list[str]:
    return [f"S{number}/USDT" for number in range(SYMBOLS)]


def create_table(environment: dict[str, str], table: str) -> None:
    """Give the bare loop a table of the product's own definition."""
    with psycopg.connect(environment["QUESTDB_DSN"], autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE {table} (ts TIMESTAMP, symbol SYMBOL, gen INT, open DOUBLE, "
            "high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE) TIMESTAMP(ts) "
            "PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, symbol, gen)"
        )


async def main() -> None:
    print("source → QuestDB, rows per second")
    print(describe("ccxt", "questdb", "pysyncobj", "aiohttp"))
    print(
        f"{SYMBOLS} symbols × {WINDOWS} windows of {WINDOW_BARS:,} bars = {BARS * SYMBOLS:,} rows"
    )
    options = [
        *("--symbols", ",".join(name.replace("/", "") for name in symbol_names())),
        *("--bars", str(BARS + 10_000), "--outages", "0", "--weight-limit", "1000000000"),
        "--warm",
    ]
    bare: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        server = await questdb.start(directory / "questdb")
        environment = dict(server.environment)
        try:
            for run in range(RUNS):
                create_table(environment, f"bare_{run}")
                store = StoreUnderTest(spec=f"questdb:bare_{run}", environment=environment)
                async with a_world(directory / f"bare{run}", store) as world:
                    exchange = await world.start_exchange(*options)
                    bare.append(await bare_loop(exchange, environment, f"bare_{run}"))
                store = StoreUnderTest(spec=f"questdb:ours_{run}", environment=environment)
                rate, _ = await product(options, store, directory / f"ours{run}")
                ours.append(rate)
                print(f"  run {run + 1}: bare loop {bare[-1]:>9,.0f}   seamfill {ours[-1]:>9,.0f}")
        finally:
            await server.stop()
    share = statistics.median(ours) / statistics.median(bare)
    print(
        f"  median: bare loop {statistics.median(bare):,.0f}, "
        f"seamfill (verified) {statistics.median(ours):,.0f}: {share:.0%} (aim: at least 80 %)"
    )


if __name__ == "__main__":
    asyncio.run(main())
