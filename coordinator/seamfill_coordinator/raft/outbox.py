"""What a node has said, and when it may leave.

Owns the order of disk and network. Must not know what the messages do.

Invariant: an acknowledgement, vote, vote request or founding leaves only after the journal was
synced. A leader's appends promise nothing and may leave before its own disk has them (Ongaro's
thesis, 10.2.1), unless their very term is not on the disk yet: a leader that forgot its term could
lead in it again, with other entries.
"""

from __future__ import annotations

from typing import Final, Protocol

from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.messages import (
    Append,
    HigherTerm,
    Message,
    PreVoteReply,
    PreVoteRequest,
    SnapshotPart,
)

__all__ = ["Outbox", "Wire"]

_PROMISE_NOTHING: Final = (Append, SnapshotPart, PreVoteRequest, PreVoteReply, HigherTerm)


class Wire(Protocol):
    """Where messages go."""

    def send(self, node_id: str, message: Message) -> bool:
        """Send to a node; False when no connection stands."""
        ...

    def flush(self) -> None:
        """Let what was sent leave now."""
        ...


class Outbox:
    """The messages of one node between two syncs."""

    def __init__(self, journal: DurableJournal, wire: Wire) -> None:
        self._journal = journal
        self._wire = wire
        self._synced_term = journal.getCurrentTerm()
        self._waiting: list[tuple[str, Message]] = []
        self._promises = False

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._waiting)

    def say(self, node_id: str, message: Message) -> None:
        """Send with the next ``flush``."""
        self._waiting.append((node_id, message))
        if type(message) not in _PROMISE_NOTHING:
            self._promises = True

    def flush(self) -> None:
        """Make all that was done durable, and send all that was said. Raises ``JournalFailed``."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            promises, self._promises = self._promises, False
            if promises or self._synced_term != self._journal.getCurrentTerm():
                self._sync()
            for node_id, message in waiting:
                self._wire.send(node_id, message)
            self._wire.flush()
        if self._journal.needs_sync:
            self._sync()

    def _sync(self) -> None:
        self._journal.sync()
        self._synced_term = self._journal.getCurrentTerm()
