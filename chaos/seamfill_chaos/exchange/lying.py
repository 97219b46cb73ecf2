"""What lies do to an answer. Pure: `seamfill_chaos.faults` says when, this module says how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec

from seamfill_chaos import faults
from seamfill_chaos.exchange.api_errors import (
    BACKEND_TIMEOUT,
    OVERLOADED,
    banned,
    too_much_weight,
    unknown_error,
)
from seamfill_chaos.exchange.bars import DECIMALS, Row, partly_filled
from seamfill_chaos.exchange.klines import KlineQuery

HTML = (
    b"<!DOCTYPE html><html><head><title>Just a moment</title></head>"
    b"<body><h1>Please wait</h1></body></html>"
)
_BAN_MS = 120_000


def status_body(act: faults.Status, *, limit: int, now_ms: int) -> bytes:
    """Return the body of a `status` lie: its own, or what Binance sends with that status."""
    if act.body is not None:
        return act.body.encode()
    match act.code:
        case 418:
            error = banned(now_ms + _BAN_MS)
        case 429:
            error = too_much_weight(limit)
        case 503:
            error = OVERLOADED
        case 504:
            error = BACKEND_TIMEOUT
        case _:
            error = unknown_error(act.code)
    return msgspec.json.encode({"code": error.code, "msg": error.message})


def lie_about(
    rows: Sequence[Row], acts: Iterable[faults.RowAct], query: KlineQuery, now_ms: int
) -> list[Row]:
    """Return the rows after every act in turn."""
    told = list(rows)
    for act in acts:
        told = _lie(told, act, query, now_ms)
    return told


def _lie(rows: list[Row], act: faults.RowAct, query: KlineQuery, now_ms: int) -> list[Row]:
    match act:
        case faults.DropBars():
            hit = _hit(rows, act)
            return [row for row in rows if row.ts_ms not in hit]
        case faults.DuplicateBars():
            hit = _hit(rows, act)
            return [row for row in rows for _ in range(2 if row.ts_ms in hit else 1)]
        case faults.PartialLast():
            return [*rows[:-1], partly_filled(rows[-1], 0.5)] if rows else []
        case faults.Restate():
            return [scaled(row, act.factor) if act.span.holds(row.ts_ms) else row for row in rows]
        case faults.OffGrid():
            return [row._replace(ts_ms=row.ts_ms + act.shift_ms) for row in rows]
        case faults.OutOfRange():
            return _with_foreign_rows(rows, act, query, now_ms)
        case _:
            assert_never(act)


def scaled(row: Row, factor: float) -> Row:
    """Return the bar with its prices and volume multiplied, rounded as the exchange writes them."""
    values = (round(value * factor, DECIMALS) for value in row[1:])
    return Row(row.ts_ms, *values)


def _hit(rows: list[Row], act: faults.DropBars | faults.DuplicateBars) -> set[int]:
    if act.bars_ms:
        return set(act.bars_ms)
    if not act.span.is_everything:
        return {row.ts_ms for row in rows if act.span.holds(row.ts_ms)}
    # Nothing named: take them from the middle, so that the lie leaves a bar on either side.
    first = max((len(rows) - act.count) // 2, 0)
    return {row.ts_ms for row in rows[first : first + act.count]}


def _with_foreign_rows(
    rows: list[Row], act: faults.OutOfRange, query: KlineQuery, now_ms: int
) -> list[Row]:
    step = query.interval_ms
    start_ms, end_ms = query.asked_range(now_ms)
    first_ms = -(-start_ms // step) * step
    stop_ms = -(-end_ms // step) * step
    like = rows or [Row(first_ms, 1.0, 1.0, 1.0, 1.0, 1.0)]
    earlier = [like[0]._replace(ts_ms=first_ms - step * k) for k in range(act.before, 0, -1)]
    later = [like[-1]._replace(ts_ms=stop_ms + step * k) for k in range(act.after)]
    return [*(row for row in earlier if row.ts_ms >= 0), *rows, *later]
