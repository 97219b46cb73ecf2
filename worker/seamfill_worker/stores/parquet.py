"""Writes the Parquet store: one file per window, complete or absent, durable before it counts.

Owns creating directories and files. Must not know leases beyond the fence in a file's name.

Crash safety: a file is written under a temporary name, synced, renamed, and its directory synced.
Whatever stops us in between leaves either no file or the whole one; a forgotten temporary file is
never read, and removed by a later ``prepare``. A failed fsync is not repeated: the kernel may have
dropped the pages and would report success.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.connectors import GenRange, WindowWrite
from seamfill.errors import StoreError, StoreRefused, StoreUnavailable
from seamfill.protocol.values import DatasetSpec, SeriesId
from seamfill.sources.parquet import (
    FILE_SCHEMA,
    TIME_TYPE,
    ParquetReader,
    file_metadata,
    list_windows,
)
from seamfill.sources.parquet_layout import (
    MARKER,
    WrittenWindow,
    check_marker,
    gen_directory,
    marker_bytes,
    next_take,
)
from seamfill.store_checks import refuse_unbuilt_kind, refuse_unstorable

__all__ = ["ParquetStore"]

_TEMPORARY: Final = ".seamfill-tmp-"
_FORGOTTEN_AFTER_S: Final = 3_600
"""No write lasts this long, so an older temporary file belongs to nobody."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
)


class ParquetStore:
    """Keeps bars below one directory; many processes may write and read it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reader = ParquetReader(directory)

    @property
    def name(self) -> str:
        return f"parquet:{self._directory}"

    async def prepare(self, spec: DatasetSpec) -> None:
        """Create the directory with its format, or raise ``StoreRefused`` when it has another."""
        refuse_unbuilt_kind(spec)
        await asyncio.to_thread(self._prepare)

    async def write(self, windows: Sequence[WindowWrite]) -> None:
        """Write each window into its file and return when all are on disk; see ``Store.write``."""
        refuse_unstorable(windows)
        await asyncio.to_thread(self._write, tuple(windows))

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        """Return the rows of each range at its generation; see ``StoreReader.read``."""
        return await self._reader.read(series, ranges)

    async def aclose(self) -> None:
        await self._reader.aclose()

    def _prepare(self) -> None:
        marker = self._directory / MARKER
        try:
            _make_directory(self._directory)
            if not marker.exists():
                _put({marker: marker_bytes()})
            check_marker(marker.read_bytes(), self._directory)
            _remove_forgotten(self._directory)
        except OSError as exc:
            raise self._wrapped(exc) from exc

    def _write(self, windows: tuple[WindowWrite, ...]) -> None:
        try:
            _put(self._encoded_files(windows))
        except OSError as exc:
            raise self._wrapped(exc) from exc

    def _encoded_files(self, windows: tuple[WindowWrite, ...]) -> dict[Path, bytes]:
        """Give every window its file; a window that stands twice in one call counts once."""
        present: dict[Path, list[WrittenWindow]] = {}
        files: dict[Path, bytes] = {}
        for window in windows:
            directory = gen_directory(self._directory, window.series, window.gen)
            if directory not in present:
                _make_directory(directory)
                present[directory] = list_windows(directory)
            bounds = {"start_ms": window.start_ms, "end_ms": window.end_ms, "fence": window.fence}
            written = WrittenWindow(**bounds, take=next_take(present[directory], **bounds))
            present[directory].append(written)
            files[directory / written.file_name] = _encode(window)
        return files

    def _wrapped(self, exc: OSError) -> StoreError:
        if exc.errno in _FULL:
            return StoreRefused(
                f"no space left on the disk under {self._directory}; "
                "free some, then retry what was given up meanwhile"
            )
        if exc.errno in _FORBIDDEN:
            return StoreRefused(f"{self._directory} can not be written: {exc}")
        return StoreUnavailable(f"{self._directory} can not be written: {exc}")


def _encode(window: WindowWrite) -> bytes:
    bars = window.bars
    arrays = [
        pa.array(bars.ts_ms).cast(TIME_TYPE),
        *(pa.array(getattr(bars, name)) for name in VALUE_COLUMNS),
    ]
    schema = FILE_SCHEMA.with_metadata(file_metadata(window.series))
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        sink,
        compression="zstd",
        use_dictionary=False,  # prices rarely repeat; a dictionary costs more than it saves
        write_page_checksum=True,
    )
    return bytes(sink.getvalue())


def _put(files: dict[Path, bytes]) -> None:
    """Write all files under temporary names, then rename them, then sync their directories."""
    renames: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
            renames[temporary] = path
            _write_synced(temporary, content)
        for temporary, path in renames.items():
            temporary.replace(path)
    except BaseException:
        for temporary in renames:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise
    for directory in {path.parent for path in files}:
        _sync_directory(directory)


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory(directory: Path) -> None:
    """Create a directory and its parents, each durable in the one above it."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # Windows can not open a directory; it has no such promise to give
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_forgotten(directory: Path) -> None:
    for temporary in directory.rglob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > _FORGOTTEN_AFTER_S:
                temporary.unlink()
