"""The connections between this member and the others: who may speak, and that they keep standing.

Owns the handshake, who dials whom, which of two connections counts, and when a silent one is dead.
Must not know Raft (``node.py``), bytes of messages (``messages.py``) or how bytes travel
(``network.py``).

Invariants:
- A message is delivered only from a connection whose other end has said ``Hello`` first, for this
  protocol, cluster and a configured member, and has proved to the network to be that member.
- Of one peer only the newest connection speaks. What an older one still brings is older than what
  the newer one brought, and stock Raft cores truncate acknowledged entries when they hear it.
- ``connected`` and ``disconnected`` alternate for each peer, ``received`` comes only between them.
- Of two members the one with the larger id dials, so that both agree which connection is newest.
- Strangers cost a bounded number of connections, bytes and log lines, whatever they send.

Only ``call_soon``, ``call_later``, ``create_task``, ``create_future`` and ``time`` of the running
loop are used, so that a simulator may own time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

from seamfill.logs import log_event
from seamfill_coordinator.raft.dialer import Dialer, DialPlan
from seamfill_coordinator.raft.frames import frame_of
from seamfill_coordinator.raft.link import FRAME_BYTES_MAX, Link
from seamfill_coordinator.raft.messages import PROTOCOL_VERSION, Hello, Message, encode_message
from seamfill_coordinator.raft.network import Listener, Network
from seamfill_coordinator.raft.refusals import RefusalLog
from seamfill_coordinator.raft.timing import RaftTiming

__all__ = ["STRANGERS_MAX", "LinkEvents", "Links"]

STRANGERS_MAX: Final = 32
"""Connections that have not said who they are; the oldest goes when one more comes. A member needs
one round trip, so it is not the one that goes."""
_STOP_S: Final = 1.0
_log = logging.getLogger("seamfill.coordinator.raft")


class LinkEvents(Protocol):
    """What the links tell. Called from the loop; ``send`` and ``flush`` may be called inside."""

    def hello(self) -> Hello:
        """Return what this node says of itself now."""
        ...

    def connected(self, hello: Hello) -> None:
        """A peer's handshake is complete; it is this peer's newest connection."""
        ...

    def disconnected(self, node_id: str) -> None:
        """The connection that ``connected`` told of is gone."""
        ...

    def received(self, node_id: str, message: Message) -> None:
        """A message came; never a ``Hello``."""
        ...


class Links:
    """This member's connections to its peers; belongs to the loop it was started on."""

    def __init__(
        self,
        *,
        cluster_id: str,
        node_id: str,
        listen: str,
        peers: Mapping[str, str],
        network: Network,
        events: LinkEvents,
        timing: RaftTiming,
    ) -> None:
        """``peers`` maps the other members' ids to ``host:port``."""
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._listen = listen
        self._peers = dict(peers)
        self._network = network
        self._events = events
        self._timing = timing
        self._listener: Listener | None = None
        self._links: dict[Link, None] = {}
        """All that are open, oldest first."""
        self._current: dict[str, Link] = {}
        """By peer: the one that ``connected`` told of and ``disconnected`` did not yet."""
        self._dialers: dict[str, Dialer] = {}
        self._refusals = RefusalLog(_log)
        self._last_frame: tuple[Message, bytes] | None = None
        self._unflushed: dict[Link, None] = {}
        self._beat_timer: asyncio.TimerHandle | None = None
        self._beaten_s = 0.0
        self._is_stopped = False
        self._all_ended: asyncio.Future[None] | None = None

    # Life

    async def start(self) -> None:
        """Listen, and dial the peers whose turn it is not. Raises ``OSError``."""
        self._listener = await self._network.listen(self._listen, lambda: self._link(None))
        self._beaten_s = self._loop.time()
        self._beat()
        for peer_id, address in self._peers.items():
            if peer_id < self._node_id:
                self._dialers[peer_id] = self._dialer(peer_id, address)
                self._dialers[peer_id].dial()

    async def stop(self) -> None:
        """Write what was sent, and end all connections; nothing is told from now on.

        Safe to repeat.
        """
        self._is_stopped = True
        if self._listener is not None:
            self._listener.close()
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        for dialer in self._dialers.values():
            dialer.stop()
        self._current.clear()
        for link in tuple(self._links):
            link.hang_up()
        for dialer in self._dialers.values():
            await dialer.stopped()
        await self._all_ended_within(_STOP_S)
        for link in tuple(self._links):
            link.close()

    # Speaking

    def send(self, node_id: str, message: Message) -> bool:
        """Have ``message`` written with the next ``flush``.

        Return False when there is no connection; nothing was sent then. True promises nothing. The
        same object sent to several peers in a row is encoded once.
        """
        link = self._speaking(node_id)
        if link is None:
            return False
        self._unflushed[link] = None
        link.queue(self._frame(message))
        return not link.is_closed

    def flush(self) -> None:
        """Write what was sent since the last time: one write per connection."""
        unflushed, self._unflushed = self._unflushed, {}
        for link in unflushed:
            link.flush()

    def is_connected(self, node_id: str) -> bool:
        """Whether this peer's handshake is complete and its connection stands."""
        return self._speaking(node_id) is not None

    def unsent_bytes(self, node_id: str) -> int:
        """Return how much of what was sent still waits in this process; 0 without connection."""
        link = self._speaking(node_id)
        return link.unsent_bytes if link is not None else 0

    def _speaking(self, node_id: str) -> Link | None:
        link = self._current.get(node_id)
        return link if link is not None and not link.is_closed else None

    def _frame(self, message: Message) -> bytes:
        if self._last_frame is None or self._last_frame[0] is not message:
            payload = encode_message(message)
            assert len(payload) <= FRAME_BYTES_MAX, f"{type(message).__name__} is too long"
            self._last_frame = (message, frame_of(payload))
        return self._last_frame[1]

    # Connections come and go (``LinkOwner``)

    def opened(self, link: Link) -> None:
        if self._is_stopped:
            link.close()
            return
        self._links[link] = None
        strangers = [other for other in self._links if other.is_stranger and other.dialed is None]
        if len(strangers) > STRANGERS_MAX:
            self._refuse(strangers[0], "too_many", f"{STRANGERS_MAX} others say nothing either")
        link.queue(frame_of(encode_message(self._events.hello())))
        link.flush()

    def greeted(self, link: Link, hello: Hello) -> None:
        objection = self._objection(link, hello)
        if objection is not None:
            self._refuse(link, *objection)
            return
        older = self._current.pop(hello.node_id, None)
        if older is not None:
            older.close()
            self._tell_disconnected(hello.node_id, "superseded")
        link.admit(hello.node_id)
        if link.dialed is not None:
            self._dialers[link.dialed].greeted()
        self._current[hello.node_id] = link
        log_event(_log, "peer.connected", peer=hello.node_id, address=link.address)
        self._events.connected(hello)

    def received(self, link: Link, message: Message) -> None:
        assert link.peer_id is not None
        self._events.received(link.peer_id, message)

    def broken(self, link: Link, reason: str, detail: str) -> None:
        self._refusals.refused(reason, link.address, detail, now_s=self._loop.time())

    def ended(self, link: Link, exc: Exception | None) -> None:
        self._links.pop(link, None)
        if not self._links:
            self._settle()
        if link.dialed is not None:
            reason = None if link.peer_id else str(exc or "closed before its hello")
            self._dialers[link.dialed].lost(reason)
        if link.peer_id is not None and self._current.get(link.peer_id) is link:
            del self._current[link.peer_id]
            self._tell_disconnected(link.peer_id, str(exc) if exc is not None else "closed")

    def _tell_disconnected(self, node_id: str, reason: str) -> None:
        log_event(_log, "peer.disconnected", peer=node_id, reason=reason)
        self._events.disconnected(node_id)

    def _objection(self, link: Link, hello: Hello) -> tuple[str, str] | None:
        """Return why this peer may not speak: a reason and what it said."""
        if hello.protocol != PROTOCOL_VERSION:
            return "protocol", f"{hello.protocol}, not {PROTOCOL_VERSION}"
        if hello.cluster_id != self._cluster_id:
            return "cluster", hello.cluster_id
        if hello.node_id not in self._peers:
            return "unknown_member", hello.node_id
        if link.dialed not in (None, hello.node_id):
            return "other_member", f"{hello.node_id} where {link.dialed} was dialed"
        if link.dialed is None and hello.node_id < self._node_id:
            return "wrong_direction", f"{hello.node_id} is to be dialed by {self._node_id}"
        if not self._network.proves(link.transport, hello.node_id):
            return "not_proved", hello.node_id
        return None

    def _refuse(self, link: Link, reason: str, detail: str) -> None:
        link.close()
        self.broken(link, reason, detail)

    # Keeping them alive

    def _beat(self) -> None:
        """Say something on quiet connections, and end those that were quiet too long."""
        now_s, pause_s = self._loop.time(), self._timing.keepalive_ms / 2_000
        # After a stall of our own, what the peers said meanwhile may not have been read yet.
        is_fair = now_s - self._beaten_s < self._timing.connection_timeout_ms / 2_000
        self._beaten_s = now_s
        for link in tuple(self._links):
            if is_fair:
                self._end_if_silent(link, now_s)
            if not link.is_closed and now_s - link.sent_s >= pause_s:
                link.keep_alive()
        self._beat_timer = self._loop.call_later(pause_s, self._beat)

    def _end_if_silent(self, link: Link, now_s: float) -> None:
        timeout_s = self._timing.connection_timeout_ms / 1_000
        if link.is_stranger:
            if now_s - link.opened_s >= timeout_s:
                self._refuse(link, "silent", f"no complete hello in {timeout_s:g} s")
        elif not link.is_closed and now_s - link.heard_s >= timeout_s:
            log_event(_log, "peer.silent", peer=link.peer_id, timeout_s=timeout_s)
            link.close()

    # Parts

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def _link(self, dialed: str | None) -> Link:
        return Link(self, dialed=dialed)

    def _dialer(self, peer_id: str, address: str) -> Dialer:
        timing = self._timing
        plan = DialPlan(
            node_id=peer_id,
            address=address,
            pause_s=timing.reconnect_ms / 1_000,
            timeout_s=timing.connection_timeout_ms / 1_000,
        )
        return Dialer(
            plan,
            network=self._network,
            protocol=lambda: self._link(peer_id),
            has_connection=lambda: any(link.dialed == peer_id for link in self._links),
        )

    async def _all_ended_within(self, limit_s: float) -> None:
        """Return when all connections have ended, or after ``limit_s``."""
        if not self._links:
            return
        self._all_ended = self._loop.create_future()
        timer = self._loop.call_later(limit_s, self._settle)
        await self._all_ended
        timer.cancel()

    def _settle(self) -> None:
        if self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)
