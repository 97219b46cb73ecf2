"""A node's snapshots on disk: written in slices, received in pieces, loaded whole or refused.

Owns the directory of snapshots and the order of writes, syncs and renames in it. Must not know when
a snapshot is due, what becomes of the log before it, or how it reaches a peer (``node.py`` does).
``snapshot_format.py`` has the header, ``machine/snapshot.py`` the state behind it,
``journal_files.py`` the file system.

No call keeps the loop for long, but ``load``: writing is cut into slices, each synced by itself,
so that no single fsync has the whole file to carry; receiving puts rows back as they come.

Invariants:

* a file has a snapshot's name only when all of it is durable, and it is reported only when its name
  is. A partial file is never read, and is removed at the next start;
* a snapshot is removed only when a newer one is durable. So at every moment a restart finds the old
  one whole, or the new one whole;
* every byte is covered by a CRC that starts from the CRC before it, header included; what can not
  be believed is refused by file and offset, and an older snapshot never stands in for it: the log
  before the newest may be gone.

Every ``OSError`` passes through. After one, a writer or receiver is good for ``abandon`` only; an
fsync that failed is never tried again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar, Final

from seamfill_coordinator.machine import snapshot
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.restoring import Restoration
from seamfill_coordinator.machine.snapshot import (
    SnapshotInvalid,
    SnapshotUnusable,
    SnapshotVersionUnknown,
)
from seamfill_coordinator.raft.journal_files import File, Files
from seamfill_coordinator.raft.journal_format import BadBytes, UnknownVersion
from seamfill_coordinator.raft.membership import Configuration
from seamfill_coordinator.raft.snapshot_format import (
    SnapshotHeader,
    decode_header,
    encode_header,
    header_bytes,
    snapshot_index,
    snapshot_name,
)

__all__ = [
    "SLICE_BYTES",
    "SnapshotForeign",
    "SnapshotInfo",
    "SnapshotInvalid",
    "SnapshotReader",
    "SnapshotReceiver",
    "SnapshotStore",
    "SnapshotUnusable",
    "SnapshotVersionUnknown",
    "SnapshotWriter",
    "describe_file",
    "load_file",
    "newest_file",
]

SLICE_BYTES: Final = 256 << 10
"""Written and synced by one ``step``. A row is never cut, so that a huge one makes a larger one."""
_HEADER_GLANCE_BYTES: Final = 4096
_PARTIAL_SUFFIX: Final = ".partial"
_RECEIVED_SUFFIX: Final = ".received.partial"


class SnapshotForeign(SnapshotUnusable):
    """The snapshot is another cluster's; give this node its own --data-dir."""

    code: ClassVar[str] = "snapshot_foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """One durable snapshot."""

    last_index: int
    last_term: int
    configuration: Configuration | None
    size: int
    """Of the file, in bytes."""
    path: Path


class SnapshotStore:
    """The snapshots of one node; at most one is being written, and one received, at a time."""

    def __init__(
        self,
        directory: Path,
        files: Files,
        *,
        cluster_id: str,
        slice_bytes: int = SLICE_BYTES,
    ) -> None:
        """Create the directory if it is new, remove what was never finished."""
        self._directory = directory
        self._files = files
        self._cluster_id = cluster_id
        self._slice_bytes = slice_bytes
        files.make_directory(directory)
        files.sync_directory(directory.parent)  # where the directory may be new
        for name in files.names(directory):
            if name.endswith(_PARTIAL_SUFFIX):
                files.remove(directory / name)

    def newest(self) -> SnapshotInfo | None:
        """Return the newest snapshot, None when there is none.

        Its header is checked, ``load`` checks the rest. Raises ``SnapshotInvalid`` (file, offset),
        ``SnapshotForeign``, ``SnapshotVersionUnknown``.
        """
        path = newest_file(self._files, self._directory)
        if path is None:
            return None
        header, info = describe_file(self._files, path)
        self._check_cluster(header, info.path)
        return info

    def load(self, info: SnapshotInfo) -> LeaseMachine:
        """Return the machine of a snapshot after checking all of it; raises like ``newest``.

        Takes about a second for each 100,000 rows.
        """
        header, machine = load_file(self._files, info.path)
        self._check_cluster(header, info.path)
        if (header.last_index, header.last_term) != (info.last_index, info.last_term):
            raise SnapshotInvalid("this is another snapshot than before", file=str(info.path))
        return machine

    def begin(
        self,
        machine: LeaseMachine,
        *,
        last_index: int,
        last_term: int,
        configuration: Configuration | None,
    ) -> SnapshotWriter:
        """Capture the state as it is now, after ``last_index``; the writer writes just that."""
        header = SnapshotHeader(
            cluster_id=self._cluster_id,
            last_index=last_index,
            last_term=last_term,
            configuration=configuration,
        )
        path = self._directory / snapshot_name(last_index)
        return SnapshotWriter(
            self._files, path, header, machine.capture(), slice_bytes=self._slice_bytes
        )

    def open(self, info: SnapshotInfo) -> SnapshotReader:
        """Open a snapshot for shipping. What is open can be read even when it is dropped."""
        return SnapshotReader(self._files.open(info.path), info)

    def receive(self, *, last_index: int, last_term: int, size: int) -> SnapshotReceiver:
        """Begin to receive a snapshot of ``size`` bytes; one received in part before is gone."""
        return SnapshotReceiver(
            self._files,
            self._directory / snapshot_name(last_index),
            cluster_id=self._cluster_id,
            last_index=last_index,
            last_term=last_term,
            size=size,
        )

    def drop_older_than(self, info: SnapshotInfo) -> None:
        """Remove the snapshots before ``info``, which must be durable."""
        for index in self._indexes():
            if index < info.last_index:
                # Not synced: should the name come back, the newer one still goes before it.
                self._files.remove(self._directory / snapshot_name(index))

    def _indexes(self) -> list[int]:
        found = map(snapshot_index, self._files.names(self._directory))
        return [index for index in found if index is not None]

    def _check_cluster(self, header: SnapshotHeader, path: Path) -> None:
        if header.cluster_id != self._cluster_id:
            raise _foreign(path, header, self._cluster_id)


class SnapshotWriter:
    """Writes one capture, slice by slice."""

    def __init__(
        self,
        files: Files,
        path: Path,
        header: SnapshotHeader,
        captured: snapshot.Capture,
        *,
        slice_bytes: int,
    ) -> None:
        self._file = _PartialFile(files, path, suffix=_PARTIAL_SUFFIX)
        self._header = header
        self._slice_bytes = slice_bytes
        head, seed = encode_header(header)
        # A frame that is smaller than a slice by far, so that slices are of nearly one size.
        frames = snapshot.frames(captured, seed=seed, frame_bytes=slice_bytes // 4)
        self._pieces = chain([head], frames)

    def step(self) -> SnapshotInfo | None:
        """Write and sync one slice; return the snapshot once it is durable, None before.

        Call again until then; bounded in time but for one huge row.
        """
        data = b"".join(_slice(self._pieces, self._slice_bytes))
        if data:
            self._file.append(data)
            return None
        self._file.publish()
        return _info(self._header, self._file)

    def abandon(self) -> None:
        """Give up; what was written is removed. Safe to repeat, nothing happens after the end."""
        self._file.discard()


class SnapshotReader:
    """An open snapshot; its bytes are checked where they arrive."""

    def __init__(self, file: File, info: SnapshotInfo) -> None:
        self._file = file
        self.info = info

    def read(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes; fewer only at the end."""
        return self._file.read(offset, length)

    def close(self) -> None:
        self._file.close()


class SnapshotReceiver:
    """A snapshot that comes in pieces, in order; ``offset`` is where the next one begins.

    Rows are put back as they arrive, so that ``finish`` has only the caches left to do.
    """

    def __init__(
        self,
        files: Files,
        path: Path,
        *,
        cluster_id: str,
        last_index: int,
        last_term: int,
        size: int,
    ) -> None:
        self.offset = 0
        self.last_index = last_index
        self.last_term = last_term
        self.size = size
        self._file = _PartialFile(files, path, suffix=_RECEIVED_SUFFIX)
        self._parser = _Parser(str(path))
        self._cluster_id = cluster_id
        self._failure: SnapshotUnusable | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are here."""
        return self.offset == self.size

    def add(self, offset: int, data: bytes) -> bool:
        """Take the next piece; False, and nothing happened, when this is not the next one.

        Damage is told by ``finish``.
        """
        if offset != self.offset or not data or offset + len(data) > self.size:
            return False
        if self._failure is None:
            try:
                self._parser.feed(data)
            except SnapshotUnusable as exc:
                self._failure = exc
            else:
                self._file.append(data)
        self.offset += len(data)
        return True

    def finish(self) -> tuple[SnapshotInfo, LeaseMachine]:
        """Return the snapshot, durable, and its machine.

        Raises ``SnapshotInvalid``, ``SnapshotForeign`` or ``SnapshotVersionUnknown`` after removing
        what was received; nothing else here has changed then.
        """
        try:
            header, machine = self._checked()
            self._file.publish()
        except SnapshotUnusable:
            self._file.discard()
            raise
        return _info(header, self._file), machine

    def abandon(self) -> None:
        """Give up; what was received is removed. Safe to repeat, nothing happens after the end."""
        self._file.discard()

    def _checked(self) -> tuple[SnapshotHeader, LeaseMachine]:
        path = self._file.path
        if self._failure is not None:
            raise self._failure
        if not self.is_complete:
            raise SnapshotInvalid(
                f"only {self.offset} of {self.size} bytes came", offset=self.offset, file=str(path)
            )
        with _collector_paused():
            header, machine = self._parser.finish()
        if header.cluster_id != self._cluster_id:
            raise _foreign(path, header, self._cluster_id)
        if header.last_index != self.last_index or header.last_term != self.last_term:
            raise SnapshotInvalid(
                f"it ends at index {header.last_index} of term {header.last_term}, "
                f"not {self.last_index} of {self.last_term}",
                file=str(path),
            )
        return header, machine


# ── Files ────────────────────────────────────────────────────────────────────────────────────────


def newest_file(files: Files, directory: Path) -> Path | None:
    """Return the file of the newest snapshot in a directory; changes nothing."""
    indexes = [index for name in files.names(directory) if (index := snapshot_index(name))]
    return directory / snapshot_name(max(indexes)) if indexes else None


def describe_file(files: Files, path: Path) -> tuple[SnapshotHeader, SnapshotInfo]:
    """Return what a file's header says, of any cluster; changes nothing.

    Raises ``SnapshotInvalid``, ``SnapshotVersionUnknown``, ``OSError``.
    """
    file = files.open(path)
    try:
        head, size = file.read(0, _HEADER_GLANCE_BYTES), file.size()
        if (needed := header_bytes(head) or 0) > len(head):
            head = file.read(0, needed)
    finally:
        file.close()
    header, _, _ = _decode_header(head, str(path))
    named = snapshot_index(path.name)
    if named is not None and named != header.last_index:
        raise SnapshotInvalid(
            f"this is the snapshot of index {header.last_index} under another name", file=str(path)
        )
    info = SnapshotInfo(
        last_index=header.last_index,
        last_term=header.last_term,
        configuration=header.configuration,
        size=size,
        path=path,
    )
    return header, info


def load_file(files: Files, path: Path) -> tuple[SnapshotHeader, LeaseMachine]:
    """Return header and machine of a file, all of it checked; raises like ``describe_file``."""
    parser = _Parser(str(path))
    with _collector_paused():
        parser.feed(files.read(path))
        return parser.finish()


class _Parser:
    """Turns a file's bytes, in any pieces, into header and machine; refusals name the file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._head = b""
        self._head_bytes = 0
        self._header: SnapshotHeader | None = None
        self._restoration: Restoration | None = None

    def feed(self, data: bytes) -> None:
        if self._restoration is None:
            data = self._begin(data)
        if self._restoration is not None:
            with self._located():
                self._restoration.feed(data)

    def finish(self) -> tuple[SnapshotHeader, LeaseMachine]:
        if self._header is None or self._restoration is None:
            self._begin(b"", is_all=True)
        assert self._header is not None
        assert self._restoration is not None
        with self._located():
            return self._header, LeaseMachine.of(self._restoration.finish())

    def _begin(self, data: bytes, *, is_all: bool = False) -> bytes:
        """Read the header as soon as it is whole; return what follows it."""
        self._head += data
        needed = header_bytes(self._head)
        if not is_all and (needed is None or len(self._head) < needed):
            return b""
        self._header, seed, self._head_bytes = _decode_header(self._head, self._file)
        self._restoration = Restoration(seed=seed)
        rest, self._head = self._head[self._head_bytes :], b""
        return rest

    @contextmanager
    def _located(self) -> Iterator[None]:
        try:
            yield
        except SnapshotInvalid as exc:
            raise SnapshotInvalid(
                exc.reason, offset=self._head_bytes + exc.offset, file=self._file
            ) from exc
        except SnapshotVersionUnknown as exc:
            raise SnapshotVersionUnknown(f"{self._file}: {exc.message}") from exc


class _PartialFile:
    """A file that gets its name when it is whole."""

    def __init__(self, files: Files, path: Path, *, suffix: str) -> None:
        self.path = path
        self.size = 0
        self._files = files
        self._partial = path.with_name(path.name + suffix)
        self._file: File | None = None
        self._is_over = False

    def append(self, data: bytes) -> None:
        """Write and sync; the file is created by the first call."""
        assert not self._is_over
        if self._file is None:
            self._file = self._files.create(self._partial, reserve=0)
        self._file.write(self.size, data)
        # Not left to the last sync: it would have the whole file to carry, and the journal's own,
        # on the same disk, would wait behind it.
        self._file.sync_data()
        self.size += len(data)

    def publish(self) -> None:
        """Make it durable, and then its name."""
        assert self._file is not None
        self._file.sync()
        self._file.close()
        self._file, self._is_over = None, True
        self._files.rename(self._partial, self.path)
        self._files.sync_directory(self.path.parent)

    def discard(self) -> None:
        """Remove what was written."""
        self._is_over = True
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self._files.remove(self._partial)


def _decode_header(data: bytes, file: str) -> tuple[SnapshotHeader, int, int]:
    try:
        return decode_header(data)
    except BadBytes as exc:
        raise SnapshotInvalid(str(exc), file=file) from exc
    except UnknownVersion as exc:
        raise SnapshotVersionUnknown(f"{file} has {exc}") from exc


def _slice(pieces: Iterator[bytes], slice_bytes: int) -> Iterator[bytes]:
    size = 0
    while size < slice_bytes and (piece := next(pieces, None)) is not None:
        size += len(piece)
        yield piece


def _info(header: SnapshotHeader, file: _PartialFile) -> SnapshotInfo:
    return SnapshotInfo(
        last_index=header.last_index,
        last_term=header.last_term,
        configuration=header.configuration,
        size=file.size,
        path=file.path,
    )


def _foreign(path: Path, header: SnapshotHeader, mine: str) -> SnapshotForeign:
    return SnapshotForeign(f"{path} is of cluster {header.cluster_id}, this node is of {mine}")


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector out: loading makes a million objects and no garbage, and it would
    walk all of them again and again, for a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
