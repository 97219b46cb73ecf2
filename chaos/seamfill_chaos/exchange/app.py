"""Builds an exchange from its configuration and runs it: the only place that joins its parts."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from seamfill.bars import Bars
from seamfill_chaos.exchange.clock import ExchangeClock
from seamfill_chaos.exchange.control import Control
from seamfill_chaos.exchange.exchange_info import ExchangeInfo
from seamfill_chaos.exchange.generated import History, generate
from seamfill_chaos.exchange.market import SETTLE_MS, Market
from seamfill_chaos.exchange.recorded import load_bars, load_exchange_info
from seamfill_chaos.exchange.server import Exchange
from seamfill_chaos.exchange.weights import DEFAULT_WEIGHTS, WeightLimiter, WeightRules
from seamfill_chaos.faults import Lie

DRAIN_S_MAX = 10.0
BODY_BYTES_MAX = 1 << 20

DEFAULT_HISTORY = History(
    seed=1,
    symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"),
    start_ms=1_704_067_200_000,
    minutes=10 * 1_440,
    outages=2,
)
"""What is generated unless told otherwise: ten days from 2024-01-01, four symbols, two outages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """Hold all that makes one exchange.

    `data` is the folder of recorded bars; without it, `history` is generated. `now_ms` sets the
    clock; without it, the exchange starts at the moment its latest bar has settled.
    """

    data: Path | None = None
    history: History = DEFAULT_HISTORY
    host: str = "127.0.0.1"
    port: int = 0
    now_ms: int | None = None
    settle_ms: int = SETTLE_MS
    lies: tuple[Lie, ...] = ()
    delay_ms: int = 0
    weights: WeightRules = DEFAULT_WEIGHTS
    warm: bool = False


def build_exchange(config: ExchangeConfig) -> Exchange:
    """Return the exchange, ready to serve. Raises RecordingUnusable and ValueError."""
    bars, recorded_info = _load(config)
    market = Market(bars, settle_ms=config.settle_ms)
    if config.warm:
        market.warm()
    now_ms = config.now_ms if config.now_ms is not None else market.settled_ms()
    return Exchange(
        market=market,
        info=ExchangeInfo(recorded_info, bars, weight_limit=config.weights.limit),
        clock=ExchangeClock(now_ms),
        limiter=WeightLimiter(config.weights),
        lies=config.lies,
        delay_ms=config.delay_ms,
    )


def _load(config: ExchangeConfig) -> tuple[dict[str, Bars], dict[str, object] | None]:
    if config.data is None:
        return generate(config.history), None
    return load_bars(config.data), load_exchange_info(config.data)


@asynccontextmanager
async def serving(exchange: Exchange, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve the exchange and yield its URL; at the end, requests in flight are answered first.

    Port 0 takes a free one. Requests that take longer than `DRAIN_S_MAX` are cut off.
    """
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes(Control(exchange).routes())
    app.router.add_route("*", "/{tail:.*}", exchange.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S_MAX)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound, bound_port = runner.addresses[0][:2]
        yield f"http://[{bound}]:{bound_port}" if ":" in bound else f"http://{bound}:{bound_port}"
    finally:
        exchange.stopping.set()
        await runner.cleanup()


async def run(config: ExchangeConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once."""
    exchange = build_exchange(config)
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()

    def stop() -> None:
        if asked_to_stop.is_set() and this is not None:
            this.cancel()
        asked_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with serving(exchange, config.host, config.port) as url:
        on_ready(url)
        await asked_to_stop.wait()
