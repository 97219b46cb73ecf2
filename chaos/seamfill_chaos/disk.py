"""A disk in memory that keeps the file promises of ``Files`` and not one more.

Owns what power loss does: each write that no ``sync`` followed, and each name that no
``sync_directory`` followed, is kept, dropped or torn, whatever was done after it. Satisfies
``seamfill_coordinator.raft.journal_files.Files``. Must not know what is written on it.

``on_step`` is called before every operation that changes something, with its name: a crash point.
It may look at what would be left (``after_power_loss``), or raise a failing disk's ``OSError``.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from msgspec import Struct

__all__ = ["STEPS", "TEAR_BYTES", "Fate", "SimulatedDisk"]

TEAR_BYTES: Final = 64
"""What is never torn: far less than a real device's sector, so that small groups tear too."""
STEPS: Final = ("create", "write", "cut", "sync", "rename", "remove", "sync_directory")


class Fate(Enum):
    """What power loss does to what was not synced."""

    DROPPED = "dropped"
    KEPT = "kept"
    """Also what the end of a process alone leaves."""
    TORN = "torn"
    """Each change is kept, dropped or kept in part, by lot."""


class _Write(Struct, frozen=True):
    offset: int
    data: bytes


class _Cut(Struct, frozen=True):
    offset: int
    reserve: int


@dataclass(slots=True, eq=False)
class _Inode:
    """One file: its newest name, its bytes as read now and on the disk, and what lies between."""

    path: Path
    now: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Write | _Cut] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Naming:
    """A change of names: ``target`` now means ``inode`` (None: nothing), ``source`` is gone."""

    target: Path
    inode: _Inode | None
    source: Path | None = None


class SimulatedDisk:
    """Files and one flat space of names; ``honours_sync=False`` is the disk that lies."""

    def __init__(
        self,
        *,
        on_step: Callable[[str, Path], None] | None = None,
        honours_sync: bool = True,
        capacity: int | None = None,
    ) -> None:
        self.on_step = on_step
        self.honours_sync = honours_sync
        self.capacity = capacity
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        self._pending_names: list[_Naming] = []

    # What survives

    def after_power_loss(self, fate: Fate, rng: random.Random) -> SimulatedDisk:
        """Return the disk that a restart would find if the power went now; this one lives on."""
        survived = SimulatedDisk()
        names = dict(self._durable_names)
        for naming in self._pending_names:
            if fate is Fate.KEPT or (fate is Fate.TORN and rng.random() < 0.5):
                _rename(names, naming)
        inodes: dict[int, _Inode] = {}
        for path, inode in names.items():
            if id(inode) not in inodes:
                content = _content_after(inode, fate, rng)
                inodes[id(inode)] = _Inode(path, bytearray(content), bytearray(content))
            survived._names[path] = survived._durable_names[path] = inodes[id(inode)]
        return survived

    def copy(self) -> SimulatedDisk:
        """Return the disk as a restart of the process alone would find it, all of it durable."""
        return self.after_power_loss(Fate.KEPT, random.Random(0))

    def put(self, path: Path, content: bytes) -> None:
        """Let ``path`` durably hold ``content``: how a test damages a file."""
        inode = _Inode(path, bytearray(content), bytearray(content))
        self._names[path] = self._durable_names[path] = inode

    # Files

    def make_directory(self, directory: Path) -> None:
        """Nothing to do: names are whole paths."""

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in self._names if path.parent == directory)

    def read(self, path: Path) -> bytes:
        return bytes(self._inode(path).now)

    def create(self, path: Path, *, reserve: int) -> SimulatedFile:
        self._step("create", path)
        self._check_room(reserve)
        inode = _Inode(path)
        self._name(_Naming(path, inode))
        _change(inode, _Cut(0, reserve))
        return SimulatedFile(self, inode)

    def open(self, path: Path) -> SimulatedFile:
        return SimulatedFile(self, self._inode(path))

    def rename(self, source: Path, target: Path) -> None:
        inode = self._inode(source)
        self._step("rename", target)
        self._name(_Naming(target, inode, source))
        inode.path = target

    def remove(self, path: Path) -> None:
        self._step("remove", path)
        self._inode(path)
        self._name(_Naming(path, None))

    def sync_directory(self, directory: Path) -> None:
        self._step("sync_directory", directory)
        if not self.honours_sync:
            return
        others = [n for n in self._pending_names if n.target.parent != directory]
        for naming in self._pending_names:
            if naming.target.parent == directory:
                _rename(self._durable_names, naming)
        self._pending_names = others

    def _step(self, name: str, path: Path) -> None:
        if self.on_step is not None:
            self.on_step(name, path)

    def _name(self, naming: _Naming) -> None:
        _rename(self._names, naming)
        self._pending_names.append(naming)

    def _inode(self, path: Path) -> _Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None

    def _check_room(self, size: int) -> None:
        if self.capacity is None:
            return
        used = sum(len(inode.now) for inode in self._names.values())
        if used + size > self.capacity:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")


class SimulatedFile:
    """An open file of a ``SimulatedDisk``."""

    def __init__(self, disk: SimulatedDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode

    @property
    def path(self) -> Path:
        """Its newest name."""
        return self._inode.path

    def write(self, offset: int, data: bytes) -> None:
        disk, inode = self._disk, self._inode
        disk._step("write", inode.path)
        if disk.capacity is not None:
            disk._check_room(max(0, offset + len(data) - len(inode.now)))
        _change(inode, _Write(offset, bytes(data)))

    def cut(self, offset: int, *, reserve: int) -> None:
        self._disk._step("cut", self._inode.path)
        _change(self._inode, _Cut(offset, reserve))

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._inode.now[offset : offset + length])

    def size(self) -> int:
        return len(self._inode.now)

    def sync(self) -> None:
        self._disk._step("sync", self._inode.path)
        if self._disk.honours_sync:
            for change in self._inode.pending:
                _apply(self._inode.durable, change)
            self._inode.pending.clear()

    sync_data = sync

    def close(self) -> None:
        """Nothing to let go of."""


def _change(inode: _Inode, change: _Write | _Cut) -> None:
    _apply(inode.now, change)
    inode.pending.append(change)


def _apply(content: bytearray, change: _Write | _Cut) -> None:
    if isinstance(change, _Cut):
        del content[change.offset :]
        content.extend(bytes(max(0, change.reserve - len(content))))
        return
    offset, data = change.offset, change.data
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _rename(names: dict[Path, _Inode], naming: _Naming) -> None:
    if naming.source is not None:
        names.pop(naming.source, None)
    if naming.inode is None:
        names.pop(naming.target, None)
    else:
        names[naming.target] = naming.inode


def _content_after(inode: _Inode, fate: Fate, rng: random.Random) -> bytearray:
    if fate is Fate.KEPT:
        return bytearray(inode.now)
    content = bytearray(inode.durable)
    if fate is Fate.TORN:
        for change in inode.pending:
            for part in _torn(change, rng):
                _apply(content, part)
    return content


def _torn(change: _Write | _Cut, rng: random.Random) -> list[_Write | _Cut]:
    """Return what remains of one change: all, nothing, its ends, or its middle."""
    lot = rng.randrange(4)
    if lot == 0:
        return [change]
    if lot == 1 or isinstance(change, _Cut):
        return []
    low, high = sorted(_tear_point(change, rng) for _ in range(2))
    middle = _Write(change.offset + low, change.data[low:high])
    ends: list[_Write | _Cut] = [
        _Write(change.offset, change.data[:low]),
        _Write(change.offset + high, change.data[high:]),
    ]
    return [middle] if lot == 2 else ends


def _tear_point(write: _Write, rng: random.Random) -> int:
    """Return a place in the write's data, its ends included, that lies on a tearable border."""
    border = write.offset + rng.randrange(len(write.data) + TEAR_BYTES)
    return min(max(border // TEAR_BYTES * TEAR_BYTES - write.offset, 0), len(write.data))
