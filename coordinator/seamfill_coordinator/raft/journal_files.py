"""The few things journal and snapshots ask of a file system.

Owns the adapter to the operating system. Must not know their formats, nor decide what an error
means: every ``OSError`` passes through.

Their safety argument rests on exactly these promises, which is why they are spelled out as
Protocols: the simulator and the crash tests put a file system below that keeps these and no more.

* ``write`` has happened as a whole or raised; it is durable after the file's next ``sync``.
* ``create``, ``rename`` and ``remove`` are durable after the next ``sync_directory``.
* A device writes one sector whole: appending to a durable file does not damage what lies before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

__all__ = ["File", "Files", "OsFiles"]


class File(Protocol):
    """One open file, written by position. Any method may raise ``OSError``."""

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``, all of it."""
        ...

    def sync_data(self) -> None:
        """Make what was written durable (fdatasync)."""
        ...

    def sync(self) -> None:
        """Make what was written durable, and the file's own size and blocks (fsync)."""
        ...

    def cut(self, offset: int, *, reserve: int) -> None:
        """Let everything from ``offset`` up to the size ``reserve`` read as zeros, reserved."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset`` on; fewer only where the file ends."""
        ...

    def size(self) -> int:
        """Return the file's length in bytes."""
        ...

    def close(self) -> None: ...


class Files(Protocol):
    """A file system. Any method may raise ``OSError``."""

    def make_directory(self, directory: Path) -> None:
        """Create it, and its parents; no matter if it exists."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Return what lies in it; nothing if it does not exist."""
        ...

    def read(self, path: Path) -> bytes: ...

    def create(self, path: Path, *, reserve: int) -> File:
        """Return an empty file whose first ``reserve`` bytes have their place on the disk.

        They read as zeros. An older file of this name is gone.
        """
        ...

    def open(self, path: Path) -> File: ...

    def rename(self, source: Path, target: Path) -> None: ...

    def remove(self, path: Path) -> None: ...

    def sync_directory(self, directory: Path) -> None: ...


class OsFile:
    """A ``File`` of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            # A short write is how a full disk may begin; the next one says so.
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def sync_data(self) -> None:
        os.fdatasync(self._descriptor)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def cut(self, offset: int, *, reserve: int) -> None:
        os.ftruncate(self._descriptor, offset)
        if reserve > offset:
            os.posix_fallocate(self._descriptor, offset, reserve - offset)

    def read(self, offset: int, length: int) -> bytes:
        found = os.pread(self._descriptor, length, offset)
        while len(found) < length:
            more = os.pread(self._descriptor, length - len(found), offset + len(found))
            if not more:
                break
            found += more
        return found

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


class OsFiles:
    """``Files`` of the operating system."""

    def make_directory(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)

    def names(self, directory: Path) -> list[str]:
        try:
            return sorted(os.listdir(directory))  # noqa: PTH208  # names, not paths
        except FileNotFoundError:
            return []

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def create(self, path: Path, *, reserve: int) -> File:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = OsFile(os.open(path, flags, 0o600))
        try:
            file.cut(0, reserve=reserve)
        except OSError:
            file.close()
            raise
        return file

    def open(self, path: Path) -> File:
        return OsFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
