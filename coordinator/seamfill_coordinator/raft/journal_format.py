"""The bytes of the journal: segment header, group, mark.

Owns encoding and decoding. Pure: bytes in, values out; must not know files, or who writes when.

A segment is a header and then groups, back to back; what follows the last group reads as zeros,
the segment's reserve. All numbers are little-endian::

    header   magic 8 | version u16 | crc u32 | size u16 |
             segment u64 | previous_end u64 | previous_crc u32 | incarnation | cluster id
    group    crc u32 | length u32 | term u64 | commit u64 | first u64 | keep u64 | count u32 |
             vote | kind u8 × count | term u64 × count | size u32 × count | commands
    mark     crc u32 | crc of its end's group u32 | end u64 | segment u64 | zero u64     (32 bytes)

Texts (incarnation, cluster id, vote) are a u16 length and UTF-8.

A *group* is what one write made durable, as one whole: term, vote, commit index, and the change of
the log: keep entries ``first … keep``, drop all others, append these. So every group restates the
whole small state, and the last one that can be read is the truth; nothing has to be searched for.
``keep < first`` keeps nothing: the log was replaced.

Invariants: a group's CRC covers all of it and starts from the CRC of what precedes it (the group
before, or the header, which for its part names the end and CRC of the segment before), so that a
group is valid in one place only. Decoding never trusts a length before it fits the bytes at hand.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Final
from zlib import crc32

__all__ = [
    "FORMAT_VERSION",
    "GROUP_BYTES_MAX",
    "KINDS",
    "MARK_BYTES",
    "BadBytes",
    "Entry",
    "EntryKind",
    "Group",
    "Mark",
    "SegmentHeader",
    "UnknownVersion",
    "decode_group",
    "decode_header",
    "decode_mark",
    "encode_group",
    "encode_header",
    "encode_mark",
    "term_at",
]

Entry = tuple[bytes, int, int]
"""(command, index, term), as pysyncobj keeps it."""

FORMAT_VERSION: Final = 1
GROUP_BYTES_MAX: Final = 256 << 20
"""Far above what one turn of the loop gathers (some append messages of 4 MiB)."""
MARK_BYTES: Final = 32


class EntryKind(IntEnum):
    """What an entry is. The same numbers as the first byte of pysyncobj's commands.

    pysyncobj's fourth kind, a change of its own code version, has no place in our cluster.
    """

    COMMAND = 0
    NOOP = 1
    MEMBERSHIP = 2


KINDS: Final = bytes(EntryKind)

_MAGIC: Final = b"SEAMJRNL"
_PREFIX: Final = struct.Struct("<8sHIH")
_HEADER: Final = struct.Struct("<QQI")
_GROUP: Final = struct.Struct("<IIQQQQI")
_CRC: Final = struct.Struct("<I")
_TEXT: Final = struct.Struct("<H")
_MARK: Final = struct.Struct("<IIQQQ")
_MARK_SEED: Final = 0x5EA4
_ENTRY_COLUMNS_BYTES: Final = 1 + 8 + 4
_kind_of = itemgetter(0)


def term_at(log: Sequence[Entry], index: int) -> int | None:
    """Return the term of the entry at ``index`` of a contiguous log, None when it is not in it."""
    position = index - log[0][1] if log else -1
    return log[position][2] if 0 <= position < len(log) else None


class BadBytes(Exception):
    """These bytes are not what they should be; the text says what is wrong with them."""


class UnknownVersion(Exception):
    """A newer program wrote this; ``version`` is its format."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}; this program knows {FORMAT_VERSION}")
        self.version = version


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """Whose segment it is, and what it continues."""

    cluster_id: str
    incarnation: str
    segment: int
    previous_end: int
    """Offset in the segment before at which its last group ends; 0 for the first segment."""
    previous_crc: int
    """CRC of that group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One durable step: the state it leaves, and how the log came there."""

    term: int
    vote: str | None
    commit: int
    first: int
    """Index of the log's first entry."""
    keep: int
    """Last of the older entries that stay; below ``first`` none does."""
    entries: Sequence[Entry]

    @property
    def start(self) -> int:
        """Index at which ``entries`` go in."""
        return max(self.keep + 1, self.first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Up to where the journal was durable: a segment, and the end of a group in it."""

    segment: int
    end: int
    crc: int
    """CRC of that group."""


def encode_header(header: SegmentHeader) -> tuple[bytes, int]:
    """Return the bytes, and their CRC, from which the first group's CRC starts."""
    body = (
        _HEADER.pack(header.segment, header.previous_end, header.previous_crc)
        + _encode_text(header.incarnation)
        + _encode_text(header.cluster_id)
    )
    crc = _header_crc(FORMAT_VERSION, body)
    return _PREFIX.pack(_MAGIC, FORMAT_VERSION, crc, len(body)) + body, crc


def decode_header(data: bytes) -> tuple[SegmentHeader, int, int]:
    """Return the header, its CRC and where it ends. Raises ``BadBytes``, ``UnknownVersion``."""
    if len(data) < _PREFIX.size:
        raise BadBytes("too short for a segment's header")
    magic, version, crc, size = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise BadBytes("not a segment of a journal")
    body = data[_PREFIX.size : _PREFIX.size + size]
    # A version can be believed only if the CRC holds, and a newer format may keep its CRC
    # elsewhere: whether to refuse as newer or as damaged, the answer is a refusal.
    if version > FORMAT_VERSION:
        raise UnknownVersion(version)
    if len(body) != size or size < _HEADER.size or _header_crc(version, body) != crc:
        raise BadBytes("the segment's header does not match its CRC")
    segment, previous_end, previous_crc = _HEADER.unpack_from(body)
    incarnation, offset = _decode_text(body, _HEADER.size)
    cluster_id, _ = _decode_text(body, offset)
    header = SegmentHeader(
        cluster_id=cluster_id,
        incarnation=incarnation,
        segment=segment,
        previous_end=previous_end,
        previous_crc=previous_crc,
    )
    return header, crc, _PREFIX.size + size


def _header_crc(version: int, body: bytes) -> int:
    return crc32(body, crc32(version.to_bytes(2, "little")))


def encode_group(group: Group, previous_crc: int) -> tuple[bytes, int]:
    """Return the group's bytes and their CRC.

    The hot path of every write: columns instead of records, so that the work per entry is done by
    ``zip``, ``map``, ``struct`` and ``join`` and not by the interpreter.
    """
    entries = group.entries
    parts = [_encode_text(group.vote or "")]
    if entries:
        commands, _, terms = zip(*entries, strict=True)
        count = len(commands)
        parts.append(bytes(map(_kind_of, commands)))
        parts.append(struct.pack(f"<{count}Q{count}I", *terms, *map(len, commands)))
        parts.extend(commands)
    payload = b"".join(parts)
    length = _GROUP.size + len(payload)
    if length > GROUP_BYTES_MAX:
        raise BadBytes(f"a group of {length} bytes; at most {GROUP_BYTES_MAX} are written at once")
    head = _GROUP.pack(0, length, group.term, group.commit, group.first, group.keep, len(entries))
    crc = crc32(payload, crc32(memoryview(head)[_CRC.size :], previous_crc))
    return b"".join((_CRC.pack(crc), head[_CRC.size :], payload)), crc


def decode_group(data: bytes, offset: int, previous_crc: int) -> tuple[Group, int, int]:
    """Return the group at ``offset``, its CRC and where it ends. Raises ``BadBytes``."""
    if len(data) - offset < _GROUP.size:
        raise BadBytes("the file ends inside a group's header")
    crc, length, term, commit, first, keep, count = _GROUP.unpack_from(data, offset)
    end = offset + length
    if length < _GROUP.size or end > len(data):
        raise BadBytes("a group's length does not fit the file")
    if crc32(memoryview(data)[offset + _CRC.size : end], previous_crc) != crc:
        raise BadBytes("a group does not match its CRC")
    vote, at = _decode_text(data, offset + _GROUP.size)
    group = Group(
        term=term,
        vote=vote or None,
        commit=commit,
        first=first,
        keep=keep,
        entries=_decode_entries(data, at, end, count, max(keep + 1, first)),
    )
    return group, crc, end


def _decode_entries(data: bytes, at: int, end: int, count: int, start: int) -> list[Entry]:
    if count * _ENTRY_COLUMNS_BYTES > end - at:
        raise BadBytes("a group's entries do not fit it")
    kinds = data[at : at + count]
    numbers = struct.unpack_from(f"<{count}Q{count}I", data, at + count)
    terms, sizes = numbers[:count], numbers[count:]
    at += count * _ENTRY_COLUMNS_BYTES
    if at + sum(sizes) != end:
        raise BadBytes("a group's entries do not fill it")
    if 0 in sizes or kinds.translate(None, KINDS):
        raise BadBytes("an entry of unknown kind")
    ends = list(accumulate(sizes, initial=at))
    commands = [data[low:high] for low, high in pairwise(ends)]
    if kinds != bytes(map(_kind_of, commands)):
        raise BadBytes("an entry's command is not of the kind that its group says")
    return list(zip(commands, range(start, start + count), terms, strict=True))


def encode_mark(mark: Mark) -> bytes:
    """Return the bytes of the mark.

    It is overwritten in place and rarely synced. Power loss leaves an older one, never a torn one:
    it lies in one sector, which a device writes whole. So there is one mark and no fallback to an
    older: a mark that can not be read is damage, and must not lower the guard for the segments.
    """
    body = _MARK.pack(0, mark.crc, mark.end, mark.segment, 0)[_CRC.size :]
    return _CRC.pack(crc32(body, _MARK_SEED)) + body


def decode_mark(data: bytes) -> Mark:
    """Return the mark. Raises ``BadBytes``."""
    if len(data) != MARK_BYTES:
        raise BadBytes(f"{len(data)} bytes; a mark has {MARK_BYTES}")
    crc, group_crc, end, segment, _ = _MARK.unpack(data)
    if crc32(data[_CRC.size :], _MARK_SEED) != crc:
        raise BadBytes("the mark does not match its CRC")
    return Mark(segment=segment, end=end, crc=group_crc)


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return _TEXT.pack(len(encoded)) + encoded


def _decode_text(data: bytes, offset: int) -> tuple[str, int]:
    if len(data) - offset < _TEXT.size:
        raise BadBytes("a text does not fit")
    (size,) = _TEXT.unpack_from(data, offset)
    raw = data[offset + _TEXT.size : offset + _TEXT.size + size]
    if len(raw) != size:
        raise BadBytes("a text does not fit")
    try:
        return raw.decode(), offset + _TEXT.size + size
    except UnicodeDecodeError as exc:
        raise BadBytes("a text is not UTF-8") from exc
