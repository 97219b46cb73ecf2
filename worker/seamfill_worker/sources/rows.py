"""Rows as a venue sent them, turned into bars, or refused with what is wrong with them.

Owns the validation of one answer. Must not know HTTP or ccxt. Pure.

A venue's word is taken for nothing: times are integers on the grid, strictly ascending, not before
what was asked and no more rows than were asked; values are finite and a bar's high and low enclose
its open and close. The whole answer is refused for one bad row: whatever broke it may have broken
the others as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt

from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.errors import SourceMalformed

__all__ = ["COLUMNS", "Columns", "columns_of_rows", "trusted_bars"]

COLUMNS: Final = ("ts", *VALUE_COLUMNS)
Columns = tuple[Sequence[object], ...]
"""Six columns in the order of ``COLUMNS``, as they came."""


def columns_of_rows(rows: Sequence[Sequence[object]]) -> Columns:
    """Turn rows into columns; rows of different lengths are refused."""
    try:
        columns = tuple(zip(*rows, strict=True))
    except (ValueError, TypeError) as exc:
        raise SourceMalformed("rows have different lengths") from exc
    if rows and len(columns) < len(COLUMNS):
        raise SourceMalformed(f"rows have {len(columns)} columns, expected {len(COLUMNS)}")
    return columns[: len(COLUMNS)] or ((),) * len(COLUMNS)


def trusted_bars(columns: Columns, *, start_ms: int, limit_bars: int, interval_ms: int) -> Bars:
    """Return the answer's bars in ascending order, or raise ``SourceMalformed``."""
    times = _times(columns[0])
    values = [
        _values(name, column) for name, column in zip(VALUE_COLUMNS, columns[1:], strict=True)
    ]
    # Some venues send the newest row first; that is an order, too.
    if len(times) > 1 and times[0] > times[-1]:
        times, values = times[::-1].copy(), [column[::-1].copy() for column in values]
    bars = Bars(
        ts_ms=times,
        open=values[0],
        high=values[1],
        low=values[2],
        close=values[3],
        volume=values[4],
    )
    _check_times(times, start_ms=start_ms, interval_ms=interval_ms)
    _check_values(bars)
    # Last, because a row that is twice there or out of range says better what is wrong.
    if len(columns[0]) > limit_bars:
        raise SourceMalformed(f"{len(columns[0])} rows were sent, {limit_bars} were asked for")
    return bars


def _times(column: Sequence[object]) -> npt.NDArray[np.int64]:
    if not column:
        return np.empty(0, dtype=np.int64)
    try:
        times = np.array(column)
    except (ValueError, OverflowError) as exc:
        raise SourceMalformed("times are not integers") from exc
    # A boolean is an int to Python; a float may be one that lost its last digits.
    if times.dtype != np.int64 or times.ndim != 1:
        raise SourceMalformed(f"times are not integers: {column[0]!r} …")
    return times


def _values(name: str, column: Sequence[object]) -> npt.NDArray[np.float64]:
    try:
        values = np.array(column, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise SourceMalformed(f"column {name} holds something that is no number") from exc
    if values.ndim != 1 or not np.isfinite(values).all():
        raise SourceMalformed(f"column {name} holds a value that is not finite or absent")
    return values


def _check_times(times: npt.NDArray[np.int64], *, start_ms: int, interval_ms: int) -> None:
    if not len(times):
        return
    _refuse(times, times % interval_ms != 0, "off the grid")
    _refuse(times[1:], np.diff(times) == 0, "sent twice")
    _refuse(times[1:], np.diff(times) < 0, "out of order")
    _refuse(times, times < start_ms, f"out of range: before {start_ms}, where the answer begins")


def _check_values(bars: Bars) -> None:
    highest = np.maximum(bars.open, bars.close)
    lowest = np.minimum(bars.open, bars.close)
    _refuse(bars.ts_ms, bars.high < highest, "a bar whose high is not the highest")
    _refuse(bars.ts_ms, bars.low > lowest, "a bar whose low is not the lowest")
    _refuse(bars.ts_ms, bars.volume < 0, "a bar with a negative volume")


def _refuse(times: npt.NDArray[np.int64], wrong: npt.NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        _malformed(int(times[int(np.argmax(wrong))]), int(wrong.sum()), what)


def _malformed(ts_ms: int, count: int, what: str) -> NoReturn:
    more = f" and {count - 1} more" if count > 1 else ""
    raise SourceMalformed(f"bar {ts_ms}{more}: {what}")
