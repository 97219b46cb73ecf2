"""What a klines request asks for, and the errors Binance answers to a wrong one.

Pure. The messages are Binance's own, since clients match on them.
Source: Binance's spot REST documentation, "Kline/Candlestick data", and its list of error codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from seamfill_chaos.exchange.api_errors import ApiError, illegal_characters
from seamfill_chaos.exchange.bars import MINUTE_MS

LIMIT_DEFAULT = 500
LIMIT_MAX = 1_000

INTERVALS_MS = {
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": 60 * MINUTE_MS,
    "2h": 120 * MINUTE_MS,
    "4h": 240 * MINUTE_MS,
    "6h": 360 * MINUTE_MS,
    "8h": 480 * MINUTE_MS,
    "12h": 720 * MINUTE_MS,
    "1d": 1_440 * MINUTE_MS,
}
"""The intervals served. Binance has more (1s, 3d, 1w, 1M); here they are answered -1120."""

_SYMBOL = re.compile(r"[A-Z0-9\-_.]{1,20}")
_NUMBER = re.compile(r"[0-9]{1,20}")
_LEGAL = {
    "symbol": (_SYMBOL, "^[A-Z0-9-_.]{1,20}$"),
    "limit": (_NUMBER, "^[0-9]{1,20}$"),
    "startTime": (_NUMBER, "^[0-9]{1,20}$"),
    "endTime": (_NUMBER, "^[0-9]{1,20}$"),
}
_KNOWN = frozenset({*_LEGAL, "interval", "timeZone"})
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KlineQuery:
    """Hold a valid request for klines. `end_ms` is inclusive, as Binance has it."""

    symbol: str
    interval_ms: int
    start_ms: int | None
    end_ms: int | None
    limit: int

    def asked_range(self, now_ms: int) -> tuple[int, int]:
        """Return the half-open time range that the request is about, whatever exists in it."""
        span_ms = self.limit * self.interval_ms
        if self.start_ms is not None:
            end_ms = self.start_ms + span_ms
            return self.start_ms, end_ms if self.end_ms is None else min(end_ms, self.end_ms + 1)
        end_ms = now_ms if self.end_ms is None else self.end_ms + 1
        return end_ms - span_ms, end_ms


def parse_kline_query(pairs: Iterable[tuple[str, str]]) -> KlineQuery | ApiError:
    """Return the request, or the error that Binance would answer. The symbol may be unknown."""
    sent: dict[str, str] = {}
    for name, value in pairs:
        if name in sent:
            return ApiError(code=-1101, message="Duplicate values for a parameter detected.")
        sent[name] = value
    refusal = _refusal_of(sent)
    if refusal is not None:
        return refusal
    return KlineQuery(
        symbol=sent["symbol"],
        interval_ms=INTERVALS_MS[sent["interval"]],
        start_ms=int(sent["startTime"]) if "startTime" in sent else None,
        end_ms=int(sent["endTime"]) if "endTime" in sent else None,
        # More than the maximum is capped without a word, as the real exchange does.
        limit=min(int(sent.get("limit", LIMIT_DEFAULT)), LIMIT_MAX),
    )


def _refusal_of(sent: dict[str, str]) -> ApiError | None:
    for name in ("symbol", "interval"):
        if name not in sent:
            return ApiError(
                code=-1102,
                message=f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.",
            )
    known = len(_KNOWN & sent.keys())
    if known != len(sent):
        return ApiError(
            code=-1104,
            message=f"Not all sent parameters were read; read '{known}' parameter(s) "
            f"but was sent '{len(sent)}'.",
        )
    for name, value in sent.items():
        refusal = _refusal_of_value(name, value)
        if refusal is not None:
            return refusal
    return None


def _refusal_of_value(name: str, value: str) -> ApiError | None:
    if value == "":
        return ApiError(code=-1105, message=f"Parameter '{name}' was empty.")
    if name == "interval":
        if value in INTERVALS_MS:
            return None
        return ApiError(code=-1120, message="Invalid interval.")
    if name == "timeZone":
        # Only UTC days are served; minutes and hours are the same in every zone but half-hour ones.
        if value in ("0", "00:00", "+00:00", "-00:00"):
            return None
        return ApiError(code=-1130, message="Data sent for parameter 'timeZone' is not valid.")
    pattern, legal = _LEGAL[name]
    if not pattern.fullmatch(value):
        return illegal_characters(name, legal)
    if name == "limit" and int(value) == 0:
        return ApiError(code=-1130, message="Data sent for parameter 'limit' is not valid.")
    if pattern is _NUMBER and int(value) > _INT64_MAX:
        return ApiError(code=-1108, message=f"Parameter '{name}' overflowed.")
    return None
