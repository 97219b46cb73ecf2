"""One connection between two members: frames in, frames out, and its end.

Owns the reading and writing of one transport. Must not know who may speak: ``links.py`` decides,
through ``LinkOwner``.

Invariants: after ``close`` nothing is delivered or written any more; frames are delivered in order;
one read never keeps the loop for more than ``FRAMES_PER_TURN`` frames, the rest follows after
others had their turn, and meanwhile nothing more is read.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

from seamfill_coordinator.raft.frames import KEEPALIVE, FrameReader, FrameTooLong
from seamfill_coordinator.raft.messages import BadMessage, Hello, Message, decode_message

__all__ = [
    "FRAMES_PER_TURN",
    "FRAME_BYTES_MAX",
    "HELLO_BYTES_MAX",
    "UNSENT_BYTES_MAX",
    "Link",
    "LinkOwner",
]

HELLO_BYTES_MAX: Final = 16 * 1024
"""Of the first frame: whoever has not said who it is gets no more memory than this."""
FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
UNSENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""A peer that reads too slowly for so long is cut off; it is sent what it lacks when it is back."""
FRAMES_PER_TURN: Final = 1_024


class LinkOwner(Protocol):
    """Who decides about the links; every call may close the link."""

    def opened(self, link: Link) -> None:
        """The connection stands; nothing was said yet."""
        ...

    def greeted(self, link: Link, hello: Hello) -> None:
        """The other end said who it is, as its first message. Called once."""
        ...

    def received(self, link: Link, message: Message) -> None:
        """A message came after the greeting; never a ``Hello``."""
        ...

    def broken(self, link: Link, reason: str, detail: str) -> None:
        """The other end broke the protocol; the link is closed already."""
        ...

    def ended(self, link: Link, exc: Exception | None) -> None:
        """The connection is gone. Called once for every link that was opened."""
        ...


class Link(asyncio.Protocol):
    """One connection; ``dialed`` is the member that was called, None when we were called."""

    def __init__(self, owner: LinkOwner, *, dialed: str | None) -> None:
        self.dialed = dialed
        self.peer_id: str | None = None
        """Who it is, once it has proved it (``admit``)."""
        self.is_closed = False
        self.opened_s = self.heard_s = self.sent_s = 0.0
        """When, by the loop's clock, it was opened, last heard and last written to."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(limit=HELLO_BYTES_MAX)
        self._was_greeted = False
        self._is_behind = False
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._is_congested = False
        """Whether the transport's buffer is long enough to be worth asking for."""

    # What the owner asks for

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None, "not opened"
        return self._transport

    @property
    def is_stranger(self) -> bool:
        """Open, and nobody knows yet who it is."""
        return not self.is_closed and self.peer_id is None

    @property
    def address(self) -> str:
        """The other end's address, for people."""
        name = self.transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)

    @property
    def unsent_bytes(self) -> int:
        """Queued here, or written and still waiting for the socket."""
        if self.is_closed:
            return 0
        return self._queued_bytes + self.transport.get_write_buffer_size()

    def admit(self, peer_id: str) -> None:
        """The other end is this member: from now on it may send long frames."""
        self.peer_id = peer_id
        self._reader.limit = FRAME_BYTES_MAX

    def queue(self, frame: bytes) -> None:
        """Have ``frame`` written with the next ``flush``; the link is closed beyond the cap."""
        if self.is_closed:
            return
        self._queued.append(frame)
        self._queued_bytes += len(frame)
        unsent = self._queued_bytes
        if self._is_congested:
            unsent += self.transport.get_write_buffer_size()
        if unsent > UNSENT_BYTES_MAX:
            self._break("slow", f"{unsent} bytes are unsent")

    def flush(self) -> None:
        """Write what is queued, in one piece."""
        if self.is_closed or not self._queued:
            return
        self.sent_s = self._loop.time()
        frames, self._queued, self._queued_bytes = self._queued, [], 0
        self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def keep_alive(self) -> None:
        self.queue(KEEPALIVE)
        self.flush()

    def close(self) -> None:
        """End the connection at once; nothing that it still brings is delivered."""
        self._silence()
        self.transport.abort()

    def hang_up(self) -> None:
        """End the connection after what was queued is written."""
        self.flush()
        self._silence()
        self.transport.close()

    def _silence(self) -> None:
        self.is_closed = True
        self._queued, self._queued_bytes = [], 0
        self._reader = FrameReader(limit=0)  # what was read already is forgotten

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.opened_s = self.heard_s = self.sent_s = self._loop.time()
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        self.heard_s = self._loop.time()
        self._reader.feed(data)
        if not self._is_behind:
            self._deliver()

    def pause_writing(self) -> None:
        self._is_congested = True

    def resume_writing(self) -> None:
        self._is_congested = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._silence()
        self._owner.ended(self, exc)

    # Frames

    def _deliver(self) -> None:
        try:
            for _ in range(FRAMES_PER_TURN):
                payload = self._reader.next()
                if payload is None:
                    break
                if payload or not self._was_greeted:
                    self._take(decode_message(payload))
            else:
                self._fall_behind()
                return
        except FrameTooLong as exc:
            self._break("frame_too_long", str(exc))
        except BadMessage as exc:
            self._break("bad_message", str(exc))
        if self._is_behind and not self.is_closed:
            self._is_behind = False
            self.transport.resume_reading()

    def _fall_behind(self) -> None:
        if not self._is_behind and not self.is_closed:
            self._is_behind = True
            self.transport.pause_reading()
        self._loop.call_soon(self._deliver)

    def _take(self, message: Message) -> None:
        if self._was_greeted:
            if not isinstance(message, Hello):
                self._owner.received(self, message)
                return
        elif isinstance(message, Hello):
            self._was_greeted = True
            self._owner.greeted(self, message)
            return
        self._break("out_of_order", f"{type(message).__name__} where it may not come")

    def _break(self, reason: str, detail: str) -> None:
        self.close()
        self._owner.broken(self, reason, detail)
