"""Steps that the acceptance runs share: submit, watch, look, read, all by the public commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq

from integration.recorded import (
    DATASET,
    Recording,
    assert_coverage,
    assert_rows,
)
from real_parts import recorded_data
from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.protocol.values import SeriesId
from seamfill.sources.parquet_layout import series_directory
from seamfill_chaos.live.command import Printed, run_command
from seamfill_chaos.live.processes import Processes
from seamfill_chaos.live.world import Exchange, World

ROWS = "cast(ts as long) / 1000, symbol, gen, open, high, low, close, volume"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUnderTest:
    """Where workers write: its name, the environment that leads there, and a raw look inside."""

    spec: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def rows(self, symbol: str) -> list[tuple[Any, ...]]:
        """Return every stored row of a symbol, of whatever generation, by a way of its own."""
        kind, _, place = self.spec.partition(":")
        if kind == "questdb":
            return self._questdb_rows(place, symbol)
        return self._parquet_rows(Path(place), symbol)

    def _questdb_rows(self, table: str, symbol: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environment["QUESTDB_DSN"], autocommit=True) as connection:
            return connection.execute(
                f"SELECT {ROWS} FROM {table} WHERE symbol = %s ORDER BY ts, gen",
                (symbol,),
            ).fetchall()

    @staticmethod
    def _parquet_rows(directory: Path, symbol: str) -> list[tuple[Any, ...]]:
        # Every file counts here, also those that a higher fence has overruled: whatever a frozen
        # worker wrote late must be the same rows. Equal rows of two files are one row.
        folder = series_directory(directory, SeriesId(dataset=DATASET, symbol=symbol))
        rows: set[tuple[Any, ...]] = set()
        for path in folder.glob("g*/*.parquet"):
            gen = int(path.parent.name.removeprefix("g"))
            bars = pq.read_table(path).to_pydict()
            times = [int(ts.timestamp() * 1000) for ts in bars["ts"]]
            values = zip(*(bars[name] for name in VALUE_COLUMNS), strict=True)
            rows |= {(ts, symbol, gen, *row) for ts, row in zip(times, values, strict=True)}
        return sorted(rows)


@asynccontextmanager
async def a_world(directory: Path, store: StoreUnderTest) -> AsyncIterator[World]:
    """Yield an empty world whose processes end with the block."""
    async with Processes(directory / "logs") as processes:
        yield World(processes, environment=store.environment)


async def start_all(
    world: World,
    directory: Path,
    store: StoreUnderTest,
    *,
    workers: Sequence[str] = ("w1", "w2"),
    exchange_options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
) -> Exchange:
    """Start exchange, three coordinators and workers."""
    exchange = await world.start_exchange(
        "--data", recorded_data(), "--weight-limit", "1000000", *exchange_options
    )
    await world.start_cluster(directory / "cluster")
    await asyncio.gather(
        *(
            world.start_worker(name, exchange, "--store", store.spec, *worker_options)
            for name in workers
        )
    )
    return exchange


async def klines_asked(exchange: Exchange) -> int:
    """Return how many pages of bars the exchange was asked for so far."""
    document = await exchange.look("requests")
    return int(document["paths"]["/api/v3/klines"]["total"])


async def assert_everything_is_there(
    world: World, recording: Recording, store: StoreUnderTest, directory: Path
) -> None:
    """Compare coverage, the raw store, and what the SDK serves with the recording."""
    assert_coverage(
        await coverage(world, recording.symbol, recording.start_ms, recording.end_ms), recording
    )
    assert_rows(bars_of(store.rows(recording.symbol)), recording)
    printed, served = await fetch(
        world,
        recording.symbol,
        recording.start_ms,
        recording.end_ms,
        store=store,
        output=directory / f"{recording.file_symbol}.parquet",
    )
    assert printed.exit_code == 0, printed.stderr
    assert_rows(served, recording)
    for hole in recording.holes():
        assert hole.reason in printed.stderr


def endpoints(world: World, option: str = "--endpoint") -> list[str]:
    return [word for url in world.coordinator_urls for word in (option, url)]


async def create_backfill(
    world: World,
    symbols: Sequence[str],
    start_ms: int,
    end_ms: int,
    *,
    store: StoreUnderTest,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """`coordinator backfill create`; return its document."""
    named = [word for symbol in symbols for word in ("--symbol", symbol)]
    printed = await run_command(
        *("coordinator", "backfill", "create", "--dataset", DATASET, *named),
        *("--start", str(start_ms), "--end", str(end_ms), "--store", store.spec),
        *(*endpoints(world), "-o", "json", *options),
    )
    document = printed.document()
    assert isinstance(document, dict)
    return document


async def watch_backfill(world: World, backfill_id: str, *, timeout_s: float) -> Printed:
    """`coordinator backfill watch`, to its end."""
    return await run_command(
        *("coordinator", "backfill", "watch", backfill_id, "--timeout", str(timeout_s)),
        *("-o", "jsonl", *endpoints(world)),
        timeout_s=timeout_s + 30,
    )


async def fill(
    world: World,
    recordings: Sequence[Recording],
    *,
    store: StoreUnderTest,
    timeout_s: float,
    options: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Ask for each recording's whole range and wait; return each backfill's last line."""
    created = [
        await create_backfill(
            world,
            [recording.symbol],
            recording.start_ms,
            recording.end_ms,
            store=store,
            options=options,
        )
        for recording in recordings
    ]
    endings = []
    for document in created:
        printed = await watch_backfill(world, document["id"], timeout_s=timeout_s)
        assert printed.exit_code == 0, printed.stderr + printed.stdout[-500:]
        endings.append(json.loads(printed.stdout.splitlines()[-1]))
    return endings


async def coverage(
    world: World, symbol: str, start_ms: int | None = None, end_ms: int | None = None
) -> dict[str, Any]:
    """`coordinator coverage show -o json`."""
    span: list[str] = []
    if start_ms is not None and end_ms is not None:
        span = ["--start", str(start_ms), "--end", str(end_ms)]
    printed = await run_command(
        *("coordinator", "coverage", "show", "--dataset", DATASET, "--symbol", symbol),
        *(*span, *endpoints(world), "-o", "json"),
    )
    document = printed.document()
    assert isinstance(document, dict)
    return document


async def fetch(
    world: World,
    symbol: str,
    start_ms: int,
    end_ms: int,
    *,
    store: StoreUnderTest,
    output: Path,
    options: Sequence[str] = (),
) -> tuple[Printed, Bars]:
    """`seamfill fetch`; return what it printed and the bars it wrote."""
    printed = await run_command(
        *("seamfill", "fetch", DATASET, symbol, "--start", str(start_ms), "--end", str(end_ms)),
        *(*endpoints(world, "--coordinator"), "--store", store.spec, "--output", str(output)),
        *options,
        environment=store.environment,
    )
    written = output.exists()  # a local file, in a test
    return printed, read_frame(output) if written else Bars.empty()


def read_frame(path: Path) -> Bars:
    """Read a file that `seamfill fetch` wrote."""
    table = pq.read_table(path)
    assert table.column_names == ["ts", "open", "high", "low", "close", "volume"]
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return Bars(
        ts_ms=columns["ts"],
        open=columns["open"],
        high=columns["high"],
        low=columns["low"],
        close=columns["close"],
        volume=columns["volume"],
    )


def bars_of(rows: Sequence[tuple[Any, ...]]) -> Bars:
    """Turn raw rows (ts_ms, symbol, gen, open, high, low, close, volume) into bars."""
    return Bars.from_rows([(row[0], *row[3:]) for row in rows])
