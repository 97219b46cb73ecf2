"""The whole state as bytes: what a snapshot contains, and in which frames.

Owns the snapshot format: a magic with the format's version, then frames, each holding some rows of
the tables, or of one of the rings, then an end frame with the number of rows and the state digest.
``restoring.py`` reads it. Must not know files.

A *capture* is the state at one moment without a copy of it: when the digest hashes a row it leaves
the row's bytes on it (``row.encoded``), so that a capture only collects references to bytes that
nobody ever changes. Commands go on being applied while ``frames`` turns them into pieces.

Invariants: the frames of a capture are the state at its moment, whatever was applied since;
a frame's CRC covers its length and starts from the CRC before it, so that a frame is valid in one
place of one snapshot only; ``restore(save(s))`` has the same tables in the same order, and the same
digest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from zlib import crc32

import msgspec

from seamfill.errors import SeamfillError
from seamfill_coordinator.machine.digest import state_digest
from seamfill_coordinator.machine.model import Backfill, Namespace, Row, State
from seamfill_coordinator.machine.outcomes import Event
from seamfill_coordinator.machine.rows import plain_state

__all__ = [
    "FORMAT_VERSION",
    "FRAME_BYTES",
    "Capture",
    "FrameReader",
    "SnapshotInvalid",
    "SnapshotUnusable",
    "SnapshotVersionUnknown",
    "capture",
    "frames",
    "save",
]

FORMAT_VERSION: Final = 2
FRAME_BYTES: Final = 64 << 10
"""A frame ends with the row (or item of a ring) that reaches it. None is ever cut: a huge series is
one frame."""
_MAGIC: Final = b"SFMACH\x00"
_VERSION: Final = struct.Struct("<B")
_HEAD: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<I")
_PREAMBLE_BYTES: Final = len(_MAGIC) + _VERSION.size
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(tuple[str, Any])


class SnapshotUnusable(SeamfillError):
    """A snapshot can not be loaded here; see the file named."""

    code: ClassVar[str] = "snapshot_unusable"


class SnapshotInvalid(SnapshotUnusable):
    """A snapshot is damaged: move the data directory away, let the node fetch all from its peers.

    ``file`` and ``offset`` say where. Do not do that on a second node before the first has caught
    up: what a majority has lost is lost.
    """

    code: ClassVar[str] = "snapshot_invalid"

    def __init__(self, reason: str, *, offset: int = 0, file: str = "snapshot") -> None:
        super().__init__(f"{file}, offset {offset}: {reason}")
        self.reason = reason
        self.offset = offset
        self.file = file


class SnapshotVersionUnknown(SnapshotUnusable):
    """A newer version wrote this snapshot; start that version, or a newer one."""

    code: ClassVar[str] = "snapshot_version_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """The state at one moment, as references to what never changes."""

    scalars: Sequence[Any]
    rows: list[bytes]
    finished: list[Backfill]
    """Of these only the id is read, which never changes."""
    claims_done: list[tuple[Namespace, int, int, int]]
    """Of a namespace only the name is read, which never changes."""
    events: list[Event]
    digest: str

    @property
    def row_bytes(self) -> int:
        """About the size of the snapshot, without the rings."""
        return sum(map(len, self.rows))


def capture(state: State) -> Capture:
    """Return the state as it is now; rows changed since they were last hashed are hashed first."""
    digest = state_digest(state)
    return Capture(
        scalars=plain_state(state),
        rows=[row.encoded for table in _tables(state) for row in table],
        finished=list(state.finished),
        claims_done=list(state.claims_done),
        events=list(state.events),
        digest=digest,
    )


def save(state: State) -> bytes:
    """Return the whole state in one piece."""
    return b"".join(frames(capture(state)))


def frames(captured: Capture, *, seed: int = 0, frame_bytes: int = FRAME_BYTES) -> Iterator[bytes]:
    """Yield the snapshot in pieces of about ``frame_bytes``.

    ``seed``: CRC of what the snapshot stands behind, so that it is valid behind that alone.
    """
    preamble = _MAGIC + _VERSION.pack(FORMAT_VERSION)
    yield preamble
    crc = crc32(preamble, seed)
    for content in _contents(captured, frame_bytes):
        body = _ENCODER.encode(content)
        crc = _chained_crc(body, crc)
        yield _HEAD.pack(len(body), crc) + body


def _contents(captured: Capture, frame_bytes: int) -> Iterator[tuple[str, Any]]:
    yield "state", captured.scalars
    for rows in _by_size(captured.rows, frame_bytes):
        yield "rows", rows
    rings: tuple[tuple[str, Iterable[Any]], ...] = (
        ("finished", (row.id for row in captured.finished)),
        ("claims_done", ((row.name, s, e, at) for row, s, e, at in captured.claims_done)),
        ("events", captured.events),
    )
    for kind, ring in rings:
        for part in _by_size(map(_ENCODER.encode, ring), frame_bytes):
            yield kind, [msgspec.Raw(item) for item in part]
    yield "end", (len(captured.rows), captured.digest)


def _tables(state: State) -> tuple[Iterable[Row], ...]:
    """Return the tables in an order in which rows refer only to earlier ones, but for a series'
    tasks, which name leases by fence."""
    return (
        state.datasets.values(),
        state.series.values(),
        state.workers.values(),
        state.sources.values(),
        state.leases.values(),
        state.backfills.values(),
        state.sessions.values(),
        state.namespaces.values(),
        state.claims.values(),
        state.members.values(),
        state.restatements,
        state.completions,
    )


def _by_size(rows: Iterable[bytes], frame_bytes: int) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row)
        if size >= frame_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def _chained_crc(body: bytes | memoryview, previous: int) -> int:
    return crc32(body, crc32(_LENGTH.pack(len(body)), previous))


class FrameReader:
    """Takes a snapshot's bytes in any pieces and gives back the frames that are whole by then.

    Checks magic, version, CRCs and that nothing follows the end frame; offsets in its refusals
    count from the snapshot's first byte.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._crc = seed
        self._rest = b""
        self._offset = 0
        self._has_begun = False
        self._has_ended = False

    def feed(self, data: bytes) -> Iterator[tuple[int, str, Any]]:
        """Yield (offset, kind, content). Raises ``SnapshotInvalid``, ``SnapshotVersionUnknown``."""
        data = self._rest + data if self._rest else data
        at = 0
        if not self._has_begun and len(data) >= _PREAMBLE_BYTES:
            self._begin(data[:_PREAMBLE_BYTES])
            at = _PREAMBLE_BYTES
        while self._has_begun and len(data) - at >= _HEAD.size:
            length, crc = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + length
            if self._has_ended:
                raise self._invalid(at, "something follows the end frame")
            if end > len(data):
                break
            body = memoryview(data)[at + _HEAD.size : end]
            if _chained_crc(body, self._crc) != crc:
                raise self._invalid(at, "a frame does not match its CRC")
            kind, content = self._decode(at, body)
            self._crc = crc
            self._has_ended = kind == "end"
            yield self._offset + at, kind, content
            at = end
        self._rest = data[at:]
        self._offset += at

    def finish(self) -> None:
        """Check that all frames were there. Raises ``SnapshotInvalid``."""
        if self._rest:
            what = (
                "something follows the end frame" if self._has_ended else "it ends inside a frame"
            )
            raise self._invalid(0, what)
        if not self._has_ended:
            raise self._invalid(0, "it has no end frame")

    def _begin(self, preamble: bytes) -> None:
        if not preamble.startswith(_MAGIC):
            raise self._invalid(0, "this is no snapshot of a lease machine")
        (version,) = _VERSION.unpack_from(preamble, len(_MAGIC))
        if version > FORMAT_VERSION:
            raise SnapshotVersionUnknown(
                f"the snapshot has format version {version}; this program knows {FORMAT_VERSION}"
            )
        if version < FORMAT_VERSION:
            raise self._invalid(0, f"format version {version} was never written to a file")
        self._crc = crc32(preamble, self._crc)
        self._has_begun = True

    def _decode(self, at: int, body: memoryview) -> tuple[str, Any]:
        try:
            return _DECODER.decode(body)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise self._invalid(at, f"a frame can not be read: {exc}") from exc

    def _invalid(self, at: int, reason: str) -> SnapshotInvalid:
        return SnapshotInvalid(reason, offset=self._offset + at)
