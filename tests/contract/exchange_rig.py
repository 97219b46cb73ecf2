"""An exchange and its clients, ready to use in a test: `async with exchange_at(...) as rig`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import aiohttp
import ccxt.async_support as ccxt

from seamfill.bars import Bars
from seamfill_chaos.exchange.app import ExchangeConfig, build_exchange, serving
from seamfill_chaos.exchange.generated import History
from seamfill_chaos.exchange.server import Exchange
from seamfill_chaos.faults_file import parse_lies

MINUTE = 60_000
START = 1_704_067_200_000
HISTORY = History(seed=7, symbols=("BTCUSDT", "ETHUSDT"), start_ms=START, minutes=2_000, outages=1)
ETH = "ETH/USDT"


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Hold a served exchange, a plain HTTP session on it, and a ccxt client."""

    exchange: Exchange
    url: str
    http: aiohttp.ClientSession

    @cached_property
    def ccxt(self) -> Any:
        """Return the ccxt client; made on first use, since that costs a third of a second."""
        return ccxt_client(self.url)

    @property
    def bars(self) -> Bars:
        """Return the true bars of ETHUSDT."""
        return self.exchange.market.truth("ETHUSDT")

    async def fetch(self, since: int | None = START, limit: int = 100) -> list[list[float]]:
        """Fetch minutes of ETH/USDT through ccxt."""
        rows: list[list[float]] = await self.ccxt.fetch_ohlcv(ETH, "1m", since, limit)
        return rows

    async def fetch_until(self, last: int) -> list[list[float]]:
        """Fetch the minutes 0 to `last` of ETH/USDT through ccxt, with room for more of them."""
        until = {"until": START + last * MINUTE}
        rows: list[list[float]] = await self.ccxt.fetch_ohlcv(ETH, "1m", START, 1_000, until)
        return rows

    async def get(self, path: str, **params: object) -> tuple[int, Any, dict[str, str]]:
        """Ask over plain HTTP; return status, decoded JSON, headers."""
        query = {name: str(value) for name, value in params.items()}
        async with self.http.get(path, params=query) as answer:
            return answer.status, await answer.json(), dict(answer.headers)

    async def control(self, command: str, **body: object) -> tuple[int, Any]:
        """Post to the control surface; return status and decoded JSON."""
        async with self.http.post(f"/__control/{command}", json=body) as answer:
            return answer.status, await answer.json()

    async def tell(self, lies: str) -> None:
        """Replace the lies over the control surface."""
        async with self.http.post("/__control/lies", data=lies) as answer:
            assert answer.status == 200, await answer.text()


@asynccontextmanager
async def exchange_at(
    config: ExchangeConfig | None = None, *, lies: str = ""
) -> AsyncIterator[Rig]:
    """Serve an exchange on a free port, with clients on it."""
    wanted = config or ExchangeConfig(history=HISTORY)
    exchange = build_exchange(replace(wanted, lies=parse_lies(lies)))
    async with serving(exchange) as url, aiohttp.ClientSession(url) as http:
        rig = Rig(exchange=exchange, url=url, http=http)
        try:
            yield rig
        finally:
            if "ccxt" in rig.__dict__:
                await rig.ccxt.close()


def ccxt_client(url: str) -> Any:
    """Return an unmodified ccxt client for spot, pointed at the exchange."""
    client = ccxt.binance(
        {
            "options": {"fetchMarkets": {"types": ["spot"]}, "defaultType": "spot"},
            "enableRateLimit": False,
            "timeout": 2_000,
        }
    )
    for name in ("public", "private"):
        client.urls["api"][name] = f"{url}/api/v3"
    return client
