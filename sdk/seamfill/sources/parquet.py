"""Reads the Parquet store: bars on local disk, written by workers, shared by any process.

Owns opening and checking the files that ``parquet_layout`` names. Must not write, and must not
know the worker. Files are only ever added or replaced whole, so a reader needs no lock.

Invariants: a directory of a newer format, a file of another series and a damaged page are refused
by name; nothing is guessed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.connectors import GenRange
from seamfill.errors import StoreRefused, StoreUnavailable
from seamfill.protocol.values import SeriesId
from seamfill.sources.parquet_layout import (
    FORMAT,
    MARKER,
    Piece,
    WrittenWindow,
    check_marker,
    gen_directory,
    parse_file_name,
    resolve,
    series_directory,
)

__all__ = ["FILE_SCHEMA", "TIME_TYPE", "ParquetReader", "file_metadata", "list_windows"]

TIME_TYPE: Final = pa.timestamp("ms", tz="UTC")
_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("ts", TIME_TYPE, nullable=False),
    *(pa.field(name, pa.float64(), nullable=False) for name in VALUE_COLUMNS),
]
FILE_SCHEMA: Final = pa.schema(_FIELDS)


class ParquetReader:
    """Reads bars below one directory. Blocking work runs in threads, so any loop may use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        """Return the rows of each range at its generation; see ``StoreReader.read``."""
        return await asyncio.to_thread(self._read, series, tuple(ranges))

    async def aclose(self) -> None:
        """Nothing stays open between reads."""

    def _read(self, series: SeriesId, ranges: tuple[GenRange, ...]) -> Bars:
        try:
            if not self._holds(series):
                return Bars.empty()
            return Bars.concat([self._read_range(series, wanted) for wanted in ranges])
        except OSError as exc:
            raise StoreUnavailable(f"{self._directory} can not be read: {exc}") from exc

    def _holds(self, series: SeriesId) -> bool:
        try:
            marker = (self._directory / MARKER).read_bytes()
        except FileNotFoundError:
            if series_directory(self._directory, series).exists():
                raise StoreRefused(
                    f"{self._directory} has bars but no {MARKER}: its format is not known"
                ) from None
            return False
        check_marker(marker, self._directory)
        return True

    def _read_range(self, series: SeriesId, wanted: GenRange) -> Bars:
        directory = gen_directory(self._directory, series, wanted.gen)
        pieces = resolve(list_windows(directory), wanted.start_ms, wanted.end_ms)
        return Bars.concat([_read_piece(directory, series, piece) for piece in pieces])


def list_windows(directory: Path) -> list[WrittenWindow]:
    """Return the finished windows of one generation; none where the directory is absent."""
    try:
        names = os.listdir(directory)  # noqa: PTH208  names only: no Path object per file
    except FileNotFoundError:
        return []
    return [window for window in map(parse_file_name, names) if window is not None]


def file_metadata(series: SeriesId) -> dict[bytes, bytes]:
    """Return what a file says about itself, so that one moved to a wrong place is noticed."""
    return {
        b"seamfill.format": str(FORMAT).encode(),
        b"seamfill.dataset": series.dataset.encode(),
        b"seamfill.symbol": series.symbol.encode(),
    }


def _read_piece(directory: Path, series: SeriesId, piece: Piece) -> Bars:
    path = directory / piece.window.file_name
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_file(file, path, series)
            table = file.read(use_threads=False)
    except pa.ArrowInvalid as exc:
        raise StoreRefused(f"{path} is damaged: {exc}") from exc
    except OSError as exc:
        # Arrow raises a bare OSError, without errno, for pages that do not add up.
        if exc.errno is None:
            raise StoreRefused(f"{path} is damaged: {exc}") from exc
        raise
    return _to_bars(table).between(piece.start_ms, piece.end_ms)


def _check_file(file: pq.ParquetFile, path: Path, series: SeriesId) -> None:
    said = file.schema_arrow.metadata or {}
    written_format = said.get(b"seamfill.format", b"?").decode(errors="replace")
    if not written_format.isdecimal():
        raise StoreRefused(f"{path} was not written by seamfill")
    if int(written_format) > FORMAT:
        raise StoreRefused(
            f"{path} has the format {written_format}; this program knows up to {FORMAT}: "
            "upgrade seamfill"
        )
    expected = file_metadata(series)
    for key in (b"seamfill.dataset", b"seamfill.symbol"):
        if said.get(key) != expected[key]:
            raise StoreRefused(f"{path} holds another series: {key.decode()} is {said.get(key)!r}")
    if not file.schema_arrow.equals(FILE_SCHEMA, check_metadata=False):
        raise StoreRefused(f"{path} has other columns than a window of bars")


def _to_bars(table: pa.Table) -> Bars:
    ts_ms = table.column("ts").cast(pa.int64()).to_numpy()
    values = {name: table.column(name).to_numpy() for name in VALUE_COLUMNS}
    return Bars(ts_ms=np.ascontiguousarray(ts_ms), **values)
