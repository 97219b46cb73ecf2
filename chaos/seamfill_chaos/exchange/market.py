"""The exchange's market data: which bars exist at a given time, and what they look like by then.

Pure but for the tables it owns. Time comes in as the exchange's clock with every question.
A bar exists from its open time on; it is *open* until its close and *settled* `settle_ms` later,
since the last trades reach an exchange's candles late. Until it has settled it is served as an
ordinary row with part of its volume: nothing in the answer tells it from a final one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seamfill.bars import Bars, Float64s, Int64s
from seamfill_chaos.exchange.bars import (
    MINUTE_MS,
    Row,
    at,
    partly_filled,
    positions,
    restated,
    rolled_up,
    rows_of,
)
from seamfill_chaos.exchange.klines import KlineQuery
from seamfill_chaos.exchange.pages import Pages, encode_row

SETTLE_MS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """Positions `[first, stop)` of a series; from `settled` on, values may still change."""

    pages: Pages
    interval_ms: int
    first: int
    settled: int
    stop: int


class Market:
    """Answer for the bars of all symbols."""

    def __init__(self, bars: Mapping[str, Bars], *, settle_ms: int = SETTLE_MS) -> None:
        self._bars = dict(bars)
        self._settle_ms = settle_ms
        self._pages: dict[tuple[str, int], Pages] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        """Name the symbols that have bars."""
        return tuple(self._bars)

    def truth(self, symbol: str) -> Bars:
        """Return the symbol's bars as they are served once settled. Raises KeyError."""
        return self._bars[symbol]

    def settled_ms(self) -> int:
        """Return the first time at which the last bar of every symbol has settled."""
        last_ms = max(int(bars.ts_ms[-1]) + MINUTE_MS for bars in self._bars.values())
        return last_ms + self._settle_ms

    def warm(self) -> None:
        """Encode every one-minute bar now."""
        for symbol in self._bars:
            self._series(symbol, MINUTE_MS).warm()

    def encoded_rows(self, query: KlineQuery, now_ms: int) -> list[bytes]:
        """Return the rows that answer the query, encoded; nothing for a symbol without bars."""
        found = self._find(query, now_ms)
        if found is None:
            return []
        encoded = found.pages.rows(found.first, found.settled)
        encoded.extend(encode_row(row, query.interval_ms) for row in self._unsettled(found, now_ms))
        return encoded

    def rows(self, query: KlineQuery, now_ms: int) -> list[Row]:
        """Return the rows that answer the query; `encoded_rows` says the same in JSON."""
        found = self._find(query, now_ms)
        if found is None:
            return []
        settled = at(found.pages.bars, found.first, found.settled)
        return [*rows_of(settled), *self._unsettled(found, now_ms)]

    def restate(
        self, symbol: str, start_ms: int, end_ms: int, *, factor: float | None, seed: int | None
    ) -> int:
        """Change the values of the bars in `[start_ms, end_ms)` for good, and count them.

        By one `factor`, or, given a `seed`, each bar by its own small factor that depends on the
        seed and the bar's time only. Raises KeyError for a symbol without bars.
        """
        bars = self._bars[symbol]
        first, stop = positions(bars, start_ms, end_ms)
        factors = factor if factor is not None else _factors(seed or 0, bars.ts_ms[first:stop])
        self._bars[symbol] = restated(bars, start_ms, end_ms, factors)
        for key in [key for key in self._pages if key[0] == symbol]:
            del self._pages[key]
        return stop - first

    def _find(self, query: KlineQuery, now_ms: int) -> _Slice | None:
        if query.symbol not in self._bars:
            return None
        pages = self._series(query.symbol, query.interval_ms)
        ts_ms = pages.bars.ts_ms
        existing = int(np.searchsorted(ts_ms, now_ms, side="right"))
        final_ms = now_ms - query.interval_ms - self._settle_ms
        settled = int(np.searchsorted(ts_ms, final_ms, side="right"))
        first, stop = 0, existing
        if query.end_ms is not None:
            stop = min(stop, int(np.searchsorted(ts_ms, query.end_ms, side="right")))
        if query.start_ms is not None:
            first = min(stop, int(np.searchsorted(ts_ms, query.start_ms)))
            stop = min(stop, first + query.limit)
        else:
            first = max(first, stop - query.limit)
        return _Slice(
            pages=pages,
            interval_ms=query.interval_ms,
            first=first,
            settled=min(max(settled, first), stop),
            stop=stop,
        )

    def _unsettled(self, found: _Slice, now_ms: int) -> list[Row]:
        bars = found.pages.bars
        life_ms = found.interval_ms + self._settle_ms
        return [
            partly_filled(row, (now_ms - row.ts_ms) / life_ms)
            for row in rows_of(at(bars, found.settled, found.stop))
        ]

    def _series(self, symbol: str, interval_ms: int) -> Pages:
        key = (symbol, interval_ms)
        pages = self._pages.get(key)
        if pages is None:
            bars = self._bars[symbol]
            if interval_ms != MINUTE_MS:
                bars = rolled_up(bars, interval_ms)
            pages = self._pages[key] = Pages(bars, interval_ms)
        return pages


def _factors(seed: int, ts_ms: Int64s) -> Float64s:
    # A multiplicative hash of time and seed, in 64 bits that wrap: between 1.0001 and 1.0100.
    mixed = (ts_ms.astype(np.uint64) + np.uint64(seed % 2**32)) * np.uint64(0x9E3779B97F4A7C15)
    return 1.0001 + (mixed >> np.uint64(40)).astype(np.float64) / 2**24 * 0.0099
