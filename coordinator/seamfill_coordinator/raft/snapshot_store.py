"""Interim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.snapshot import load, save
from seamfill_coordinator.raft.journal_files import Files
from seamfill_coordinator.raft.membership import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    last_index: int
    last_term: int
    configuration: Configuration | None
    size: int
    path: Path


class SnapshotReader:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None: ...


class SnapshotStore:
    def __init__(self, directory: Path, files: Files, *, cluster_id: str) -> None:
        self._d, self._f = directory, files
        files.make_directory(directory)

    def newest(self) -> SnapshotInfo | None:
        names = [n for n in self._f.names(self._d) if n.endswith(".snap")]
        if not names:
            return None
        return self._info(max(names))

    def _info(self, name: str) -> SnapshotInfo:
        data = self._f.read(self._d / name)
        i, t, c, _ = msgspec.msgpack.decode(data, type=tuple[int, int, Configuration | None, bytes])
        return SnapshotInfo(
            last_index=i, last_term=t, configuration=c, size=len(data), path=self._d / name
        )

    def load(self, info: SnapshotInfo) -> LeaseMachine:
        data = self._f.read(info.path)
        *_, b = msgspec.msgpack.decode(data, type=tuple[int, int, Configuration | None, bytes])
        m = LeaseMachine()
        m.state = load(b)
        return m

    def begin(
        self,
        machine: LeaseMachine,
        *,
        last_index: int,
        last_term: int,
        configuration: Configuration | None,
    ) -> SnapshotWriter:
        return SnapshotWriter(
            self,
            msgspec.msgpack.encode((last_index, last_term, configuration, save(machine.state))),
            last_index,
        )

    def put(self, index: int, data: bytes) -> SnapshotInfo:
        name = f"{index:016d}.snap"
        tmp = self._d / (name + ".partial")
        f = self._f.create(tmp, reserve=0)
        f.write(0, data)
        f.sync()
        f.close()
        self._f.rename(tmp, self._d / name)
        self._f.sync_directory(self._d)
        return self._info(name)

    def open(self, info: SnapshotInfo) -> SnapshotReader:
        return SnapshotReader(self._f.read(info.path))

    def receive(self, *, last_index: int, last_term: int, size: int) -> SnapshotReceiver:
        return SnapshotReceiver(self, last_index)


class SnapshotWriter:
    def __init__(self, store: SnapshotStore, data: bytes, index: int) -> None:
        self._s, self._d, self._i, self._n = store, data, index, 0

    def step(self) -> SnapshotInfo | None:
        self._n += 1
        if self._n < 4:
            return None
        return self._s.put(self._i, self._d)

    def abandon(self) -> None: ...


class SnapshotReceiver:
    def __init__(self, store: SnapshotStore, index: int) -> None:
        self._s, self._b, self._i = store, b"", index

    @property
    def offset(self) -> int:
        return len(self._b)

    def add(self, offset: int, data: bytes) -> bool:
        if offset != len(self._b):
            return False
        self._b += data
        return True

    def finish(self) -> tuple[SnapshotInfo, LeaseMachine]:
        info = self._s.put(self._i, self._b)
        return info, self._s.load(info)

    def abandon(self) -> None: ...
