"""Who counts: the members of the cluster, each one life of a node.

Owns the configuration value and its bytes in the log. Pure; must not know how a configuration is
agreed on or put in force (``node.py`` does).

A *member* is a node id together with the *incarnation* that was drawn when its data directory was
created. A node whose directory was wiped keeps its id and forgets its votes and acknowledgements;
it is another member, and counts for nothing until a committed configuration names it.

A configuration takes effect when it is *appended*, on every node, and is undone when its entry is
truncated: the one in force is the last one in the log, else the snapshot's. Taking effect at apply
loses data: two nodes that restarted inside a change 3 → 4 → 5 elected a leader with two of three
while the old one committed with three of five.
"""

from __future__ import annotations

from typing import Final

import msgspec

from seamfill_coordinator.raft.journal_format import EntryKind

__all__ = [
    "Configuration",
    "Member",
    "configuration_of",
    "membership_entry",
]


class Member(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One life of a node."""

    node_id: str
    incarnation: str


class Configuration(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The members that are counted, and those that only listen; both sorted, ids unique."""

    voters: tuple[Member, ...]
    learners: tuple[Member, ...] = ()

    def is_voter(self, node_id: str, incarnation: str) -> bool:
        return Member(node_id, incarnation) in self.voters

    def is_member(self, node_id: str, incarnation: str) -> bool:
        """Whether this life of the node votes or listens."""
        member = Member(node_id, incarnation)
        return member in self.voters or member in self.learners


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Configuration)


def membership_entry(configuration: Configuration) -> bytes:
    """Return the log entry that puts ``configuration`` in force."""
    return bytes([EntryKind.MEMBERSHIP]) + _ENCODER.encode(configuration)


def configuration_of(entry: bytes) -> Configuration | None:
    """Return the configuration of a membership entry, None for any other entry.

    Raises ``msgspec.DecodeError`` for a membership entry that this version can not read.
    """
    if entry[0] != EntryKind.MEMBERSHIP:
        return None
    return _DECODER.decode(memoryview(entry)[1:])
