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

from collections.abc import Iterable
from typing import Final

import msgspec

from seamfill_coordinator.raft.journal_format import EntryKind

__all__ = [
    "Configuration",
    "ConfigurationLog",
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


class ConfigurationLog:
    """The configurations of one log, of which the last is in force."""

    def __init__(self, base: Configuration | None) -> None:
        """``base``: in force before the log's first entry; None when there was none."""
        self._base = base
        self._later: list[tuple[int, Configuration]] = []

    @property
    def in_force(self) -> Configuration | None:
        return self._later[-1][1] if self._later else self._base

    @property
    def newest_index(self) -> int:
        """Index of the entry that put the present one in force; 0 for the base."""
        return self._later[-1][0] if self._later else 0

    def at(self, index: int) -> Configuration | None:
        """Return the one in force after the entry at ``index``."""
        found = self._base
        for later, configuration in self._later:
            if later > index:
                break
            found = configuration
        return found

    def appended(self, entries: Iterable[tuple[bytes, int, int]]) -> bool:
        """Note entries that were appended; return whether another configuration is in force."""
        before = len(self._later)
        for entry, index, _ in entries:
            if entry[0] == EntryKind.MEMBERSHIP:
                configuration = configuration_of(entry)
                assert configuration is not None
                self._later.append((index, configuration))
        return len(self._later) > before

    def truncated(self, index: int) -> bool:
        """Note that the entries from ``index`` on are gone; return whether one went with them."""
        before = len(self._later)
        while self._later and self._later[-1][0] >= index:
            self._later.pop()
        return len(self._later) < before

    def trimmed(self, index: int) -> None:
        """Note that the entries before ``index`` now lie in a snapshot."""
        while self._later and self._later[0][0] < index:
            self._base = self._later.pop(0)[1]

    def replaced(self, base: Configuration | None) -> None:
        """Note that the log was replaced by a snapshot's."""
        self._base = base
        self._later.clear()


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
