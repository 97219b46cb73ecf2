"""The bytes before a snapshot's state: whose it is, and where in the log it stands.

Owns encoding and decoding of the header, and file names. Pure: bytes in, values out; must not know
files, nor the machine's part, which follows the header (``machine/snapshot.py``)::

    magic 8 | version u16 | crc u32 | size u32 | msgpack (cluster id, last index and term,
    configuration)                                                          numbers little-endian

Invariants: the CRC covers all that follows it and the version before it; the machine's first CRC
starts from it, so that a header and a state that were not written together are refused.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

import msgspec

from seamfill_coordinator.raft.journal_format import BadBytes, UnknownVersion
from seamfill_coordinator.raft.membership import Configuration

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES_MAX",
    "SnapshotHeader",
    "decode_header",
    "encode_header",
    "header_bytes",
    "snapshot_index",
    "snapshot_name",
]

FORMAT_VERSION: Final = 1
HEADER_BYTES_MAX: Final = 1 << 20
"""Far above any configuration; what a reader asks for at once."""

_MAGIC: Final = b"SEAMSNAP"
_PREFIX: Final = struct.Struct("<8sHII")
_VERSION: Final = struct.Struct("<H")
_SIZE: Final = struct.Struct("<I")
_SUFFIX: Final = ".snapshot"
_DIGITS: Final = 16


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a snapshot stands for."""

    cluster_id: str
    last_index: int
    """Index of the last entry in it."""
    last_term: int
    """Term of that entry."""
    configuration: Configuration | None
    """In force at that entry; None when the cluster was not founded by then."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(SnapshotHeader)


def encode_header(header: SnapshotHeader) -> tuple[bytes, int]:
    """Return the bytes, and their CRC, from which the state's CRCs start."""
    body = _ENCODER.encode(header)
    crc = _header_crc(FORMAT_VERSION, body)
    return _PREFIX.pack(_MAGIC, FORMAT_VERSION, crc, len(body)) + body, crc


def decode_header(data: bytes) -> tuple[SnapshotHeader, int, int]:
    """Return the header, its CRC and where it ends. Raises ``BadBytes``, ``UnknownVersion``."""
    if len(data) < _PREFIX.size:
        raise BadBytes("too short for a snapshot's header")
    magic, version, crc, size = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise BadBytes("not a snapshot of a coordinator")
    if version > FORMAT_VERSION:
        raise UnknownVersion(version)
    body = data[_PREFIX.size : _PREFIX.size + size]
    if len(body) != size or _header_crc(version, body) != crc:
        raise BadBytes("the snapshot's header does not match its CRC")
    try:
        header = _DECODER.decode(body)
    except msgspec.MsgspecError as exc:
        raise BadBytes(f"the snapshot's header can not be read: {exc}") from exc
    return header, crc, _PREFIX.size + size


def header_bytes(data: bytes) -> int | None:
    """Return how long the header at the beginning of ``data`` is said to be, at most
    ``HEADER_BYTES_MAX``; None while too little is here to tell."""
    if len(data) < _PREFIX.size:
        return None
    *_, size = _PREFIX.unpack_from(data)
    return min(_PREFIX.size + int(size), HEADER_BYTES_MAX)


def _header_crc(version: int, body: bytes) -> int:
    return crc32(body, crc32(_VERSION.pack(version) + _SIZE.pack(len(body))))


def snapshot_name(last_index: int) -> str:
    """Return the file name of a snapshot; names sort as their indexes do."""
    return f"{last_index:0{_DIGITS}d}{_SUFFIX}"


def snapshot_index(name: str) -> int | None:
    """Return the index in a snapshot's file name; None for any other name."""
    digits = name.removesuffix(_SUFFIX)
    if name == digits or len(digits) != _DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)
