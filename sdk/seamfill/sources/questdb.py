"""Reads bars from QuestDB: small answers by the PG wire, large ones by the Parquet export.

Owns how ranges become queries and answers become ``Bars``. Must not write, and must not know the
worker. Invariants: one query asks for the hull of neighbouring ranges, and rows are kept only where
their generation is the one asked for; pages are cut by time, and the last instant of a full page is
asked for again, because its rows of other generations may stand on the next page.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.types.numeric import Int8

from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.connectors import GenRange
from seamfill.errors import StoreRefused, StoreUnavailable
from seamfill.protocol.values import SeriesId
from seamfill.sources.questdb_address import (
    HttpAddress,
    QuestDBAddress,
    check_table_name,
    is_plain_symbol,
)
from seamfill.sources.questdb_wire import PgWire, TableMissing

__all__ = ["QuestDBReader", "group_ranges", "rows_wanted"]

_WIRE_PAGE_ROWS: Final = 20_000
"""Up to here the PG wire is as fast; the export takes 20–50 ms before its first row."""

_EXPORT_PAGE_ROWS: Final = 1_000_000
_EXPORT_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, sock_connect=5)
_DAY_MS: Final = 86_400_000
_COLUMNS: Final = ", ".join(VALUE_COLUMNS)

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Page:
    """Rows of several generations, ascending by time. ``values`` has one row per column."""

    ts_ms: Int64s
    gen: Int64s
    values: npt.NDArray[np.float64]


class QuestDBReader:
    """Reads one table. Connects at the first read; belongs to the loop of that read."""

    def __init__(
        self,
        address: QuestDBAddress,
        table: str,
        *,
        wire: PgWire | None = None,
        wire_page_rows: int = _WIRE_PAGE_ROWS,
        export_page_rows: int = _EXPORT_PAGE_ROWS,
    ) -> None:
        self._table = check_table_name(table)
        self._wire = wire or PgWire(address.dsn)
        self._export = _Export(address.http) if address.http is not None else None
        self._wire_page_rows = wire_page_rows
        self._export_page_rows = export_page_rows

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        """Return the rows of each range at its generation; see ``StoreReader.read``.

        Large answers take the Parquet export where there is an HTTP address; the result is the
        same bit for bit.
        """
        parts: list[Bars] = []
        try:
            for group in group_ranges(ranges):
                parts.extend(await self._read_group(series.symbol, group))
        except TableMissing:
            return Bars.empty()  # nobody has written to it yet
        return Bars.concat(parts)

    async def aclose(self) -> None:
        await self._wire.aclose()
        if self._export is not None:
            await self._export.aclose()

    async def _read_group(self, symbol: str, group: Sequence[GenRange]) -> list[Bars]:
        start_ms, end_ms = group[0].start_ms, group[-1].end_ms
        gens = sorted({wanted.gen for wanted in group})
        parts: list[Bars] = []
        exportable = self._export is not None and is_plain_symbol(symbol)
        while start_ms < end_ms:
            page = None
            limit = self._export_page_rows
            # The first page tells whether the answer is large enough for the export to pay off.
            if exportable and parts:
                page = await self._export_page(symbol, start_ms, end_ms, gens, limit)
                exportable = page is not None
            if page is None:
                limit = self._wire_page_rows
                page = await self._wire_page(symbol, start_ms, end_ms, gens, limit)
            full = len(page.ts_ms) >= limit
            # Only a page that was full can have cut an instant in two.
            next_ms = int(page.ts_ms[-1]) if full else end_ms
            if full and next_ms <= start_ms:
                raise StoreRefused(
                    f"QuestDB table {self._table} has over {limit} rows of {symbol} at {start_ms}"
                )
            parts.append(_kept(page, group, before_ms=next_ms))
            start_ms = next_ms
        return parts

    async def _wire_page(
        self, symbol: str, start_ms: int, end_ms: int, gens: Sequence[int], limit: int
    ) -> _Page:
        rows = await self._wire.fetch(
            f"SELECT cast(ts AS LONG) / 1000, gen, {_COLUMNS} FROM {self._table} "
            f"WHERE ts >= %s AND ts < %s AND symbol = %s AND gen IN ({_integers(gens)}) "
            f"ORDER BY ts LIMIT {int(limit)}",
            (Int8(start_ms * 1000), Int8(end_ms * 1000), symbol),
        )
        # Milliseconds stay far below 2⁵³, so one float array holds all columns exactly.
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 2 + len(VALUE_COLUMNS)).T
        return _Page(
            table[0].astype(np.int64), table[1].astype(np.int64), np.ascontiguousarray(table[2:])
        )

    async def _export_page(
        self, symbol: str, start_ms: int, end_ms: int, gens: Sequence[int], limit: int
    ) -> _Page | None:
        assert self._export is not None
        assert is_plain_symbol(symbol)  # the export has no bound values
        return await self._export.fetch(
            f"SELECT ts, gen, {_COLUMNS} FROM {self._table} "
            f"WHERE ts >= {int(start_ms) * 1000} AND ts < {int(end_ms) * 1000} "
            f"AND symbol = '{symbol}' AND gen IN ({_integers(gens)}) "
            f"ORDER BY ts LIMIT {int(limit)}"
        )


class _Export:
    """``GET /exp?fmt=parquet``: a million bars in a third of the time that the PG wire takes."""

    def __init__(self, address: HttpAddress) -> None:
        self._url = f"{address.url}/exp"
        self._headers = _basic_auth(address)
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, query: str) -> _Page | None:
        """Return the rows of a query for ``ts, gen`` and the value columns, or None when refused.

        A server takes few exports at once (two, by default) and answers 429 beyond; an older one
        does not know the format. Either way the PG wire has the same rows.
        """
        if self._session is None:
            # Closed after each answer: an idle connection would hold one of the few places.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=1),
                timeout=_EXPORT_TIMEOUT,
                headers=self._headers,
            )
        try:
            parameters = {"fmt": "parquet", "query": query}
            async with self._session.get(self._url, params=parameters) as answer:
                content = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise StoreUnavailable(f"QuestDB's export did not answer: {exc!r}") from exc
        if status != 200:
            return None
        return await asyncio.to_thread(_decode, content)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _basic_auth(address: HttpAddress) -> dict[str, str]:
    if address.username is None:
        return {}
    credentials = f"{address.username}:{address.password or ''}".encode()
    return {"Authorization": f"Basic {b64encode(credentials).decode()}"}


def group_ranges(ranges: Sequence[GenRange]) -> list[list[GenRange]]:
    """Group ascending ranges so that one query for a group's hull fetches little in vain.

    A range joins its predecessor unless the hole between them is longer than a day and than the
    whole group so far: so the number of queries grows with the logarithm of the ranges' spread.
    """
    groups: list[list[GenRange]] = []
    for wanted in ranges:
        if groups:
            last = groups[-1]
            hole_ms = wanted.start_ms - last[-1].end_ms
            if hole_ms <= max(_DAY_MS, last[-1].end_ms - last[0].start_ms):
                last.append(wanted)
                continue
        groups.append([wanted])
    return groups


def rows_wanted(ts_ms: Int64s, gen: Int64s, group: Sequence[GenRange]) -> Bools:
    """Return which rows lie in a range of the (ascending, disjoint) group, at its generation."""
    starts = np.array([wanted.start_ms for wanted in group], dtype=np.int64)
    ends = np.array([wanted.end_ms for wanted in group], dtype=np.int64)
    gens = np.array([wanted.gen for wanted in group], dtype=np.int64)
    which = np.searchsorted(starts, ts_ms, side="right") - 1
    inside: Bools = (which >= 0) & (ts_ms < ends[which]) & (gen == gens[which])
    return inside


def _kept(page: _Page, group: Sequence[GenRange], *, before_ms: int) -> Bars:
    keep = rows_wanted(page.ts_ms, page.gen, group) & (page.ts_ms < before_ms)
    columns = {name: page.values[at][keep] for at, name in enumerate(VALUE_COLUMNS)}
    return Bars(ts_ms=page.ts_ms[keep], **columns)


def _decode(content: bytes) -> _Page:
    try:
        table = pq.read_table(pa.BufferReader(content), use_threads=False)
    except (pa.ArrowInvalid, OSError) as exc:
        raise StoreUnavailable(f"QuestDB's export is not whole: {exc}") from exc
    return _Page(
        table.column("ts").cast(pa.int64()).to_numpy() // 1000,
        table.column("gen").cast(pa.int64()).to_numpy(),
        np.stack([table.column(name).to_numpy() for name in VALUE_COLUMNS]),
    )


def _integers(numbers: Sequence[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers)
