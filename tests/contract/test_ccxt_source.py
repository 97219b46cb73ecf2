"""``CcxtSource`` against the exchange simulator: right bars, or an error saying what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from contract.exchange_rig import HISTORY, MINUTE, START, Rig, exchange_at
from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.connectors import Venue
from seamfill.errors import (
    InvalidInput,
    SourceMalformed,
    SourceRateLimited,
    SourceRejected,
    SourceUnavailable,
    UnknownSymbol,
)
from seamfill_chaos.exchange.app import ExchangeConfig
from seamfill_worker.sources.ccxt import CcxtSource

ETH = "ETH/USDT"
SETTLE = 2_000
VENUE = Venue(
    name="ccxt:binance", page_bars=1_000, page_weight=2, weight_per_minute=6_000, settle_ms=SETTLE
)


@asynccontextmanager
async def source_at(
    lies: str = "", *, config: ExchangeConfig | None = None, timeout_ms: int = 2_000
) -> AsyncIterator[tuple[CcxtSource, Rig]]:
    async with exchange_at(config, lies=lies) as rig:
        source = CcxtSource("binance", VENUE, url=rig.url, timeout_ms=timeout_ms)
        try:
            yield source, rig
        finally:
            await source.aclose()


def assert_same(bars: Bars, truth: Bars) -> None:
    assert bars.ts_ms.tolist() == truth.ts_ms.tolist()
    for name in VALUE_COLUMNS:
        assert np.array_equal(getattr(bars, name), getattr(truth, name)), name


async def test_a_page_holds_the_bars_and_the_evidence() -> None:
    async with source_at() as (source, rig):
        page = await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=500)
        assert_same(page.bars, rig.bars.between(START, int(page.bars.ts_ms[-1]) + 1))
        assert len(page.bars) == page.asked.rows == 500
        assert page.asked.start_ms == START
        assert page.asked.end_ms == int(page.bars.ts_ms[-1]) + MINUTE
        assert page.asked.http_status == 200
        assert len(page.asked.body_sha256) == 64
        assert abs(page.asked.server_time_ms - rig.exchange.clock.now_ms()) < 30_000
        assert page.usage.used_weight is not None and page.usage.used_weight > 0
        assert page.open_from_ms is None


async def test_concurrent_calls_keep_their_own_evidence() -> None:
    """ccxt's instance is shared; status, body and rows of each request must not be."""
    async with source_at() as (source, rig):
        starts = [START + n * 50 * MINUTE for n in range(8)]
        pages = await asyncio.gather(
            *(
                source.fetch(ETH, MINUTE, start_ms=s, limit_bars=40 + n)
                for n, s in enumerate(starts)
            )
        )
        assert len({page.asked.body_sha256 for page in pages}) == 8
        for number, (start, page) in enumerate(zip(starts, pages, strict=True)):
            assert page.asked.start_ms == start and page.asked.rows == 40 + number
            assert int(page.bars.ts_ms[0]) >= start
            assert_same(page.bars, rig.bars.between(start, int(page.bars.ts_ms[-1]) + 1))


async def test_a_request_skips_over_a_hole() -> None:
    async with source_at() as (source, rig):
        ts = rig.bars.ts_ms
        at = int(np.argmax(np.diff(ts)))
        left, right = int(ts[at]), int(ts[at + 1])
        page = await source.fetch(ETH, MINUTE, start_ms=left, limit_bars=2)
        assert page.bars.ts_ms.tolist() == [left, right]


async def test_since_zero_answers_the_first_bar_ever() -> None:
    async with source_at() as (source, _):
        page = await source.fetch(ETH, MINUTE, start_ms=0, limit_bars=2)
        assert page.bars.ts_ms.tolist() == [START, START + MINUTE]
        assert page.asked.start_ms == 0


@pytest.mark.parametrize(
    ("after_close_ms", "is_closed"), [(-30_000, False), (SETTLE - 1_500, False), (SETTLE, True)]
)
async def test_a_bar_is_closed_by_the_venues_clock_alone(
    after_close_ms: int, is_closed: bool
) -> None:
    """Thirty seconds into a bar it is left out; once closed and settled it is there."""
    last = START + 200 * MINUTE
    async with source_at() as (source, rig):
        # Making a client and loading markets takes its time, and the venue's clock runs.
        assert await source.is_trading(ETH)
        rig.exchange.set_now(last + MINUTE + after_close_ms)
        first = int(rig.bars.between(0, last).ts_ms[-5])
        page = await source.fetch(ETH, MINUTE, start_ms=first, limit_bars=100)
        assert (last in page.bars.ts_ms.tolist()) is is_closed
        if not is_closed:
            assert page.open_from_ms == last


async def test_a_clock_that_is_set_back_is_noticed() -> None:
    """Also within the minute in which an earlier reading of the clock is still used."""
    async with source_at() as (source, rig):
        await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=100)
        rig.exchange.set_now(START + 50 * MINUTE + 30_000)
        page = await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=100)
        assert page.open_from_ms == START + 50 * MINUTE
        assert len(page.bars) == 50


async def test_history_needs_no_further_look_at_the_clock() -> None:
    async with source_at() as (source, rig):
        for n in range(5):
            await source.fetch(ETH, MINUTE, start_ms=START + n * 60_000, limit_bars=100)
        asked = rig.exchange.log.document()["paths"]
        assert asked["/api/v3/time"]["total"] == 1
        assert asked["/api/v3/exchangeInfo"]["total"] == 1


async def test_a_symbol_is_spelt_as_the_registry_spells_it() -> None:
    async with source_at() as (source, _):
        with pytest.raises(UnknownSymbol, match="did you mean BTC/USDT"):
            await source.fetch("BTCUSDT", MINUTE, start_ms=START, limit_bars=5)
        with pytest.raises(UnknownSymbol, match="has no symbol 'NOPE/NADA'"):
            await source.fetch("NOPE/NADA", MINUTE, start_ms=START, limit_bars=5)


async def test_an_interval_that_the_venue_lacks_is_rejected() -> None:
    async with source_at() as (source, _):
        with pytest.raises(SourceRejected, match="no bars of 61000 ms"):
            await source.fetch(ETH, 61_000, start_ms=START, limit_bars=5)


async def test_is_trading_and_server_time() -> None:
    async with source_at() as (source, rig):
        assert await source.is_trading(ETH)
        assert abs(await source.server_time_ms() - rig.exchange.clock.now_ms()) < 30_000


def lie(kind: str, extra: str = "", *, path: str = "/api/v3/klines", when: str = "[1]") -> str:
    return f'[[lie]]\nkind = "{kind}"\npath = "{path}"\nwhen = {when}\n{extra}\n'


@pytest.mark.parametrize(
    ("told", "error", "says"),
    [
        (lie("html_200"), SourceMalformed, "not JSON"),
        (lie("truncate"), SourceMalformed, "not JSON"),
        (lie("truncate", "short = true"), SourceUnavailable, "binance"),
        (lie("empty"), SourceMalformed, "an empty body"),
        (lie("status", 'code = 200\nbody = "{}"'), SourceMalformed, "empty object"),
        (lie("reset", when="[1, 2]"), SourceUnavailable, "binance"),
        (lie("hang", "seconds = 1.0"), SourceUnavailable, "binance"),
        (lie("duplicate_bars"), SourceMalformed, "sent twice"),
        (lie("duplicate_bars", "count = 7"), SourceMalformed, "and 6 more: sent twice"),
        (lie("off_grid"), SourceMalformed, "off the grid"),
        (lie("out_of_range"), SourceMalformed, "out of range: before"),
        (lie("out_of_range", "before = 0"), SourceMalformed, "were asked for"),
        (lie("status", "code = 500"), SourceUnavailable, "-1000"),
        (lie("status", "code = 503"), SourceUnavailable, "-1008"),
        (lie("status", "code = 504"), SourceUnavailable, "-1007"),
        (lie("status", "code = 403"), SourceUnavailable, "-1000"),
        (lie("status", "code = 204"), SourceMalformed, "empty body"),
        (lie("status", 'code = 400\nbody = \'{"code":-1121,"msg":"Invalid symbol."}\''),
         UnknownSymbol, "-1121"),
        (lie("status", 'code = 400\nbody = \'{"code":-1100,"msg":"Illegal characters."}\''),
         SourceRejected, "-1100"),
        (lie("status", 'code = 400\nbody = \'{"code":-1001,"msg":"Disconnected."}\''),
         SourceUnavailable, "-1001"),
    ],
)  # fmt: skip
async def test_a_lie_is_an_error_by_its_name(told: str, error: type[Exception], says: str) -> None:
    """Never an empty page: "we did not get an answer" is not "there is nothing"."""
    timeout_ms = 400 if 'kind = "hang"' in told else 5_000
    async with source_at(told, timeout_ms=timeout_ms) as (source, rig):
        with pytest.raises(error, match=says):
            await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=100)
        page = await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=100)
        assert_same(page.bars, rig.bars.between(START, START + 100 * MINUTE))


@pytest.mark.parametrize(
    ("code", "headers", "retry_after_ms", "banned"),
    [
        (429, 'headers = { "Retry-After" = "7" }', 7_000, False),
        (429, "", 10_000, False),
        (418, 'headers = { "Retry-After" = "90" }', 90_000, True),
    ],
)
async def test_a_venue_that_asks_for_patience_says_how_long(
    code: int, headers: str, retry_after_ms: int, banned: bool
) -> None:
    async with source_at(lie("status", f"code = {code}\n{headers}")) as (source, _):
        with pytest.raises(SourceRateLimited) as caught:
            await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=10)
        assert caught.value.retry_after_ms == retry_after_ms
        assert caught.value.banned is banned


async def test_rows_from_the_future_are_refused() -> None:
    """A bar that the venue's own clock has not reached must not pass for a right neighbour."""
    config = ExchangeConfig(history=HISTORY, now_ms=START + 100 * MINUTE + 30_000)
    told = lie("out_of_range", "before = 0\nafter = 1", when="[1, 2]")
    async with source_at(told, config=config) as (source, _):
        with pytest.raises(SourceMalformed, match="the venue's clock says"):
            await source.fetch(ETH, MINUTE, start_ms=START + 50 * MINUTE, limit_bars=500)


async def test_rows_before_what_was_asked_are_refused() -> None:
    """ccxt alone would cut them off in silence."""
    config = ExchangeConfig(history=HISTORY, now_ms=START + 100 * MINUTE + 30_000)
    told = lie("out_of_range", "before = 1\nafter = 0")
    async with source_at(told, config=config) as (source, _):
        with pytest.raises(SourceMalformed, match="out of range: before"):
            await source.fetch(ETH, MINUTE, start_ms=START + 50 * MINUTE, limit_bars=500)


async def test_an_empty_list_of_symbols_makes_no_symbol_unknown() -> None:
    told = lie("status", 'code = 200\nbody = "{}"', path="/api/v3/exchangeInfo")
    async with source_at(told) as (source, _):
        with pytest.raises(SourceMalformed):
            await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=10)
        assert len((await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=10)).bars) == 10


async def test_a_dead_exchange_is_unavailable() -> None:
    source = CcxtSource("binance", VENUE, url="http://127.0.0.1:9", timeout_ms=500)
    with pytest.raises(SourceUnavailable):
        await source.fetch(ETH, MINUTE, start_ms=START, limit_bars=10)
    await source.aclose()


async def test_an_exchange_that_ccxt_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="did you mean binance"):
        CcxtSource("binanse", VENUE)
    with pytest.raises(InvalidInput, match=r"venues\.ccxt:binance\.page_bars"):
        CcxtSource("binance", replace(VENUE, page_bars=2))
