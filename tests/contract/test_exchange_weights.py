"""Request weights: counted per address and minute, refused with 429, then banned with 418."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ccxt.base.errors import DDoSProtection

from contract.exchange_rig import HISTORY, START, exchange_at
from seamfill_chaos.exchange.app import ExchangeConfig
from seamfill_chaos.exchange.weights import ADDRESSES_MAX, WeightLimiter, WeightRules

KLINES = "/api/v3/klines"
RULES = WeightRules(limit=10, refusals_before_ban=2, first_ban_s=120)
CONFIG = ExchangeConfig(history=HISTORY, weights=RULES, now_ms=START + 10_000)


async def test_weights_add_up_in_the_headers_of_every_answer() -> None:
    config = replace(CONFIG, weights=WeightRules())
    async with exchange_at(config) as rig:
        used = []
        for path in ("ping", "time", "exchangeInfo", "klines", "nowhere"):
            async with rig.http.get(f"/api/v3/{path}") as answer:
                assert answer.headers["X-MBX-USED-WEIGHT"] == answer.headers["X-MBX-USED-WEIGHT-1M"]
                used.append(int(answer.headers["X-MBX-USED-WEIGHT-1M"]))
    assert used == [1, 2, 22, 24, 25]


async def test_weight_over_the_limit_is_refused_until_the_minute_ends_then_banned() -> None:
    async with exchange_at(CONFIG) as rig:
        answers = [
            await rig.get(KLINES, symbol="ETHUSDT", interval="1m", limit=1) for _ in range(9)
        ]
        assert [status for status, _, _ in answers] == [200] * 5 + [429] * 2 + [418] * 2
        _, error, headers = answers[5]
        assert error["code"] == -1003
        assert "current limit is 10 request weight" in error["msg"]
        # 10 s into a minute of the exchange's clock, give or take the test's own duration.
        assert 20 < int(headers["Retry-After"]) <= 50
        _, error, headers = answers[-1]
        assert "IP banned until" in error["msg"]
        assert 100 < int(headers["Retry-After"]) <= 120


async def test_ccxt_sees_refusals_as_ddos_protection() -> None:
    async with exchange_at(CONFIG) as rig:
        await rig.control("now", now=START + 10_000)
        for _ in range(10):
            await rig.get("/api/v3/ping")
        with pytest.raises(DDoSProtection, match="429"):
            await rig.ccxt.fetch_time()
        await rig.get("/api/v3/ping")
        with pytest.raises(DDoSProtection, match="418"):
            await rig.ccxt.fetch_time()


async def test_setting_the_clock_starts_a_new_minute_without_bans() -> None:
    async with exchange_at(CONFIG) as rig:
        for _ in range(13):
            status, _, _ = await rig.get("/api/v3/ping")
        assert status == 418
        await rig.control("now", now=START + 10_000)
        status, _, headers = await rig.get("/api/v3/ping")
        assert (status, headers["X-MBX-USED-WEIGHT-1M"]) == (200, "1")


def test_a_new_minute_starts_from_nothing_used() -> None:
    limiter = WeightLimiter(RULES)
    assert limiter.charge("a", 11, 59_999).status == 429
    assert limiter.charge("a", 2, 60_000).used == 2


def test_addresses_are_charged_apart() -> None:
    limiter = WeightLimiter(RULES)
    assert limiter.charge("a", 11, 0).status == 429
    assert limiter.charge("b", 2, 0).used == 2


def test_every_further_ban_is_twice_as_long_and_ends() -> None:
    limiter = WeightLimiter(RULES)
    now_ms, lengths_s = 0, []
    for _ in range(3):
        while (charge := limiter.charge("a", 11, now_ms)).status != 418:
            pass
        lengths_s.append(charge.retry_after_s)
        now_ms = charge.banned_until_ms
        assert limiter.charge("a", 1, now_ms - 1).status == 418
        assert limiter.charge("a", 1, now_ms).status == 200
    assert lengths_s == [120, 240, 480]


def test_the_table_of_addresses_is_bounded() -> None:
    limiter = WeightLimiter(RULES)
    for number in range(ADDRESSES_MAX + 1):
        limiter.charge(str(number), 2, 0)
    assert limiter.charge(str(ADDRESSES_MAX), 2, 0).used == 4
    assert limiter.charge("0", 2, 0).used == 2
