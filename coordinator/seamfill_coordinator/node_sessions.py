"""The sessions under which a node proposes what clients ask without one of their own.

Owns (client, sequence, low) bookkeeping. Pure: must not know how a session is opened.

Invariants: a sequence is handed out once; ``low`` never passes a sequence that is still unanswered;
no session has more than ``WINDOW`` sequences between ``low`` and its newest one, because the
machine keeps outcomes for exactly that many. A session whose ``low`` is stuck (one outcome is still
being found out) fills up and is passed over until that one is settled.
"""

from __future__ import annotations

from typing import Final

from seamfill_coordinator.calls import Identity

__all__ = ["MAX_SESSIONS", "WINDOW", "NodeSessions"]

WINDOW: Final = 256
MAX_SESSIONS: Final = 32


class _Session:
    __slots__ = ("client", "next_sequence", "unanswered")

    def __init__(self, client: int) -> None:
        self.client = client
        self.next_sequence = 1
        # A dict used as an ordered set: sequences enter ascending, so the first one is the lowest.
        self.unanswered: dict[int, None] = {}

    def low(self) -> int:
        return next(iter(self.unanswered), self.next_sequence)

    def is_full(self) -> bool:
        return self.next_sequence >= self.low() + WINDOW


class NodeSessions:
    """A pool of sessions; ``take`` an identity, ``settle`` it when its outcome is known."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def can_grow(self) -> bool:
        """Return whether another session may be opened."""
        return len(self._sessions) < MAX_SESSIONS

    def add(self, client: int) -> None:
        """Take in a session that was just opened."""
        self._sessions[client] = _Session(client)

    def take(self) -> Identity | None:
        """Return an identity that was never used, or None when a session must be opened first."""
        for session in self._sessions.values():
            if not session.is_full():
                sequence = session.next_sequence
                session.next_sequence += 1
                session.unanswered[sequence] = None
                return Identity(client=session.client, sequence=sequence, low=session.low())
        return None

    def settle(self, identity: Identity) -> None:
        """Note that nobody will ask for this outcome again."""
        session = self._sessions.get(identity.client)
        if session is not None:
            session.unanswered.pop(identity.sequence, None)

    def forget(self, client: int) -> None:
        """Drop a session that the cluster does not know any more."""
        self._sessions.pop(client, None)
