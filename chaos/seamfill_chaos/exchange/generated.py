"""Generated bars: the same seed gives the same bars, bit for bit, on every machine.

Pure. Whoever starts an exchange without recorded data can call `generate` with the same arguments
and knows the truth without asking.
The walk is made of integers (raw 64-bit draws and price ticks) and one correctly rounded division:
numpy promises the raw stream of a bit generator for ever, but not the streams of its distributions,
and `exp` and `log` differ in the last bit between mathematical libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seamfill.bars import Bars, Int64s
from seamfill_chaos.exchange.bars import MINUTE_MS

TICKS_PER_UNIT = 100
LOTS_PER_UNIT = 100_000
OUTAGE_MINUTES_MIN = 20
OUTAGE_MINUTES_SPAN = 220
MINUTES_PER_OUTAGE = 4 * OUTAGE_MINUTES_MIN
"""History that each outage needs, so that bars are left on both of its sides."""

QUIET_PER_MILLE = 5
"""How many of a thousand bars have no trades: zero volume, flat at the previous close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Say which bars to generate.

    `minutes` counts the whole span, outages included; every symbol has the same span, and an
    outage closes the whole venue. Raises ValueError when the span is too short for its outages.
    """

    seed: int
    symbols: tuple[str, ...]
    start_ms: int
    minutes: int
    outages: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError("the seed must not be negative")
        if self.start_ms % MINUTE_MS != 0 or self.start_ms < 0:
            raise ValueError("the start must be a whole minute")
        if self.outages < 0 or self.minutes < max(1, self.outages * MINUTES_PER_OUTAGE):
            raise ValueError(
                f"{self.outages} outages need a history of at least "
                f"{max(1, self.outages * MINUTES_PER_OUTAGE)} minutes, not {self.minutes}"
            )


def generate(history: History) -> dict[str, Bars]:
    """Return each symbol's bars, without those that fall into an outage."""
    minutes = np.arange(history.minutes, dtype=np.int64)
    ts_ms = history.start_ms + minutes * MINUTE_MS
    is_open = np.ones(history.minutes, dtype=bool)
    for start_ms, end_ms in outage_ranges(history):
        is_open &= (ts_ms < start_ms) | (ts_ms >= end_ms)
    return {symbol: _walk(history.seed, symbol, ts_ms, is_open) for symbol in history.symbols}


def outage_ranges(history: History) -> Sequence[tuple[int, int]]:
    """Return the half-open time ranges in which the generated venue was closed, oldest first."""
    if history.outages == 0:
        return ()
    share = history.minutes // history.outages
    draws = _draws(history.seed, "outages", 2 * history.outages).reshape(-1, 2)
    ranges = []
    for number, (length_draw, place_draw) in enumerate(draws.tolist()):
        # At most a quarter of the share, inside its middle half: outages neither touch each other
        # nor the ends of the history, so each one can be proved from both of its sides.
        length = min(OUTAGE_MINUTES_MIN + length_draw % OUTAGE_MINUTES_SPAN, share // 4)
        first = number * share + share // 4 + place_draw % (share // 4)
        start_ms = history.start_ms + first * MINUTE_MS
        ranges.append((start_ms, start_ms + length * MINUTE_MS))
    return tuple(ranges)


def _walk(seed: int, symbol: str, ts_ms: Int64s, is_open: npt.NDArray[np.bool_]) -> Bars:
    count = len(ts_ms)
    draws = _draws(seed, symbol, 5 * count + 1)
    base = 10_000 + int(draws[-1] % 5_000_000)
    step, up, down, lots, quiet = draws[:-1].reshape(5, count)
    reach = max(base // 2_000, 1)
    floor = max(base // 10, 1)

    is_quiet = quiet % 1_000 < QUIET_PER_MILLE
    steps = np.where(is_quiet, 0, _below(step, 2 * reach + 1) - reach)
    # Reflected at a floor: a long walk must not reach zero, and prices stay positive.
    close = np.abs(base - floor + np.cumsum(steps)) + floor
    open_ = np.concatenate(([base], close[:-1]))
    high = np.maximum(open_, close) + np.where(is_quiet, 0, _below(up, reach + 1))
    low = np.minimum(open_, close) - np.where(is_quiet, 0, _below(down, reach + 1))
    volume = np.where(is_quiet, 0, 1 + _below(lots, 50 * LOTS_PER_UNIT))
    return Bars(
        ts_ms=ts_ms[is_open],
        open=open_[is_open] / TICKS_PER_UNIT,
        high=high[is_open] / TICKS_PER_UNIT,
        low=np.maximum(low, 1)[is_open] / TICKS_PER_UNIT,
        close=close[is_open] / TICKS_PER_UNIT,
        volume=volume[is_open] / LOTS_PER_UNIT,
    )


def _below(draws: npt.NDArray[np.uint64], limit: int) -> Int64s:
    return (draws % np.uint64(limit)).astype(np.int64)


def _draws(seed: int, purpose: str, count: int) -> npt.NDArray[np.uint64]:
    # One stream per purpose: adding a symbol leaves the bars of all others as they were.
    entropy = np.random.SeedSequence([seed, *purpose.encode()])
    return np.asarray(np.random.PCG64(entropy).random_raw(count), dtype=np.uint64)
