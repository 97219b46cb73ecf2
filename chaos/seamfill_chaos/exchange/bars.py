"""What an exchange does to bars: shows them half filled, restates them, rolls them up.

Pure: knows neither files, HTTP, clocks nor symbols; everything returns new columns and never
changes the ones it was given. The columns are `seamfill.bars.Bars`, so that what the exchange holds
and what a store holds are compared with the same `content_digest`.
Invariants of the exchange's bars: strictly ascending times on the interval's grid, finite values.
A missing bar is an absent row, never a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from seamfill.bars import Bars, Float64s

MINUTE_MS = 60_000
DECIMALS = 8
"""Binance writes prices and volumes with eight decimals; computed values are rounded to that."""


class Row(NamedTuple):
    """One bar, with its open time in milliseconds UTC."""

    ts_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


def positions(bars: Bars, start_ms: int, end_ms: int) -> tuple[int, int]:
    """Return the half-open range of positions of the bars that open in `[start_ms, end_ms)`."""
    first, stop = np.searchsorted(bars.ts_ms, [start_ms, end_ms])
    return int(first), max(int(first), int(stop))


def at(bars: Bars, first: int, stop: int) -> Bars:
    """Return the bars at positions `[first, stop)`, without copying."""
    return Bars(
        ts_ms=bars.ts_ms[first:stop],
        open=bars.open[first:stop],
        high=bars.high[first:stop],
        low=bars.low[first:stop],
        close=bars.close[first:stop],
        volume=bars.volume[first:stop],
    )


def rows_of(bars: Bars) -> Iterator[Row]:
    """Yield the bars one by one as plain Python numbers, oldest first."""
    columns = (bars.ts_ms, bars.open, bars.high, bars.low, bars.close, bars.volume)
    return (Row(*values) for values in zip(*(c.tolist() for c in columns), strict=True))


def find_fault(bars: Bars, interval_ms: int) -> str | None:
    """Say which invariant of the exchange's bars does not hold, or `None` when all of them do."""
    values = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    if len(bars) == 0:
        return "it holds no bars"
    if (np.diff(bars.ts_ms) <= 0).any():
        return "its times are not strictly ascending"
    if (bars.ts_ms % interval_ms != 0).any() or int(bars.ts_ms[0]) < 0:
        return f"it has times off the {interval_ms} ms grid"
    if not all(np.isfinite(column).all() for column in values):
        return "it has values that are not finite"
    return None


def partly_filled(row: Row, progress: float) -> Row:
    """Return the bar as it looked when only `progress` (0 up to 1) of its life had passed.

    A bar with trades never equals its final self, however late it is looked at: at most half of
    its volume is there. A bar without trades has nothing to differ in.
    """
    share = min(max(progress, 0.0), 1.0) / 2
    close = round(row.open + (row.close - row.open) * share, DECIMALS)
    return row._replace(
        high=max(row.open, close),
        low=min(row.open, close),
        close=close,
        # Rounded down: half of the smallest volume must not become the whole of it again.
        volume=math.floor(row.volume * share * 10**DECIMALS) / 10**DECIMALS,
    )


def restated(bars: Bars, start_ms: int, end_ms: int, factors: Float64s | float) -> Bars:
    """Return the bars with those in `[start_ms, end_ms)` multiplied by `factors`.

    Prices and volume are scaled alike and rounded to eight decimals; `factors` is one number, or
    one per bar of the range. Times never change.
    """
    first, stop = positions(bars, start_ms, end_ms)

    def scaled(column: Float64s) -> Float64s:
        changed = column.copy()
        changed[first:stop] = np.round(column[first:stop] * factors, DECIMALS)
        return changed

    return replace(
        bars,
        open=scaled(bars.open),
        high=scaled(bars.high),
        low=scaled(bars.low),
        close=scaled(bars.close),
        volume=scaled(bars.volume),
    )


def rolled_up(bars: Bars, interval_ms: int) -> Bars:
    """Return the bars rolled into longer ones, as the exchange would have made them from trades.

    Prices come from bars with volume only: a bar without trades repeats an older price, which is
    no trade of the longer bar. Volume adds up. A longer bar exists when any part of it does.
    """
    bucket = bars.ts_ms - bars.ts_ms % interval_ms
    # Where nothing was traded in the whole bucket, all of its flat bars stand for it.
    traded = bars.volume > 0
    starts, group = np.unique(bucket, return_inverse=True)
    lively = np.zeros(len(starts), dtype=bool)
    np.logical_or.at(lively, group, traded)
    used = traded | ~lively[group]
    firsts = np.flatnonzero(np.diff(group[used], prepend=-1))
    lasts = np.append(firsts[1:], used.sum()) - 1
    volume: Float64s = np.add.reduceat(bars.volume, np.flatnonzero(np.diff(group, prepend=-1)))
    return Bars(
        ts_ms=starts,
        open=bars.open[used][firsts],
        high=np.maximum.reduceat(bars.high[used], firsts),
        low=np.minimum.reduceat(bars.low[used], firsts),
        close=bars.close[used][lasts],
        volume=np.round(volume, DECIMALS),
    )
