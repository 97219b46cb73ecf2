"""The answer of `/api/v3/exchangeInfo`: recorded where there is a recording, generated elsewhere.

Pure. A recorded answer keeps all its symbols, also those without bars (their klines are empty),
because a client's work of reading it is part of what is rehearsed. Two things are overridden: the
weight limit, which was smaller in older recordings, and the time, which is the exchange's clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seamfill_chaos.exchange.api_errors import INVALID_SYMBOL, ApiError

QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY")
STATUSES = ("TRADING", "BREAK", "HALT", "END_OF_DAY")


class ExchangeInfo:
    """Own the description of all symbols; their status may change while the exchange runs."""

    def __init__(
        self, recorded: dict[str, Any] | None, symbols: Iterable[str], *, weight_limit: int
    ) -> None:
        """Describe the recorded symbols and all of `symbols`.

        Raises ValueError for a symbol whose quote asset can not be told.
        """
        base = dict(recorded or {"timezone": "UTC", "rateLimits": [], "exchangeFilters": []})
        self._symbols: dict[str, dict[str, Any]] = {
            entry["symbol"]: entry for entry in base.pop("symbols", [])
        }
        for symbol in symbols:
            if symbol not in self._symbols:
                self._symbols[symbol] = _describe(symbol)
        base["rateLimits"] = _with_weight_limit(base["rateLimits"], weight_limit)
        self._base = base

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._symbols

    def status(self, symbol: str) -> str:
        """Return the symbol's status, such as TRADING. Raises KeyError."""
        return str(self._symbols[symbol]["status"])

    def set_status(self, symbol: str, status: str) -> None:
        """Change the symbol's status. Raises KeyError for an unknown symbol."""
        self._symbols[symbol] = {**self._symbols[symbol], "status": status}

    def answer(self, now_ms: int, symbols: list[str] | None) -> dict[str, Any] | ApiError:
        """Return the document for all symbols, or for the given ones."""
        chosen: Iterable[dict[str, Any]] = self._symbols.values()
        if symbols is not None:
            if any(symbol not in self._symbols for symbol in symbols):
                return INVALID_SYMBOL
            chosen = [self._symbols[symbol] for symbol in symbols]
        return {**self._base, "serverTime": now_ms, "symbols": list(chosen)}


def _with_weight_limit(limits: list[dict[str, Any]], weight_limit: int) -> list[dict[str, Any]]:
    ours = {
        "rateLimitType": "REQUEST_WEIGHT",
        "interval": "MINUTE",
        "intervalNum": 1,
        "limit": weight_limit,
    }
    return [ours, *(each for each in limits if each.get("rateLimitType") != "REQUEST_WEIGHT")]


def _describe(symbol: str) -> dict[str, Any]:
    quote = next((q for q in QUOTES if symbol.endswith(q) and symbol != q), None)
    if quote is None:
        raise ValueError(f"symbol {symbol!r} ends in none of the known quotes {', '.join(QUOTES)}")
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": symbol.removesuffix(quote),
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.00000001",
                "maxPrice": "1000000.00000000",
                "tickSize": "0.00000001",
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": "0.00000001",
                "maxQty": "1000000000.00000000",
                "stepSize": "0.00000001",
            },
        ],
        "permissions": ["SPOT"],
    }
