"""What members say to each other, and its bytes.

Owns the vocabulary of the peer protocol and its one encoding: msgpack arrays, the first element
says which message it is. Pure; must not know connections (``links.py``) or what a message does
(``node.py``). Decoding is strict: wrong types, missing and surplus fields are ``BadMessage``, and
nothing is ever executed or imported by it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from seamfill_coordinator.raft.membership import Configuration

__all__ = [
    "PROTOCOL_VERSION",
    "Append",
    "Appended",
    "BadMessage",
    "Founded",
    "Hello",
    "HigherTerm",
    "Message",
    "PreVoteReply",
    "PreVoteRequest",
    "SnapshotPart",
    "SnapshotTaken",
    "Vote",
    "VoteRequest",
    "decode_message",
    "encode_message",
]

PROTOCOL_VERSION: Final = 1


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    pass


class Hello(_Message, frozen=True, tag=0):
    """The first message on every connection, in both directions; nothing else may come before."""

    protocol: int
    cluster_id: str
    node_id: str
    incarnation: str
    configuration: Configuration | None
    """In force at the sender; None when its cluster is not founded as far as it knows."""
    peer_ids: tuple[str, ...]
    """All members, itself included, that the sender was configured with; sorted."""


class Founded(_Message, frozen=True, tag=1):
    """The founder has decided who the first members are."""

    configuration: Configuration


class Append(_Message, frozen=True, tag=2):
    """AppendEntries; without entries a heartbeat (Raft, figure 2)."""

    term: int
    previous_index: int
    previous_term: int
    commit_index: int
    entries: tuple[tuple[bytes, int, int], ...]
    """(entry, index, term), the entry's first byte being its kind."""


class Appended(_Message, frozen=True, tag=3):
    """The answer to ``Append``, and to a snapshot that was installed."""

    term: int
    """The term of the append; an answer of another term is nobody's."""
    next_index: int
    """On success the log is known to match below it; else the sender should try from here."""
    success: bool
    reset: bool


class VoteRequest(_Message, frozen=True, tag=4):
    """RequestVote."""

    term: int
    last_index: int
    last_term: int


class Vote(_Message, frozen=True, tag=5):
    """A granted vote; a refusal is silence, or ``HigherTerm``."""

    term: int


class PreVoteRequest(_Message, frozen=True, tag=6):
    """Would you vote for me in ``term``? Changes nothing at either side."""

    term: int
    """The sender's term + 1."""
    last_index: int
    last_term: int


class PreVoteReply(_Message, frozen=True, tag=7):
    """The answer to ``PreVoteRequest``."""

    term: int
    """The term that was asked for."""
    granted: bool


class HigherTerm(_Message, frozen=True, tag=8):
    """I know a term that is higher than the one you speak in."""

    term: int


class SnapshotPart(_Message, frozen=True, tag=9):
    """A piece of the leader's snapshot file, in order; at most ``SNAPSHOT_PART_BYTES`` of data."""

    term: int
    last_index: int
    last_term: int
    """Of the last entry that the snapshot contains."""
    size: int
    """Bytes of the whole file."""
    offset: int
    data: bytes


class SnapshotTaken(_Message, frozen=True, tag=10):
    """How much of that snapshot lies here now; ``offset`` 0 asks to begin anew."""

    term: int
    last_index: int
    offset: int


Message = (
    Hello
    | Founded
    | Append
    | Appended
    | VoteRequest
    | Vote
    | PreVoteRequest
    | PreVoteReply
    | HigherTerm
    | SnapshotPart
    | SnapshotTaken
)

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


class BadMessage(Exception):
    """These bytes are no message of this protocol; the text says why."""


def encode_message(message: Message) -> bytes:
    """Return the bytes of a message."""
    return _ENCODER.encode(message)


def decode_message(data: bytes | bytearray | memoryview) -> Message:
    """Return the message that ``data`` holds. Raises ``BadMessage`` for anything else."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as exc:
        raise BadMessage(str(exc)) from exc
