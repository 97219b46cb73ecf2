"""The control surface `/__control/…`: what a test or a demonstration sees and changes.

It is not charged, not logged, not delayed and never lied about. Wrong input is answered 400 with
`{"error": …}` naming the field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from seamfill.bars import Bars, content_digest
from seamfill_chaos.exchange.bars import MINUTE_MS, rows_of
from seamfill_chaos.exchange.exchange_info import STATUSES
from seamfill_chaos.exchange.server import DELAY_MS_MAX, Exchange
from seamfill_chaos.faults_file import LiesInvalid, parse_lies

TIME_MS_MAX = 2**53

Milliseconds = Annotated[int, Meta(ge=0, le=TIME_MS_MAX)]
T = TypeVar("T")


class _SetNow(msgspec.Struct, forbid_unknown_fields=True):
    now: Milliseconds


class _SetDelay(msgspec.Struct, forbid_unknown_fields=True):
    delay_ms: Annotated[int, Meta(ge=0, le=DELAY_MS_MAX)]


class _SetStatus(msgspec.Struct, forbid_unknown_fields=True):
    symbol: str
    status: str


class _Restate(msgspec.Struct, forbid_unknown_fields=True):
    symbol: str
    start_ms: Milliseconds
    end_ms: Milliseconds
    factor: Annotated[float, Meta(gt=0, lt=1_000)] | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**32)] | None = None


class _Invalid(ValueError):
    """The request is wrong; the message says where."""


class Control:
    """Serve the control surface of one exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to add to the exchange's application."""
        return [
            web.get("/__control/state", _answered(self._state)),
            web.get("/__control/requests", _answered(self._requests)),
            web.get("/__control/bars", _answered(self._bars)),
            web.get("/__control/digest", _answered(self._digest)),
            web.post("/__control/now", _answered(self._set_now)),
            web.post("/__control/delay", _answered(self._set_delay)),
            web.post("/__control/lies", _answered(self._set_lies)),
            web.post("/__control/restate", _answered(self._restate)),
            web.post("/__control/symbol_status", _answered(self._set_status)),
        ]

    async def _state(self, http: web.Request) -> object:
        exchange = self._exchange
        symbols = {
            symbol: {
                "status": exchange.info.status(symbol),
                "bars": len(bars := exchange.market.truth(symbol)),
                "first_ms": int(bars.ts_ms[0]),
                "last_ms": int(bars.ts_ms[-1]),
            }
            for symbol in exchange.market.symbols
        }
        lies = [
            {"index": lie.index, "kind": lie.kind.value, "path": lie.path}
            for lie in exchange.lies.lies
        ]
        return {
            "now_ms": exchange.clock.now_ms(),
            "delay_ms": exchange.delay_ms,
            "weight_limit": exchange.limiter.rules.limit,
            "lies": lies,
            "symbols": symbols,
        }

    async def _requests(self, http: web.Request) -> object:
        return self._exchange.log.document(after=_number(http, "after", 0))

    async def _bars(self, http: web.Request) -> object:
        symbol = http.query.get("symbol", "")
        bars = self._asked_bars(http, symbol)
        return {"symbol": symbol, "interval_ms": MINUTE_MS, "bars": list(rows_of(bars))}

    async def _digest(self, http: web.Request) -> object:
        symbol = http.query.get("symbol", "")
        bars = self._asked_bars(http, symbol)
        return {"symbol": symbol, "bars": len(bars), "content_digest": content_digest(bars)}

    async def _set_now(self, http: web.Request) -> object:
        wanted = _decode(await http.read(), _SetNow)
        self._exchange.set_now(wanted.now)
        return {"now_ms": wanted.now}

    async def _set_delay(self, http: web.Request) -> object:
        self._exchange.delay_ms = _decode(await http.read(), _SetDelay).delay_ms
        return {"delay_ms": self._exchange.delay_ms}

    async def _set_lies(self, http: web.Request) -> object:
        try:
            lies = parse_lies(await http.text())
        except (LiesInvalid, UnicodeDecodeError) as error:
            raise _Invalid(str(error)) from error
        self._exchange.replace_lies(lies)
        return {"lies": len(lies)}

    async def _restate(self, http: web.Request) -> object:
        wanted = _decode(await http.read(), _Restate)
        if (wanted.factor is None) == (wanted.seed is None):
            raise _Invalid("factor: give either factor or seed")
        if wanted.end_ms <= wanted.start_ms:
            raise _Invalid("end_ms: must be later than start_ms")
        self._truth(wanted.symbol)
        count = self._exchange.market.restate(
            wanted.symbol,
            wanted.start_ms,
            wanted.end_ms,
            factor=wanted.factor,
            seed=wanted.seed,
        )
        return {"restated": count}

    async def _set_status(self, http: web.Request) -> object:
        wanted = _decode(await http.read(), _SetStatus)
        if wanted.status not in STATUSES:
            raise _Invalid(f"status: must be one of {', '.join(STATUSES)}")
        if wanted.symbol not in self._exchange.info:
            raise _Invalid(f"symbol: {wanted.symbol!r} is unknown")
        self._exchange.info.set_status(wanted.symbol, wanted.status)
        return {"symbol": wanted.symbol, "status": wanted.status}

    def _asked_bars(self, http: web.Request, symbol: str) -> Bars:
        start_ms, end_ms = _number(http, "start_ms", 0), _number(http, "end_ms", TIME_MS_MAX)
        return self._truth(symbol).between(start_ms, end_ms)

    def _truth(self, symbol: str) -> Bars:
        if symbol not in self._exchange.market.symbols:
            raise _Invalid(f"symbol: {symbol!r} has no bars here")
        return self._exchange.market.truth(symbol)


def _answered(
    answer: Callable[[web.Request], Awaitable[object]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(http: web.Request) -> web.Response:
        try:
            document, status = await answer(http), 200
        except _Invalid as error:
            document, status = {"error": str(error)}, 400
        return web.Response(
            status=status, body=msgspec.json.encode(document), content_type="application/json"
        )

    return handle


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError as error:
        raise _Invalid(str(error)) from error


def _number(http: web.Request, name: str, default: int) -> int:
    text = http.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > TIME_MS_MAX:
        raise _Invalid(f"{name}: must be an integer from 0 to {TIME_MS_MAX}")
    return int(text)
