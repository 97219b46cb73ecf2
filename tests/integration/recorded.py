"""The recorded market data, and what a correct run must make of it.

Truth comes from the recorded files alone: which bars exist, where the holes are, and which reason
each hole must get. Nothing here asks the code under test.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from real_parts import recorded_data
from seamfill.bars import Bars, content_digest

DATASET: Final = "ohlcv.binance.spot.1m"
MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
FILES: Final = {
    "BRD/BTC": "BRDBTC",
    "BTC/USDT": "BTCUSDT",
    "DOGE/USDT": "DOGEUSDT",
    "ETH/BTC": "ETHBTC",
    "ETH/USDT": "ETHUSDT",
    "LTC/USDT": "LTCUSDT",
}


@dataclass(frozen=True, slots=True)
class Hole:
    """A run of absent bars, half-open, and why."""

    start_ms: int
    end_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recording:
    """One symbol's recorded bars."""

    symbol: str
    bars: Bars

    @property
    def file_symbol(self) -> str:
        return FILES[self.symbol]

    @property
    def first_ms(self) -> int:
        return int(self.bars.ts_ms[0])

    @property
    def last_ms(self) -> int:
        return int(self.bars.ts_ms[-1])

    @property
    def start_ms(self) -> int:
        """Return one day before the first bar: where the acceptance starts asking."""
        return self.first_ms - DAY_MS

    @property
    def end_ms(self) -> int:
        """Return the end of the last bar."""
        return self.last_ms + MINUTE_MS

    def outages(self) -> list[Hole]:
        """Return the holes between recorded bars."""
        after = np.flatnonzero(np.diff(self.bars.ts_ms) != MINUTE_MS)
        return [
            Hole(
                int(self.bars.ts_ms[at]) + MINUTE_MS,
                int(self.bars.ts_ms[at + 1]),
                "venue_outage",
            )
            for at in after
        ]

    def holes(self) -> list[Hole]:
        """Return every hole in ``[start_ms, end_ms)``."""
        return [Hole(self.start_ms, self.first_ms, "not_listed"), *self.outages()]

    def covered(self) -> list[tuple[int, int]]:
        """Return the ranges in which every bar exists."""
        edges = [self.first_ms]
        for hole in self.outages():
            edges += [hole.start_ms, hole.end_ms]
        edges.append(self.end_ms)
        return list(zip(edges[::2], edges[1::2], strict=True))


def load(symbol: str) -> Recording:
    """Read one symbol's recorded bars."""
    table = pq.read_table(recorded_data() / f"{FILES[symbol]}.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return Recording(
        symbol,
        Bars(
            ts_ms=columns["ts"],
            open=columns["open"],
            high=columns["high"],
            low=columns["low"],
            close=columns["close"],
            volume=columns["volume"],
        ),
    )


def load_all() -> list[Recording]:
    return [load(symbol) for symbol in FILES]


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch."""
    result: list[tuple[int, int]] = []
    for start_ms, end_ms in sorted(ranges):
        if result and start_ms <= result[-1][1]:
            result[-1] = (result[-1][0], max(end_ms, result[-1][1]))
        else:
            result.append((start_ms, end_ms))
    return result


def assert_coverage(coverage: dict[str, Any], recording: Recording) -> None:
    """Check a ``coverage show -o json`` document against the recorded bars, hole by hole."""
    assert coverage["in_flight"] == []
    assert coverage["violated"] == []
    covered = joined((start, end) for start, end, _gen in coverage["covered"])
    assert covered == recording.covered(), recording.symbol
    by_reason: dict[str, list[tuple[int, int]]] = {}
    for gap in coverage["gaps"]:
        by_reason.setdefault(gap["reason"], []).append((gap["start_ms"], gap["end_ms"]))
    expected: dict[str, list[tuple[int, int]]] = {}
    for hole in recording.holes():
        expected.setdefault(hole.reason, []).append((hole.start_ms, hole.end_ms))
    assert {reason: joined(ranges) for reason, ranges in by_reason.items()} == expected
    for gap in coverage["gaps"]:
        assert_receipt(gap)


def assert_receipt(gap: dict[str, Any]) -> None:
    """Check that a gap's evidence is what the rules of a proved hole ask for."""
    receipt = gap["receipt"]
    assert receipt["reason"] == gap["reason"]
    asked = receipt["asked"]
    assert len(asked) >= 2
    assert all(answer["http_status"] == 200 for answer in asked)
    times = sorted(answer["server_time_ms"] for answer in asked)
    assert times[-1] - times[0] >= 1000
    if gap["reason"] == "venue_outage":
        assert receipt["left_ms"] < gap["start_ms"]
        assert receipt["right_ms"] >= gap["end_ms"]
        assert len({(answer["start_ms"], answer["end_ms"]) for answer in asked}) >= 2


def assert_rows(stored: Bars, recording: Recording) -> None:
    """Check that what is stored is exactly what was recorded: nothing more, less or different."""
    assert len(stored) == len(recording.bars), recording.symbol
    assert np.array_equal(stored.ts_ms, recording.bars.ts_ms)
    assert content_digest(stored) == content_digest(recording.bars)
