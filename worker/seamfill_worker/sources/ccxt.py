"""Bars through ccxt: the only file that knows it.

Owns the translation between ccxt and ``seamfill.connectors.Source``: what was asked and heard per
request, errors, the venue's clock. Row validation is in ``rows``. Must not know leases or stores.

What ccxt hides is brought back here (market-data.md): a 200 that is not JSON becomes ``[]``; rows
are sorted and cut to what was asked, which covers up lies; status, Retry-After and the weight
counter are lost; overload comes as a plain ``ExchangeError``.

Invariants: a bar is *closed* only if it had closed and settled by a venue's clock that was read
*before* the request was sent. Concurrent requests share one ccxt instance but never their metadata:
each call has its own ``_Heard`` in a context variable.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from seamfill.bars import Bars
from seamfill.clock import Clock, SystemClock
from seamfill.connectors import Page, Venue
from seamfill.errors import (
    InvalidInput,
    SeamfillError,
    SourceError,
    SourceMalformed,
    SourceRateLimited,
    SourceRejected,
    SourceUnavailable,
    UnknownSymbol,
)
from seamfill.protocol.values import Asked, Usage
from seamfill_worker.sources.rows import COLUMNS, Columns, columns_of_rows, trusted_bars

__all__ = ["CcxtSource"]

T = TypeVar("T")
TIMEOUT_MS: Final = 8_000
MIN_PAGE_BARS: Final = 8
_CLOCK_AGE_MS_MAX: Final = 60_000
_CLOCK_BACK_MS: Final = 5_000
_MARKETS_AGE_MS_MAX: Final = 60_000
_RETRY_AFTER_MS: Final = {418: 120_000, 429: 10_000}
_MAINTENANCE_MS: Final = 60_000
_OVERLOADED: Final = "-1008"
_WEIGHT_HEADER: Final = "x-mbx-used-weight-1m"
# What a body of another shape than expected makes ccxt's parsers raise.
_SHAPE_ERRORS: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(slots=True)
class _Heard:
    """What one request's answer said beside its rows."""

    wants_rows: bool = False
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    columns: Columns | None = None

    def number(self, header: str) -> int | None:
        value = self.headers.get(header, "").strip()
        return int(value) if value.isascii() and value.isdigit() else None

    def date_ms(self) -> int | None:
        try:
            return int(parsedate_to_datetime(self.headers["date"]).timestamp() * 1000)
        except (KeyError, ValueError, OverflowError):
            return None


_HEARD: ContextVar[_Heard] = ContextVar("seamfill_heard")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClockSeen:
    """The venue's clock as it was once read, and our monotonic time of that moment."""

    venue_ms: int
    at_ms: int


class CcxtSource:
    """Fetch closed bars of one ccxt venue. See ``seamfill.connectors.Source`` for the promises."""

    def __init__(
        self,
        exchange: str,
        venue: Venue,
        *,
        url: str | None = None,
        clock: Clock | None = None,
        timeout_ms: int = TIMEOUT_MS,
    ) -> None:
        if venue.page_bars < MIN_PAGE_BARS:
            raise InvalidInput(f"venues.{venue.name}.page_bars", f"at least {MIN_PAGE_BARS}")
        self._venue = venue
        self._clock = clock or SystemClock()
        self._exchange = _guarded_exchange(exchange, url, timeout_ms)
        self._markets_lock = asyncio.Lock()
        self._markets_at_ms: int | None = None
        self._clock_seen: _ClockSeen | None = None

    @property
    def name(self) -> str:
        return self._venue.name

    @property
    def venue(self) -> Venue:
        return self._venue

    async def fetch(self, symbol: str, interval_ms: int, *, start_ms: int, limit_bars: int) -> Page:
        """Return the first bars from ``start_ms`` on; see ``Source.fetch``."""
        limit = min(limit_bars, self._venue.page_bars)
        await self._known_market(symbol)
        ask = _Ask(symbol, self._timeframe(interval_ms), interval_ms, start_ms, limit)
        seen = await self._clock_for(start_ms + limit * interval_ms)
        bars, heard = await self._rows(ask)
        closed = bars.between(0, self._closed_before(seen, interval_ms))
        went_back = (heard.date_ms() or seen.venue_ms) < seen.venue_ms - _CLOCK_BACK_MS
        if len(closed) < len(bars) or went_back:
            # The answer reaches the present, or the clock is not what it was. Read the clock and
            # ask again, in this order: what had closed by then is final in the second answer.
            seen = await self._read_clock()
            bars, heard = await self._rows(ask)
            self._refuse_future(bars, seen)
            closed = bars.between(0, self._closed_before(seen, interval_ms))
        return self._page(ask, bars, closed, heard, seen)

    async def server_time_ms(self) -> int:
        return (await self._read_clock()).venue_ms

    async def is_trading(self, symbol: str) -> bool:
        market = await self._known_market(symbol, age_ms_max=_MARKETS_AGE_MS_MAX)
        return market.get("active") is not False

    async def aclose(self) -> None:
        await self._exchange.close()

    # --- rows -----------------------------------------------------------------------------------

    async def _rows(self, ask: _Ask) -> tuple[Bars, _Heard]:
        """Ask once and return the validated rows, the open one included."""
        # An exclusive venue sends what comes *after* since.
        since_ms = ask.start_ms if self._venue.since_inclusive else max(0, ask.start_ms - 1)
        returned, heard = await self._call(
            lambda: self._exchange.fetch_ohlcv(ask.symbol, ask.timeframe, since_ms, ask.limit),
            wants_rows=True,
        )
        columns = heard.columns if heard.columns is not None else columns_of_rows(returned)
        bars = trusted_bars(
            columns, start_ms=ask.start_ms, limit_bars=ask.limit, interval_ms=ask.interval_ms
        )
        return bars, heard

    def _page(self, ask: _Ask, bars: Bars, closed: Bars, heard: _Heard, seen: _ClockSeen) -> Page:
        rows = len(bars)
        # What the venue says itself is the evidence. Our own reckoning jumps a little whenever the
        # clock is read again, and two answers a second apart could look closer than that.
        reckoned_ms = seen.venue_ms + self._clock.monotonic_ms() - seen.at_ms
        reach_ms = ask.start_ms + ask.limit * ask.interval_ms
        return Page(
            bars=closed,
            asked=Asked(
                start_ms=ask.start_ms,
                end_ms=int(bars.ts_ms[-1]) + ask.interval_ms if rows else reach_ms,
                server_time_ms=heard.date_ms() or reckoned_ms,
                http_status=heard.status,
                body_sha256=heard.sha256,
                rows=rows,
            ),
            usage=Usage(
                source=self.name, used_weight=heard.number(_WEIGHT_HEADER), status=heard.status
            ),
            open_from_ms=int(bars.ts_ms[len(closed)]) if len(closed) < rows else None,
        )

    # --- the venue's clock ----------------------------------------------------------------------

    async def _clock_for(self, until_ms: int) -> _ClockSeen:
        """Return a reading of the venue's clock that is good enough to judge bars before a time.

        An old reading is a lower bound, and all that history needs. It is renewed every minute, so
        that a clock which was set back is noticed.
        """
        seen = self._clock_seen
        if (
            seen is None
            or until_ms + self._venue.settle_ms > seen.venue_ms
            or self._clock.monotonic_ms() - seen.at_ms > _CLOCK_AGE_MS_MAX
        ):
            return await self._read_clock()
        return seen

    async def _read_clock(self) -> _ClockSeen:
        if self._exchange.has.get("fetchTime"):
            venue_ms, _ = await self._call(self._exchange.fetch_time)
        else:
            _, heard = await self._call(lambda: self._exchange.load_markets(True))
            venue_ms = heard.date_ms()
        if not isinstance(venue_ms, int):
            raise SourceMalformed(f"{self.name} does not tell the time")
        self._clock_seen = _ClockSeen(venue_ms=venue_ms, at_ms=self._clock.monotonic_ms())
        return self._clock_seen

    def _closed_before(self, seen: _ClockSeen, interval_ms: int) -> int:
        return (seen.venue_ms - self._venue.settle_ms) // interval_ms * interval_ms

    def _refuse_future(self, bars: Bars, seen: _ClockSeen) -> None:
        now_ms = seen.venue_ms + self._clock.monotonic_ms() - seen.at_ms
        if len(bars) and int(bars.ts_ms[-1]) > now_ms + 1_000:
            raise SourceMalformed(
                f"bar {int(bars.ts_ms[-1])}: out of range: the venue's clock says {now_ms}"
            )

    # --- markets --------------------------------------------------------------------------------

    async def _known_market(
        self, symbol: str, *, age_ms_max: int | None = None
    ) -> Mapping[str, Any]:
        """Return the market that is spelt exactly like this, or raise ``UnknownSymbol``."""
        markets = await self._markets(age_ms_max)
        if symbol not in markets:
            # It may be new, and nobody is called unknown on a list of last week.
            markets = await self._markets(_MARKETS_AGE_MS_MAX)
        if symbol not in markets:
            raise UnknownSymbol(self._unknown(symbol))
        market: Mapping[str, Any] = markets[symbol]
        return market

    async def _markets(self, age_ms_max: int | None) -> Mapping[str, Any]:
        """Return the venue's markets, read at most ``age_ms_max`` ago (None: at any time)."""
        async with self._markets_lock:
            now_ms, loaded_ms = self._clock.monotonic_ms(), self._markets_at_ms
            if loaded_ms is None or (age_ms_max is not None and loaded_ms + age_ms_max < now_ms):
                await self._call(lambda: self._exchange.load_markets(True))
                if not self._exchange.markets:
                    raise SourceMalformed(f"{self.name} answered with an empty list of symbols")
                self._markets_at_ms = now_ms
        markets: Mapping[str, Any] = self._exchange.markets
        return markets

    def _unknown(self, symbol: str) -> str:
        by_id = self._exchange.markets_by_id.get(symbol, ())
        names = [market["symbol"] for market in by_id]
        names += difflib.get_close_matches(symbol, self._exchange.markets, n=3, cutoff=0.6)
        near = f"; did you mean {' or '.join(dict.fromkeys(names))}?" if names else ""
        return f"{self.name} has no symbol {symbol!r}{near}"

    def _timeframe(self, interval_ms: int) -> str:
        for name in self._exchange.timeframes or ():
            # Months and years have no fixed length; ccxt gives them an average one.
            if name[-1] not in "My" and self._exchange.parse_timeframe(name) * 1000 == interval_ms:
                return str(name)
        raise SourceRejected(f"{self.name} has no bars of {interval_ms} ms")

    # --- calls ----------------------------------------------------------------------------------

    async def _call(
        self, call: Callable[[], Awaitable[T]], *, wants_rows: bool = False
    ) -> tuple[T, _Heard]:
        """Run one ccxt call with metadata of its own, and translate what it raises."""
        heard = _Heard(wants_rows=wants_rows)
        token = _HEARD.set(heard)
        try:
            return await call(), heard
        except SeamfillError:
            raise
        except _ccxt().BaseError as exc:
            raise _translated(exc, heard, self.name) from exc
        except _SHAPE_ERRORS as exc:
            raise SourceMalformed(f"{self.name}: an answer of another shape: {exc!r}") from exc
        finally:
            _HEARD.reset(token)


@dataclass(frozen=True, slots=True)
class _Ask:
    symbol: str
    timeframe: str
    interval_ms: int
    start_ms: int
    limit: int


# --- errors -------------------------------------------------------------------------------------


def _translated(exc: Exception, heard: _Heard, name: str) -> SourceError:
    """Name a ccxt error in our words; what is unknown is worth another try."""
    ccxt = _ccxt()
    text = f"{name}: {exc}"[:400]
    if heard.status in _RETRY_AFTER_MS or isinstance(exc, ccxt.DDoSProtection):
        after_s = heard.number("retry-after")
        default_ms = _RETRY_AFTER_MS.get(heard.status, _RETRY_AFTER_MS[429])
        return SourceRateLimited(
            text,
            retry_after_ms=default_ms if after_s is None else after_s * 1000,
            banned=heard.status == 418,
        )
    if isinstance(exc, ccxt.OnMaintenance):
        after_s = heard.number("retry-after")
        wait_ms = _MAINTENANCE_MS if after_s is None else after_s * 1000
        return SourceRateLimited(text, retry_after_ms=wait_ms)
    if isinstance(exc, ccxt.OperationFailed) or heard.status >= 500 or _OVERLOADED in text:
        return SourceUnavailable(text)
    if isinstance(exc, ccxt.BadSymbol):
        return UnknownSymbol(text)
    if isinstance(
        exc,
        ccxt.BadRequest
        | ccxt.ArgumentsRequired
        | ccxt.AuthenticationError
        | ccxt.NotSupported
        | ccxt.OperationRejected,
    ):
        return SourceRejected(text)
    # A body shorter than promised, and codes that nobody has met yet, come as a bare ExchangeError.
    return SourceUnavailable(text)


# --- ccxt, guarded ------------------------------------------------------------------------------


def _ccxt() -> Any:
    """Import ccxt on first use: it costs half a second and 100 MB."""
    import ccxt.async_support as ccxt

    return ccxt


def _guarded_exchange(exchange: str, url: str | None, timeout_ms: int) -> Any:
    ccxt = _ccxt()
    if exchange not in ccxt.exchanges:
        near = difflib.get_close_matches(exchange, ccxt.exchanges, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InvalidInput("source", f"ccxt has no exchange {exchange!r}{hint}")
    options = {"fetchMarkets": {"types": ["spot"]}, "defaultType": "spot"}
    # Its limiter is off: the budget is the cluster's, and paced before the call (``pacing``).
    guarded = _guarded_class(getattr(ccxt, exchange))(
        {"options": options, "enableRateLimit": False, "timeout": timeout_ms}
    )
    if url is not None:
        guarded.urls["api"] = _moved(guarded.urls["api"], url)
    return guarded


def _guarded_class(base: Any) -> Any:
    """Derive an exchange class that remembers what it heard and hides nothing."""

    class Guarded(base):  # type: ignore[misc]  # ccxt's classes are untyped
        def on_rest_response(  # ccxt's signature
            self,
            code: int,
            reason: str,
            url: str,
            method: str,
            response_headers: Mapping[str, str],
            response_body: str,
            request_headers: object,
            request_body: object,
        ) -> Any:
            heard = _HEARD.get(None)
            if heard is not None:
                heard.status = code
                heard.headers = {name.lower(): value for name, value in response_headers.items()}
                heard.sha256 = hashlib.sha256(response_body.encode()).hexdigest()
            return super().on_rest_response(
                code,
                reason,
                url,
                method,
                response_headers,
                response_body,
                request_headers,
                request_body,
            )

        def handle_errors(  # ccxt's signature
            self,
            code: int,
            reason: str,
            url: str,
            method: str,
            headers: Mapping[str, str],
            body: str,
            response: object,
            request_headers: object,
            request_body: object,
        ) -> Any:
            if 200 <= code < 300 and response is None:
                what = "an empty body" if not body else f"not JSON: {body[:60]!r}"
                raise SourceMalformed(f"{self.id}: HTTP {code} with {what}")
            handled = super().handle_errors(
                code, reason, url, method, headers, body, response, request_headers, request_body
            )
            self.handle_http_status_code(code, reason, url, method, body)
            if not 200 <= code < 300:
                raise SourceUnavailable(f"{self.id}: HTTP {code} {reason}")
            return handled

        def parse_ohlcvs(self, ohlcvs: Any, market: Any = None, *_: Any, **__: Any) -> list[Any]:
            """Keep the rows as they were sent; ccxt would sort them and cut what it dislikes."""
            heard = _HEARD.get(None)
            assert heard is not None
            if not isinstance(ohlcvs, list):
                raise SourceMalformed(f"{self.id}: bars are not a list")
            heard.columns = _columns(self, ohlcvs, market)
            return []

        def to_array(self, value: Any) -> Any:
            """Refuse ``{}`` where bars should be: ccxt takes an object's values, here none."""
            heard = _HEARD.get(None)
            if value == {} and heard is not None and heard.wants_rows:
                raise SourceMalformed(f"{self.id}: an empty object instead of rows")
            return super().to_array(value)

    return Guarded


def _columns(exchange: Any, rows: list[Any], market: Any) -> Columns:
    """Read rows column by column where they are laid out as ours, else row by row through ccxt.

    ccxt's own parser judges the layout by the first and the last row; it takes 4 µs a row, which
    is more than all the rest that happens to a row in a worker.
    """
    if (
        rows
        and set(map(type, rows)) == {list}
        and _is_ours(exchange, rows[0], market)
        and _is_ours(exchange, rows[-1], market)
    ):
        return columns_of_rows(rows)
    return columns_of_rows([exchange.parse_ohlcv(row, market) for row in rows])


def _is_ours(exchange: Any, row: list[Any], market: Any) -> bool:
    if len(row) < len(COLUMNS):
        return False
    parsed = exchange.parse_ohlcv(row, market)
    try:
        return list(parsed) == [row[0], *(float(value) for value in row[1 : len(COLUMNS)])]
    except (TypeError, ValueError):
        return False


def _moved(urls: Any, base: str) -> Any:
    """Put every URL onto another scheme and host, keeping its path."""
    if isinstance(urls, dict):
        return {name: _moved(value, base) for name, value in urls.items()}
    if not isinstance(urls, str):
        return urls
    parts, target = urlsplit(urls), urlsplit(base)
    return urlunsplit((target.scheme, target.netloc, target.path.rstrip("/") + parts.path, "", ""))
