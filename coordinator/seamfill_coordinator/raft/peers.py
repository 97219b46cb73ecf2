"""pysyncobj's TCP transport between members, with names instead of addresses.

Owns who a connection belongs to. A member is known by its node id, so that a cluster resumes when
its addresses change, and says its cluster's id first, so that two clusters never mix. Must not know
Raft's rules (``guard.py`` does).

Invariants: of one peer only the newest connection may speak; nothing but members' Raft messages is
listened to (the stock transport also takes membership changes and read-only nodes from anybody).

The transport pickles, hence a peer port belongs on a trusted network: it is bound to exactly the
configured address. The next transport authenticates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from pysyncobj.node import TCPNode
from pysyncobj.tcp_connection import CONNECTION_STATE, TcpConnection
from pysyncobj.transport import TCPTransport

from seamfill_coordinator.raft.guard import Guard, Message

__all__ = ["Member", "MemberTransport", "TransportSettings"]

_ALIVE: Final[Message] = {"type": "alive"}


class Member(TCPNode):  # type: ignore[misc]  # pysyncobj carries no types
    """A member by its id; the address is only where it is found today.

    The journal keeps the id of the member that was voted for, which therefore must not be an
    address, as it is in ``TCPNode``.
    """

    def __init__(self, node_id: str, address: str) -> None:
        super().__init__(address)
        self._id = node_id


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """What the transport is given beside pysyncobj's own arguments."""

    cluster_id: str
    guard: Callable[[Any], Guard]
    on_peer_connected: Callable[[], None]
    on_peer_lost: Callable[[str], None]
    """Called with the node id."""


class MemberTransport(TCPTransport):  # type: ignore[misc]  # pysyncobj carries no types
    """Connections by node id; the guard stands between them and the core."""

    def __init__(
        self, core: Any, me: Member, others: Iterable[Member], *, settings: TransportSettings
    ) -> None:
        self._settings = settings
        self._guard = settings.guard(core)
        self._greetings: dict[tuple[str, str, str], Member] = {}
        super().__init__(core, me, others)

    @property
    def leader_commit_index(self) -> int | None:
        """What a leader last said to be committed; None before the first word."""
        return self._guard.leader_commit_index

    def addNode(self, node: Member) -> None:  # noqa: N802
        self._greetings[self._greeting(node)] = node
        super().addNode(node)

    def keep_alive(self) -> None:
        """Send every connected peer a word that means nothing."""
        for node in self._nodes:
            self.send(node, _ALIVE)

    def send(self, node: Member, message: Message) -> bool:
        allowed = self._guard.outgoing(message)
        if allowed is None:
            return False
        sent: bool = super().send(node, allowed)
        connection = self._connections.get(node)
        if sent and connection is not None and connection.getSendBufferSize() > 0:
            self._syncObj._poller.watch_write(connection.fileno())
        return sent

    def _greeting(self, node: Member) -> tuple[str, str, str]:
        return ("seamfill/1", self._settings.cluster_id, node.id)

    def _shouldConnect(self, node: Member) -> bool:  # noqa: N802
        return node not in self._preventConnectNodes and self._selfNode.id > node.id

    def _sendSelfAddress(self, conn: TcpConnection) -> None:  # noqa: N802
        conn.send(self._greeting(self._selfNode))

    def _onIncomingMessageReceived(self, conn: TcpConnection, message: object) -> None:  # noqa: N802
        known = isinstance(message, tuple) and message in self._greetings
        self._unknownConnections.discard(conn)
        if not known:
            conn.setOnDisconnectedCallback(None)
            conn.disconnect()
            return
        assert isinstance(message, tuple)
        node = self._greetings[message]
        self._retire(self._connections.get(node))
        self._connections[node] = conn
        conn.setOnMessageReceivedCallback(functools.partial(self._onMessageReceived, node))
        self._onNodeConnected(node)

    def _retire(self, older: TcpConnection | None) -> None:
        """Silence a superseded connection: what it still delivers is older than what follows."""
        if older is None or older.state == CONNECTION_STATE.DISCONNECTED:
            return
        older.setOnMessageReceivedCallback(None)
        older.setOnDisconnectedCallback(None)
        older.disconnect()

    def _onNodeConnected(self, node: Member) -> None:  # noqa: N802
        super()._onNodeConnected(node)
        self._settings.on_peer_connected()

    def _onNodeDisconnected(self, node: Member) -> None:  # noqa: N802
        super()._onNodeDisconnected(node)
        self._settings.on_peer_lost(node.id)

    def _onMessageReceived(self, node: Member, message: Message) -> None:  # noqa: N802
        verdict = self._guard.incoming(node.id, message)
        if verdict.deliver is not None:
            super()._onMessageReceived(node, verdict.deliver)
        if verdict.answer is not None:
            self.send(node, verdict.answer)
