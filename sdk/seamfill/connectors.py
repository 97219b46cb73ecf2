"""What a source, a store and a live feed must promise. Public, under semantic versioning.

Owns the Protocols that users may implement and our own adapters do. Must not know any
implementation. The shared behavioural suites in ``seamfill.testing`` are the executable half of
these promises.

Errors are those of ``seamfill.errors`` (``SourceError``, ``StoreError``); anything else that an
implementation lets through is its bug.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from seamfill.bars import Bars
from seamfill.protocol.values import Asked, DatasetSpec, SeriesId, Usage

__all__ = [
    "GenRange",
    "LiveFeed",
    "Page",
    "Source",
    "Store",
    "StoreReader",
    "Venue",
    "WindowWrite",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Venue:
    """What a source can do and what it costs; one entry of ``exchanges.yaml``."""

    name: str
    page_bars: int
    page_weight: int
    weight_per_minute: int
    """0: no budget is kept for this source."""
    since_inclusive: bool = True
    dense: bool = True
    """Whether a bar without trades is still sent (with volume zero)."""
    settle_ms: int = 2_000
    """How long after its close a bar may still change."""
    max_concurrent: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One validated answer of a source: closed bars only, inside the range asked for, on the grid.

    ``open_from_ms`` is set when the answer reached a bar that has not closed and settled yet.
    ``asked`` is the evidence of this answer; ``usage`` what the venue's counters said.
    """

    bars: Bars
    asked: Asked
    usage: Usage
    open_from_ms: int | None = None


class Source(Protocol):
    """Fetches bars of one venue. One instance per process and venue; safe for concurrent calls."""

    @property
    def name(self) -> str:
        """Registry name, like ``ccxt:binance``."""
        ...

    @property
    def venue(self) -> Venue: ...

    async def fetch(self, symbol: str, interval_ms: int, *, start_ms: int, limit_bars: int) -> Page:
        """Return the first ``limit_bars`` bars from ``start_ms`` (inclusive, on the grid) on.

        A venue skips over holes: the bars may reach beyond ``start_ms + limit·interval``. Bars that
        have not closed and settled by the *venue's* clock are left out. Raises ``SourceError``;
        an empty page means that the venue said, well-formed, that there is nothing from there on.
        """
        ...

    async def server_time_ms(self) -> int:
        """Return the venue's clock."""
        ...

    async def is_trading(self, symbol: str) -> bool:
        """Return whether the venue lists the symbol as trading now; raises ``UnknownSymbol``."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowWrite:
    """Rows of one lease on their way into a store. Bars lie inside ``[start_ms, end_ms)``."""

    series: SeriesId
    gen: int
    fence: int
    start_ms: int
    end_ms: int
    bars: Bars


@dataclass(frozen=True, slots=True, kw_only=True)
class GenRange:
    """A half-open range whose rows are to be read at one generation."""

    start_ms: int
    end_ms: int
    gen: int


class StoreReader(Protocol):
    """Reads what workers wrote. Never decides what is complete: that is the coverage's word."""

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        """Return the rows of each range at its generation, ranges ascending and disjoint.

        Raises ``StoreUnavailable`` or ``StoreRefused``. A series never written reads as empty.
        """
        ...

    async def aclose(self) -> None: ...


class Store(StoreReader, Protocol):
    """Writes windows so that they survive, and reads them back."""

    @property
    def name(self) -> str:
        """Registry name, like ``questdb:ohlcv_binance_spot_1m`` or ``parquet:/data/bars``."""
        ...

    async def prepare(self, spec: DatasetSpec) -> None:
        """Make the table or directory ready, or raise ``StoreRefused`` when it differs."""
        ...

    async def write(self, windows: Sequence[WindowWrite]) -> None:
        """Write the windows, and return when they are durable *and visible to a new reader*.

        Repeating a write is a no-op. On any error the outcome is unknown; nothing may be
        concluded. Non-finite values are refused before anything is written (``StoreRefused``).
        """
        ...


class LiveFeed(Protocol):
    """Closed bars as they happen, for the edge that history can not have yet."""

    def subscribe(self, series: SeriesId) -> AsyncIterator[Bars]: ...

    async def aclose(self) -> None: ...
