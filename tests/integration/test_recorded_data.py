"""The main job on recorded market data: real processes, real ccxt, real QuestDB, real files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from integration import recorded
from integration.filling import (
    StoreUnderTest,
    a_world,
    assert_everything_is_there,
    bars_of,
    coverage,
    create_backfill,
    fetch,
    fill,
    klines_asked,
    start_all,
    watch_backfill,
)
from integration.recorded import MINUTE_MS, Recording
from seamfill.bars import Bars, content_digest
from seamfill_chaos.live.world import Exchange, World

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]


async def test_recorded_history_is_filled_stored_and_served_exactly(
    store: StoreUnderTest, tmp_path: Path
) -> None:
    """Six symbols from a day before their first bar to the end of their last one."""
    recordings = recorded.load_all()
    async with a_world(tmp_path, store) as world:
        exchange = await start_all(world, tmp_path, store)
        endings = await fill(world, recordings, store=store, timeout_s=300)
        for recording, ending in zip(recordings, endings, strict=True):
            assert ending["state"] == "complete"
            assert ending["bars_verified"] == len(recording.bars)
            await assert_everything_is_there(world, recording, store, tmp_path)
        await assert_listing_was_learnt_once(exchange, recordings)

        asked = await klines_asked(exchange)
        for recording in recordings:
            again = await create_backfill(
                world, [recording.symbol], recording.start_ms, recording.end_ms, store=store
            )
            assert again["windows"] == 0
            assert again["already_covered"] == len(recording.bars)
            await assert_everything_is_there(world, recording, store, tmp_path)
        assert await klines_asked(exchange) == asked


async def assert_listing_was_learnt_once(
    exchange: Exchange, recordings: Sequence[Recording]
) -> None:
    """Two agreeing answers from the beginning of time a symbol and worker, not one per window."""
    requests = (await exchange.look("requests"))["requests"]
    for recording in recordings:
        beginnings = [
            request
            for request in requests
            if request["path"] == "/api/v3/klines"
            and f"symbol={recording.file_symbol}&" in request["query"] + "&"
            and int(parse_qs(request["query"])["startTime"][0]) <= MINUTE_MS
        ]
        assert 2 <= len(beginnings) <= 4, (recording.symbol, len(beginnings))


async def test_a_restated_range_changes_at_once_and_the_old_values_stay_readable(
    store: StoreUnderTest, tmp_path: Path
) -> None:
    """A reader sees all old values or all new ones, and the old ones still with as_of."""
    recording = recorded.load("ETH/BTC")
    start_ms = recording.first_ms + 2000 * MINUTE_MS
    end_ms = start_ms + 500 * MINUTE_MS
    around = (start_ms - 100 * MINUTE_MS, end_ms + 100 * MINUTE_MS)
    old = recording.bars.between(*around)
    async with a_world(tmp_path, store) as world:
        exchange = await start_all(world, tmp_path, store, exchange_options=["--delay-ms", "300"])
        await fill(world, [recording], store=store, timeout_s=300)
        before = await coverage(world, recording.symbol, *around)
        await exchange.control(
            "restate",
            {
                "symbol": recording.file_symbol,
                "start_ms": start_ms,
                "end_ms": end_ms,
                "factor": 1.25,
            },
        )
        truth = await exchange.look(
            "bars", symbol=recording.file_symbol, start_ms=around[0], end_ms=around[1]
        )
        new = Bars.from_rows(truth["bars"])
        assert content_digest(new) != content_digest(old)
        redo = await create_backfill(
            world,
            [recording.symbol],
            start_ms,
            end_ms,
            store=store,
            options=["--redo", "restated", "--window-bars", "500"],
        )
        seen = set()
        done = asyncio.create_task(watch_backfill(world, redo["id"], timeout_s=120))
        finished = False
        while not finished:
            finished = done.done()
            printed, served = await fetch(
                world, recording.symbol, *around, store=store, output=tmp_path / "during.parquet"
            )
            assert printed.exit_code == 0, printed.stderr
            digest = content_digest(served)
            assert digest in {content_digest(old), content_digest(new)}, "a mixture was served"
            seen.add(digest)
        assert (await done).exit_code == 0
        assert content_digest(new) in seen
        _, pinned = await fetch(
            world,
            recording.symbol,
            *around,
            store=store,
            output=tmp_path / "as_of.parquet",
            options=["--as-of", str(before["rev"])],
        )
        assert content_digest(pinned) == content_digest(old)


async def test_an_open_bar_is_stored_only_after_it_closed_and_settled(
    store: StoreUnderTest, tmp_path: Path
) -> None:
    """The last bar has 40 s to go when the backfill is asked for; the one before has settled."""
    recording = recorded.load("BTC/USDT")
    start_ms = recording.last_ms - 50 * MINUTE_MS
    async with a_world(tmp_path, store) as world:
        exchange = await start_all(
            world,
            tmp_path,
            store,
            exchange_options=["--now", str(recording.last_ms - 10 * MINUTE_MS)],
        )
        # Only now: starting everything takes its time, and the exchange's clock runs.
        await exchange.control("now", {"now": recording.last_ms + 20_000})
        created = await create_backfill(
            world, [recording.symbol], start_ms, recording.end_ms, store=store
        )
        await closed_part_is_covered(world, recording, start_ms)
        stored = bars_of(store.rows(recording.symbol))
        assert int(stored.ts_ms[-1]) == recording.last_ms - MINUTE_MS
        await exchange.control("now", {"now": recording.end_ms + 3_000})
        printed = await watch_backfill(world, created["id"], timeout_s=120)
        assert printed.exit_code == 0, printed.stdout + printed.stderr
        stored = bars_of(store.rows(recording.symbol))
        assert content_digest(stored) == content_digest(
            recording.bars.between(start_ms, recording.end_ms)
        )


async def closed_part_is_covered(world: World, recording: Recording, start_ms: int) -> None:
    """Wait until all but the open bar are covered."""
    async with asyncio.timeout(60):
        while True:
            seen = await coverage(world, recording.symbol, start_ms, recording.end_ms)
            if [part[:2] for part in seen["covered"]] == [[start_ms, recording.last_ms]]:
                return
            await asyncio.sleep(0.5)  # real processes: nothing here to hand a clock to
