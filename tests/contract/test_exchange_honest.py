"""An honest exchange, seen by the real ccxt and by a plain HTTP client."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import numpy as np
import pytest
from ccxt.base.errors import BadSymbol

from contract.exchange_rig import ETH, HISTORY, MINUTE, START, Rig, exchange_at
from real_parts import recorded_data
from seamfill.bars import Bars, content_digest
from seamfill_chaos.exchange.app import ExchangeConfig
from seamfill_chaos.exchange.generated import generate, outage_ranges

KLINES = "/api/v3/klines"


async def fetch_all(rig: Rig, symbol: str) -> list[list[float]]:
    found: list[list[float]] = []
    since = 0
    while page := await rig.ccxt.fetch_ohlcv(symbol, "1m", since, 1_000):
        found.extend(page)
        since = int(page[-1][0]) + 1
    return found


async def test_ccxt_reads_every_generated_bar_and_no_other() -> None:
    async with exchange_at() as rig:
        rows = await fetch_all(rig, ETH)
    truth = generate(HISTORY)["ETHUSDT"]
    assert content_digest(Bars.from_rows(rows)) == content_digest(truth)
    [(closed_ms, opened_ms)] = outage_ranges(HISTORY)
    assert not [row for row in rows if closed_ms <= row[0] < opened_ms]
    assert len(rows) == HISTORY.minutes - (opened_ms - closed_ms) // MINUTE


@pytest.mark.real
@pytest.mark.parametrize("symbol", ["BRD/BTC", "LTC/USDT"])
async def test_every_recorded_bar_round_trips_through_ccxt_bit_for_bit(symbol: str) -> None:
    async with exchange_at(ExchangeConfig(data=recorded_data())) as rig:
        rows = await fetch_all(rig, symbol)
        truth = rig.exchange.market.truth(symbol.replace("/", ""))
    assert content_digest(Bars.from_rows(rows)) == content_digest(truth)


@pytest.mark.real
async def test_recorded_exchange_info_keeps_its_symbols_but_not_its_weight_limit() -> None:
    async with exchange_at(ExchangeConfig(data=recorded_data())) as rig:
        _, info, _ = await rig.get("/api/v3/exchangeInfo")
        assert len(info["symbols"]) == 1_695
        # Listed without bars here: an answer without rows, not an error.
        assert await rig.ccxt.fetch_ohlcv("ADA/USDT", "1m", 0, 10) == []
    limits = {each["rateLimitType"]: each["limit"] for each in info["rateLimits"]}
    assert limits["REQUEST_WEIGHT"] == 6_000
    assert limits["ORDERS"] == 160_000


async def test_ends_are_inclusive_and_pages_are_capped_without_a_word() -> None:
    async with exchange_at() as rig:
        _, rows, _ = await rig.get(
            KLINES, symbol="ETHUSDT", interval="1m", startTime=START, endTime=START + 2 * MINUTE
        )
        assert [row[0] for row in rows] == [START, START + MINUTE, START + 2 * MINUTE]
        for limit, got in ((1_500, 1_000), (7, 7)):
            _, rows, _ = await rig.get(
                KLINES, symbol="ETHUSDT", interval="1m", startTime=START, limit=limit
            )
            assert len(rows) == got
        _, rows, _ = await rig.get(KLINES, symbol="ETHUSDT", interval="1m")
        assert len(rows) == 500
        assert rows[-1][0] == int(rig.bars.ts_ms[-1])
        _, rows, _ = await rig.get(
            KLINES, symbol="ETHUSDT", interval="1m", endTime=START + 9 * MINUTE, limit=3
        )
        assert [row[0] for row in rows] == [START + k * MINUTE for k in (7, 8, 9)]


async def test_a_row_has_the_twelve_columns_of_binance() -> None:
    async with exchange_at() as rig:
        _, [row], headers = await rig.get(
            KLINES, symbol="ETHUSDT", interval="1m", startTime=START, limit=1
        )
    kinds = [int, str, str, str, str, str, int, str, int, str, str, str]
    assert [type(value) for value in row] == kinds
    assert row[6] == START + MINUTE - 1
    assert all(len(text.partition(".")[2]) == 8 for text in row[1:6])
    assert headers["Content-Type"] == "application/json;charset=UTF-8"


async def test_the_bar_in_progress_comes_as_an_ordinary_row_with_other_values() -> None:
    async with exchange_at() as rig:
        truth = [row for row in rig.bars.ts_ms.tolist() if row > START][-1]
        final = rig.bars.between(truth, truth + 1)
        for into_ms in (0, 30_000, 59_000, 60_100):
            await rig.control("now", now=truth + into_ms)
            row = (await rig.fetch(truth - 2 * MINUTE))[-1]
            # Also in the first two seconds after its close: the last trades come late.
            assert row[0] == truth
            assert row[5] < final.volume[0]
        await rig.control("now", now=truth + MINUTE + 2_000)
        assert (await rig.fetch(truth))[-1] == [float(column[0]) for column in _columns(final)]


async def test_bars_that_have_not_opened_do_not_exist() -> None:
    async with exchange_at() as rig:
        await rig.control("now", now=START + 2 * MINUTE)
        assert [row[0] for row in await rig.fetch()] == [START + k * MINUTE for k in range(3)]
        assert await rig.fetch(START + 5 * MINUTE) == []


async def test_the_clock_is_told_alike_by_time_and_date_header_and_runs_on() -> None:
    async with exchange_at() as rig:
        await rig.control("now", now=START)
        _, first, headers = await rig.get("/api/v3/time")
        date_ms = round(parsedate_to_datetime(headers["Date"]).timestamp() * 1_000)
        assert date_ms in range(START, START + 5_000)
        assert 0 <= first["serverTime"] - START < 5_000
        later = await rig.ccxt.fetch_time()
        assert later >= first["serverTime"]


async def test_longer_intervals_are_rolled_up_from_minutes() -> None:
    async with exchange_at() as rig:
        rows = await rig.ccxt.fetch_ohlcv(ETH, "5m", START, 1)
        five = rig.bars.between(START, START + 5 * MINUTE)
    traded = five.volume > 0
    assert rows == [
        [
            START,
            five.open[traded][0],
            five.high[traded].max(),
            five.low[traded].min(),
            five.close[traded][-1],
            round(float(five.volume.sum()), 8),
        ]
    ]


@pytest.mark.parametrize(
    ("params", "code", "names"),
    [
        ({"interval": "1m"}, -1102, "'symbol'"),
        ({"symbol": "ETHUSDT"}, -1102, "'interval'"),
        ({"symbol": "NOSUCH", "interval": "1m"}, -1121, "Invalid symbol."),
        ({"symbol": "ETH/USDT", "interval": "1m"}, -1100, "'symbol'"),
        ({"symbol": "", "interval": "1m"}, -1105, "'symbol'"),
        ({"symbol": "ETHUSDT", "interval": "7m"}, -1120, "Invalid interval."),
        ({"symbol": "ETHUSDT", "interval": "1m", "limit": "-1"}, -1100, "'limit'"),
        ({"symbol": "ETHUSDT", "interval": "1m", "limit": "0"}, -1130, "'limit'"),
        ({"symbol": "ETHUSDT", "interval": "1m", "startTime": "x"}, -1100, "'startTime'"),
        ({"symbol": "ETHUSDT", "interval": "1m", "endTime": "9" * 20}, -1108, "'endTime'"),
        ({"symbol": "ETHUSDT", "interval": "1m", "since": "1"}, -1104, "read '2'"),
    ],
)
async def test_wrong_parameters_are_answered_as_binance_does(
    params: dict[str, str], code: int, names: str
) -> None:
    async with exchange_at() as rig:
        status, error, _ = await rig.get(KLINES, **params)
    assert (status, error["code"]) == (400, code)
    assert names in error["msg"]


async def test_ccxt_tells_an_unknown_symbol_from_the_exchanges_answer() -> None:
    async with exchange_at() as rig:
        with pytest.raises(BadSymbol, match="-1121"):
            await rig.ccxt.publicGetKlines({"symbol": "NOSUCH", "interval": "1m"})


async def test_a_halted_symbol_is_inactive_and_keeps_its_history() -> None:
    async with exchange_at() as rig:
        await rig.control("symbol_status", symbol="ETHUSDT", status="BREAK")
        markets = await rig.ccxt.load_markets(True)
        assert markets[ETH]["active"] is False
        assert markets["BTC/USDT"]["active"] is True
        assert len(await rig.fetch()) == 100


async def test_a_restatement_changes_its_bars_for_good_and_no_other() -> None:
    span = {"start_ms": START + 2 * MINUTE, "end_ms": START + 5 * MINUTE}
    async with exchange_at() as rig:
        before = await rig.fetch(limit=10)
        status, told = await rig.control("restate", symbol="ETHUSDT", seed=3, **span)
        after = await rig.fetch(limit=10)
        _, truth, _ = await rig.get("/__control/bars", symbol="ETHUSDT", **span)
    assert (status, told) == (200, {"restated": 3})
    changed = [k for k in range(10) if before[k] != after[k]]
    assert changed == [2, 3, 4]
    assert truth["bars"] == after[2:5]
    assert np.allclose(np.array(after), np.array(before), rtol=0.02)


async def test_what_was_asked_can_be_looked_up() -> None:
    async with exchange_at() as rig:
        await rig.fetch(limit=10)
        await rig.get(KLINES, symbol="NOSUCH", interval="1m")
        _, log, _ = await rig.get("/__control/requests")
    assert log["paths"][KLINES] == {"total": 2, "rows": 10, "by_status": {"200": 1, "400": 1}}
    info, klines, refused = log["requests"]
    assert info["path"] == "/api/v3/exchangeInfo"
    assert klines["query"] == f"interval=1m&limit=10&symbol=ETHUSDT&startTime={START}"
    assert (klines["number"], klines["status"], klines["rows"], klines["lie"]) == (2, 200, 10, None)
    assert refused["status"] == 400


@pytest.mark.parametrize(
    ("command", "body", "names"),
    [
        ("now", {"now": "later"}, "now"),
        ("now", {}, "now"),
        ("delay", {"delay_ms": -1}, "delay_ms"),
        ("restate", {"symbol": "NOSUCH", "start_ms": 0, "end_ms": 1, "factor": 2.0}, "symbol"),
        ("restate", {"symbol": "ETHUSDT", "start_ms": 0, "end_ms": 1}, "factor"),
        ("restate", {"symbol": "ETHUSDT", "start_ms": 1, "end_ms": 1, "seed": 1}, "end_ms"),
        ("symbol_status", {"symbol": "ETHUSDT", "status": "GONE"}, "status"),
        ("symbol_status", {"symbol": "NOSUCH", "status": "BREAK"}, "symbol"),
        ("lies", {"kind": "hang"}, "TOML"),
    ],
)
async def test_wrong_control_input_is_refused_by_field(
    command: str, body: dict[str, object], names: str
) -> None:
    async with exchange_at() as rig:
        status, told = await rig.control(command, **body)
    assert status == 400
    assert names in told["error"]


def _columns(bars: Bars) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]:
    return bars.ts_ms, bars.open, bars.high, bars.low, bars.close, bars.volume
