"""The exchange's REST surface over aiohttp: from the request line to the bytes of the answer.

Knows HTTP and nothing about where bars come from. Order for every request: it is recorded, charged,
offered to the lies, delayed, answered. A request refused for its weight meets no lie and is not
numbered for them, so a script of lies does not shift when a client is too fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from email.utils import formatdate

import msgspec
from aiohttp import web

from seamfill_chaos import faults
from seamfill_chaos.exchange import lying
from seamfill_chaos.exchange.api_errors import (
    INVALID_SYMBOL,
    ApiError,
    banned,
    illegal_characters,
    too_much_weight,
)
from seamfill_chaos.exchange.clock import ExchangeClock
from seamfill_chaos.exchange.exchange_info import ExchangeInfo
from seamfill_chaos.exchange.klines import KlineQuery, parse_kline_query
from seamfill_chaos.exchange.market import Market
from seamfill_chaos.exchange.pages import encode_row, page_of
from seamfill_chaos.exchange.request_log import Request, RequestLog
from seamfill_chaos.exchange.weights import Charge, WeightLimiter

KLINES = "/api/v3/klines"
WEIGHTS = {
    "/api/v3/ping": 1,
    "/api/v3/time": 1,
    "/api/v3/exchangeInfo": 20,
    KLINES: 2,
}
_LEGAL_SYMBOLS = r'^\["[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}\]$'
DELAY_MS_MAX = 600_000
_JSON = "application/json;charset=UTF-8"
_NOT_FOUND = b"<html><head><title>404 Not Found</title></head><body>404 Not Found</body></html>"


class Exchange:
    """Hold the running exchange: its parts, and what the control surface may change."""

    def __init__(
        self,
        *,
        market: Market,
        info: ExchangeInfo,
        clock: ExchangeClock,
        limiter: WeightLimiter,
        lies: tuple[faults.Lie, ...] = (),
        delay_ms: int = 0,
    ) -> None:
        self.market = market
        self.info = info
        self.clock = clock
        self.limiter = limiter
        self.delay_ms = delay_ms
        self.log = RequestLog()
        self.lies = faults.LieBook(lies)
        self.stopping = asyncio.Event()

    def replace_lies(self, lies: tuple[faults.Lie, ...]) -> None:
        """Tell other lies from now on; their requests are numbered from 1 again."""
        self.lies = faults.LieBook(lies)

    def set_now(self, now_ms: int) -> None:
        """Set the exchange's clock. Weights and bans start anew: their minutes are gone."""
        self.clock.set(now_ms)
        self.limiter.forget()

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """Answer one request of the public surface."""
        now_ms = self.clock.now_ms()
        request = self.log.open(http.path, http.query_string, now_ms)
        charge = self.limiter.charge(http.remote or "", WEIGHTS.get(http.path, 1), now_ms)
        if charge.status != 200:
            return self._refuse(request, charge)
        answers = {
            "/api/v3/ping": self._ping,
            "/api/v3/time": self._time,
            "/api/v3/exchangeInfo": self._exchange_info,
            KLINES: self._klines,
        }
        answer = answers.get(http.path)
        try:
            if answer is None or http.method != "GET":
                return self._send(request, charge, 404, _NOT_FOUND, content_type="text/html")
            return await answer(http, request, charge)
        finally:
            if request.status is None:
                self.log.close(request, 0)

    async def _ping(
        self, http: web.Request, request: Request, charge: Charge
    ) -> web.StreamResponse:
        lies = self._lies_for(request, None)
        return await self._deliver(http, request, charge, lies, b"{}")

    async def _time(
        self, http: web.Request, request: Request, charge: Charge
    ) -> web.StreamResponse:
        lies = self._lies_for(request, None)
        body = msgspec.json.encode({"serverTime": self.clock.now_ms()})
        return await self._deliver(http, request, charge, lies, body)

    async def _exchange_info(
        self, http: web.Request, request: Request, charge: Charge
    ) -> web.StreamResponse:
        lies = self._lies_for(request, None)
        symbols = _asked_symbols(http)
        if isinstance(symbols, ApiError):
            return self._send_error(request, charge, symbols)
        document = self.info.answer(self.clock.now_ms(), symbols)
        if isinstance(document, ApiError):
            return self._send_error(request, charge, document)
        return await self._deliver(http, request, charge, lies, msgspec.json.encode(document))

    async def _klines(
        self, http: web.Request, request: Request, charge: Charge
    ) -> web.StreamResponse:
        query = parse_kline_query(http.query.items())
        lies = self._lies_for(request, query if isinstance(query, KlineQuery) else None)
        if self.delay_ms:
            await asyncio.sleep(self.delay_ms / 1_000)
        if isinstance(query, KlineQuery) and query.symbol not in self.info:
            query = INVALID_SYMBOL
        if isinstance(query, ApiError):
            return self._send_error(request, charge, query)
        now_ms = self.clock.now_ms()
        about_rows = [lie.act for lie in lies if isinstance(lie.act, faults.RowAct)]
        if about_rows:
            rows = self.market.rows(query, now_ms)
            rows = lying.lie_about(rows, about_rows, query, now_ms)
            encoded = [encode_row(row, query.interval_ms) for row in rows]
        else:
            encoded = self.market.encoded_rows(query, now_ms)
        request.rows = len(encoded)
        return await self._deliver(http, request, charge, lies, page_of(encoded))

    def _lies_for(self, request: Request, query: KlineQuery | None) -> tuple[faults.Lie, ...]:
        asked = faults.Asked(path=request.path)
        if query is not None:
            start_ms, end_ms = query.asked_range(request.at_ms)
            asked = faults.Asked(
                path=request.path, symbol=query.symbol, start_ms=start_ms, end_ms=end_ms
            )
        lies = self.lies.pick(asked)
        request.lies = [{"index": lie.index, "kind": lie.kind.value} for lie in lies]
        request.lie = lies[0].kind.value if lies else None
        return lies

    async def _deliver(
        self,
        http: web.Request,
        request: Request,
        charge: Charge,
        lies: tuple[faults.Lie, ...],
        body: bytes,
    ) -> web.StreamResponse:
        act = next((lie.act for lie in lies if not isinstance(lie.act, faults.RowAct)), None)
        match act:
            case None:
                return self._send(request, charge, 200, body)
            case faults.Status():
                return self._send(
                    request,
                    charge,
                    act.code,
                    lying.status_body(
                        act, limit=self.limiter.rules.limit, now_ms=self.clock.now_ms()
                    ),
                    headers=dict(act.headers),
                )
            case faults.Html200():
                return self._send(request, charge, 200, lying.HTML, content_type="text/html")
            case faults.Empty():
                return self._send(request, charge, 200, act.body.encode())
            case faults.Truncate():
                kept = body[: int(len(body) * act.keep)]
                if not act.short:
                    return self._send(request, charge, 200, kept)
                return await self._send_short(http, request, charge, kept, len(body))
            case faults.Hang():
                return await self._hang(http, request, act.seconds)
            case faults.Reset():
                return self._reset(http, request)
        raise AssertionError(act)

    def _refuse(self, request: Request, charge: Charge) -> web.Response:
        if charge.status == 418:
            error = banned(charge.banned_until_ms)
        else:
            error = too_much_weight(self.limiter.rules.limit)
        return self._send_error(
            request, charge, error, headers={"Retry-After": str(charge.retry_after_s)}
        )

    def _send_error(
        self,
        request: Request,
        charge: Charge,
        error: ApiError,
        *,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        body = msgspec.json.encode({"code": error.code, "msg": error.message})
        return self._send(request, charge, error.status, body, headers=headers)

    def _send(
        self,
        request: Request,
        charge: Charge,
        status: int,
        body: bytes,
        *,
        content_type: str = _JSON,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        self.log.close(request, status, request.rows if status == 200 else None)
        return web.Response(
            status=status,
            body=body,
            headers=self._headers(charge, content_type) | (headers or {}),
        )

    async def _send_short(
        self, http: web.Request, request: Request, charge: Charge, body: bytes, promised: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers(charge, _JSON))
        response.content_length = promised
        self.log.close(request, 200)
        await response.prepare(http)
        await response.write(body)
        _close(http)
        return response

    async def _hang(self, http: web.Request, request: Request, seconds: float) -> web.Response:
        # Waiting for the end of the exchange as well: a silent connection must not hold it up.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        self.log.close(request, 0)
        _close(http)
        return web.Response()

    def _reset(self, http: web.Request, request: Request) -> web.Response:
        if http.transport is not None:
            # Lingering for zero seconds makes closing send RST instead of FIN.
            sock: socket.socket = http.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.transport.abort()
        self.log.close(request, 0)
        return web.Response()

    def _headers(self, charge: Charge, content_type: str) -> dict[str, str]:
        used = str(charge.used)
        return {
            "Content-Type": content_type,
            "Date": formatdate(self.clock.now_ms() // 1_000, usegmt=True),
            "Server": "nginx",
            "X-MBX-USED-WEIGHT": used,
            "X-MBX-USED-WEIGHT-1M": used,
        }


def _asked_symbols(http: web.Request) -> list[str] | ApiError | None:
    if "symbol" in http.query:
        return [http.query["symbol"]]
    if "symbols" not in http.query:
        return None
    try:
        return msgspec.json.decode(http.query["symbols"], type=list[str])
    except msgspec.MsgspecError:
        return illegal_characters("symbols", _LEGAL_SYMBOLS)


def _close(http: web.Request) -> None:
    if http.transport is not None:
        http.transport.close()
