"""One simulated connection: two ends, each an asyncio transport, and the ways between them.

Owns the order and the lateness of bytes, flow control, and the end of a connection. Must not know
who connects to whom, or why.

An end writes into its *way* to the other node. What it wrote is *unsent* until the other process
has read it; a part of that (``SOCKET_BYTES``) lies in the kernels, the rest in the transport's own
buffer, which is what ``get_write_buffer_size`` tells: so a peer that is paused, slow or cut off
looks like one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_chaos.sim.process import Process

if TYPE_CHECKING:
    from seamfill_chaos.sim.network import Weather

__all__ = ["SOCKET_BYTES", "Stream", "Way"]

SOCKET_BYTES: Final = 128 << 10
"""What two kernels take before the writer notices that nobody reads."""
_HIGH_BYTES: Final = 64 << 10


class Way:
    """The road from one node to another, shared by all their connections."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, weather: Weather) -> None:
        self.loop = loop
        self.random = rng.random
        self.weather = weather
        self.is_cut = False
        self.lag_s = 0.0
        """Added to every delay."""
        self.bytes_per_s: float | None = None
        self.swallowed = 0
        """Deliveries that a cut held up."""
        self._free_s = 0.0
        self._held_up: list[Stream] = []
        self._streams: dict[Stream, None] = {}
        """All that have something on this way, in the order in which they began."""

    def draw_delay(self) -> float:
        """Return how long the next few bytes take."""
        weather = self.weather
        delay = weather.delay_min_s + self.random() * (weather.delay_max_s - weather.delay_min_s)
        if weather.spike_probability and self.random() < weather.spike_probability:
            delay += self.random() * weather.spike_max_s
        return delay + self.lag_s

    def arrival(self, size: int) -> float:
        """Return when ``size`` bytes that are written now get there."""
        if self.bytes_per_s is None:
            return self.loop.now + self.draw_delay()
        self._free_s = max(self._free_s, self.loop.now) + size / self.bytes_per_s
        return self._free_s + self.draw_delay()

    def slow_down(self, bytes_per_s: float, lag_s: float) -> None:
        """Carry no more than that, and everything so much later."""
        self.bytes_per_s, self.lag_s = bytes_per_s, lag_s

    def speed_up(self) -> None:
        """Carry everything at once again, also what had queued up."""
        self.bytes_per_s, self.lag_s, self._free_s = None, 0.0, 0.0
        for stream in self._streams:
            stream.hurry()

    def joined(self, stream: Stream) -> None:
        """Remember a connection while it lasts."""
        self._streams = {s: None for s in self._streams if not s.is_over} | {stream: None}

    def cut(self) -> None:
        self.is_cut = True

    def heal(self, after_s: float) -> None:
        """Be open again; what was held up arrives ``after_s`` later."""
        self.is_cut = False
        held_up, self._held_up = self._held_up, []
        for stream in held_up:
            stream.arrive_at(self.loop.now + after_s)

    def hold_up(self, stream: Stream) -> None:
        """Remember a connection whose bytes got lost in the cut."""
        self.swallowed += 1
        self._held_up.append(stream)


_FIN: Final = b"FIN"
_RST: Final = b"RST"
# Compared by identity: no bytes that anybody writes are these very objects.


class Stream(asyncio.Transport):
    """One end of a connection. ``peer`` is the other one."""

    peer: Stream

    def __init__(self, loop: VirtualLoop, process: Process, way: Way) -> None:
        super().__init__()
        self.process = process
        self.is_dead = False
        """This end has forgotten the connection."""
        self._loop = loop
        self._way = way
        self._protocol: asyncio.Protocol | None = None
        self._road: deque[tuple[float, bytes]] = deque()
        """What is on its way to the peer, with arrival times, in order."""
        self._last_arrival_s = 0.0
        self._is_travelling = False
        self._unsent = 0
        self._is_closing = False
        self._reads = True
        self._unread: list[bytes] = []
        self._end_is_unread = False
        self._high, self._low = _HIGH_BYTES, _HIGH_BYTES // 4
        self._is_full = False
        process.at_end(self._process_ended)
        way.joined(self)

    @property
    def is_over(self) -> bool:
        """Nothing of it is on its way any more, and nothing ever will be."""
        return self.is_dead and not self._road

    def join(self, peer: Stream) -> None:
        """Become the other end of ``peer``."""
        self.peer, peer.peer = peer, self

    def open(self, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Tell this end's owner that it is connected; in its process."""
        if self.is_dead:
            return
        protocol = make_protocol()
        self._protocol = protocol
        protocol.connection_made(self)
        if self._unread:
            self.process.call_soon(self._read_on)

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self.process.has_ended or not data:
            return
        if self.peer.is_dead and self.peer.process.has_ended:
            self._knock_at_a_dead_door()
            return
        self._unsent += len(data)
        self._send(data if type(data) is bytes else bytes(data))
        if self._unsent > SOCKET_BYTES + self._high and not self._is_full:
            self._is_full = True
            if self._protocol is not None:
                self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return max(0, self._unsent - SOCKET_BYTES)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._reads and not self._is_closing

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        if not self._reads:
            self._reads = True
            self.process.call_soon(self._read_on)

    def close(self) -> None:
        """Send what was written, then end; read nothing more."""
        if self._is_closing or self.process.has_ended:
            return
        self._is_closing = True
        self._send(_FIN)
        if self._unsent <= SOCKET_BYTES:
            self._lose(None)

    def abort(self) -> None:
        """End now; only what the kernel has already is still delivered."""
        if self.is_dead or self.process.has_ended:
            return
        if not self._is_closing:
            self._is_closing = True
            self._forget_unwritten()
            self._send(_FIN)
        self._lose(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer.process.name if name == "peername" else default

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    # On the way

    def _send(self, data: bytes) -> None:
        arrival = self._way.arrival(len(data))
        if arrival < self._last_arrival_s:
            arrival = self._last_arrival_s
        self._last_arrival_s = arrival
        self._road.append((arrival, data))
        if not self._is_travelling:
            self.arrive_at(arrival)

    def hurry(self) -> None:
        """Let what is on its way arrive as soon as it can now."""
        if not self._road:
            self._last_arrival_s = self._loop.now
            return
        soon_s = self._loop.now + self._way.draw_delay()
        self._road = deque((min(arrival_s, soon_s), data) for arrival_s, data in self._road)
        self._last_arrival_s = self._road[-1][0]
        self.arrive_at(self._road[0][0])

    def arrive_at(self, time_s: float) -> None:
        """Let the peer read, at that time, what has arrived by then."""
        self._is_travelling = True
        if time_s > self._last_arrival_s:
            self._last_arrival_s = time_s
        self._loop.call_at(time_s, self._arrive, context=self.peer.process.context)

    def _arrive(self) -> None:
        """In the peer's process: hand over what has arrived."""
        self._is_travelling = False
        if self._way.is_cut:
            self._is_travelling = True  # heal() lets it go on
            self._way.hold_up(self)
            return
        road, now = self._road, self._loop.now
        pieces: list[bytes] = []
        end: bytes | None = None
        while road and road[0][0] <= now and end is None:
            data = road.popleft()[1]
            if data is _FIN or data is _RST:
                end = data
            else:
                pieces.append(data)
        if road and end is None:
            self.arrive_at(road[0][0])
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._unsent -= len(data)
            if self._is_full or self._is_closing:
                self._was_taken()
            self.peer._read(data)
        if end is not None:
            self.peer._hear_the_end(ConnectionResetError() if end is _RST else None)

    def _was_taken(self) -> None:
        """There is room again in the kernels: tell who waits for it."""
        if self._is_full and self._unsent <= SOCKET_BYTES + self._low:
            self._is_full = False
            if self._protocol is not None and not self.is_dead:
                self.process.call_soon(self._protocol.resume_writing)
        if self._is_closing and not self.is_dead and self._unsent <= SOCKET_BYTES:
            self.process.call_soon(self._lose, None)

    # Reading

    def _read(self, data: bytes) -> None:
        if self._is_closing or self.is_dead:
            return
        if not self._reads or self._unread or self._protocol is None:
            self._unread.append(data)
            return
        split = self._way.weather.split_probability
        if split and self._way.random() < split:
            at = int(self._way.random() * len(data))
            if at:
                self._protocol.data_received(data[:at])
                self._unread.append(data[at:])
                self._read_on()
                return
        self._protocol.data_received(data)

    def _read_on(self) -> None:
        """Hand over what was not wanted before."""
        while self._unread and self._reads and not self._is_closing and self._protocol:
            data = self._unread.pop(0)
            self._protocol.data_received(data)
        if not self._unread and self._end_is_unread:
            self._end_is_unread = False
            self._hear_the_end(None)

    # The end

    def _hear_the_end(self, reason: Exception | None) -> None:
        """The peer's FIN or RST has arrived."""
        if self.is_dead or self.process.has_ended:
            return
        if reason is None and self._unread:
            self._end_is_unread = True
            return
        if reason is None and self._protocol is not None and not self._is_closing:
            self._protocol.eof_received()
        if not self.is_closing():
            self._is_closing = True
            self._send(_FIN)
        self._lose(reason)

    def reset_by_network(self, late_s: float) -> None:
        """Let this end lose the connection at once, and the peer when our last bytes arrive.

        What was under way arrives up to ``late_s`` later, still in order.
        """
        if self.is_dead:
            return
        self._is_closing = True
        if late_s:
            self._road = deque((arrival + late_s, data) for arrival, data in self._road)
            self._last_arrival_s = max(self._last_arrival_s, self._loop.now) + late_s
        self._send(_RST)
        self.process.call_soon(self._lose, ConnectionResetError())

    def _lose(self, reason: Exception | None) -> None:
        if self.is_dead:
            return
        self.is_dead = True
        self._is_closing = True
        if self._protocol is not None and not self.process.has_ended:
            self.process.call_soon(self._protocol.connection_lost, reason)

    def _process_ended(self) -> None:
        """The kernel closes a dead process's sockets, unless the whole machine is gone."""
        if self.is_dead:
            return
        self.is_dead = True
        self._is_closing = True
        if self.process.machine.has_power:
            self._forget_unwritten()
            self._send(_RST)
        else:
            self._road.clear()

    def _forget_unwritten(self) -> None:
        """Drop what only the transport's own buffer held, in the middle of a frame if need be."""
        room = SOCKET_BYTES
        kept: deque[tuple[float, bytes]] = deque()
        for arrival, data in self._road:
            kept.append((arrival, data if len(data) <= room else data[:room]))
            room -= len(data)
            if room <= 0:
                break
        self._road = kept

    def _knock_at_a_dead_door(self) -> None:
        """Write to a machine that lost its power: it answers with a reset once it is up again."""
        # Not ideal: a machine that stays down swallows everything, and so does this one for ever.
        if self.peer.process.machine.has_power and not self._way.is_cut:
            self._is_closing = True
            context = self.process.context
            delay = self._way.draw_delay()
            self._loop.call_later(delay, self._lose, ConnectionResetError(), context=context)
