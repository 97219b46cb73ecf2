"""Bars in memory: columns of one series, as every source, store and reader passes them on.

Owns the column layout, slicing and the *content digest*. Must not know where bars come from or go
to. Pure.

Invariants: ``ts_ms`` is strictly ascending int64, the bar's open time in ms UTC; the five value
columns are float64 of the same length. The digest does not depend on the order of rows, so that
digests of disjoint ranges add up.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["DIGEST_MODULUS", "VALUE_COLUMNS", "Bars", "add_digests", "content_digest"]

VALUE_COLUMNS: Final = ("open", "high", "low", "close", "volume")
DIGEST_MODULUS: Final = 1 << 128
_ROW: Final = struct.Struct("<qddddd")

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bars:
    """Columns of one series, sorted by ``ts_ms`` without repetition. Arrays are not to be changed.

    Shapes: six arrays of equal length n. Units: ``ts_ms`` int64 ms UTC (bar open), prices in quote
    currency, volume in base currency, float64.
    """

    ts_ms: Int64s
    open: Float64s
    high: Float64s
    low: Float64s
    close: Float64s
    volume: Float64s

    def __len__(self) -> int:
        return len(self.ts_ms)

    @classmethod
    def empty(cls) -> Bars:
        """Return no bars."""
        nothing = np.empty(0, dtype=np.float64)
        return cls(
            ts_ms=np.empty(0, dtype=np.int64),
            open=nothing,
            high=nothing,
            low=nothing,
            close=nothing,
            volume=nothing,
        )

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float]]) -> Bars:
        """Build from ``[ts_ms, open, high, low, close, volume]`` rows, sorted and unique."""
        if not rows:
            return cls.empty()
        columns = list(zip(*rows, strict=True))
        return cls(
            ts_ms=np.array(columns[0], dtype=np.int64),
            open=np.array(columns[1], dtype=np.float64),
            high=np.array(columns[2], dtype=np.float64),
            low=np.array(columns[3], dtype=np.float64),
            close=np.array(columns[4], dtype=np.float64),
            volume=np.array(columns[5], dtype=np.float64),
        )

    def between(self, start_ms: int, end_ms: int) -> Bars:
        """Return the bars with ``start_ms <= ts_ms < end_ms`` (a view, nothing is copied)."""
        low, high = np.searchsorted(self.ts_ms, [start_ms, end_ms], side="left")
        return self._pick(slice(int(low), int(high)))

    def _pick(self, which: slice) -> Bars:
        return Bars(
            ts_ms=self.ts_ms[which],
            open=self.open[which],
            high=self.high[which],
            low=self.low[which],
            close=self.close[which],
            volume=self.volume[which],
        )

    @classmethod
    def concat(cls, parts: Sequence[Bars]) -> Bars:
        """Join parts that follow each other in time; the caller guarantees the order."""
        if not parts:
            return cls.empty()
        if len(parts) == 1:
            return parts[0]
        return cls(
            ts_ms=np.concatenate([part.ts_ms for part in parts]),
            open=np.concatenate([part.open for part in parts]),
            high=np.concatenate([part.high for part in parts]),
            low=np.concatenate([part.low for part in parts]),
            close=np.concatenate([part.close for part in parts]),
            volume=np.concatenate([part.volume for part in parts]),
        )


def content_digest(bars: Bars) -> str:
    """Digest a set of bars into 32 hex digits: Σ blake2b-128(row) mod 2¹²⁸.

    A row is packed as ``<qddddd`` (ts_ms, open, high, low, close, volume). Addition makes the
    digest independent of order and lets adjacent ranges merge without reading rows again.
    No bars have the digest zero.
    """
    # One packed buffer and one pass: building a tuple per row costs three times as much.
    packed = np.empty(len(bars), dtype=[("ts", "<i8"), *((name, "<f8") for name in VALUE_COLUMNS)])
    packed["ts"] = bars.ts_ms
    for name in VALUE_COLUMNS:
        packed[name] = getattr(bars, name)
    data = packed.tobytes()
    total = 0
    for at in range(0, len(data), _ROW.size):
        row = hashlib.blake2b(data[at : at + _ROW.size], digest_size=16)
        total += int.from_bytes(row.digest(), "big")
    return f"{total % DIGEST_MODULUS:032x}"


def add_digests(*digests: str) -> str:
    """Add the content digests of disjoint sets of bars."""
    return f"{sum(int(digest, 16) for digest in digests) % DIGEST_MODULUS:032x}"
