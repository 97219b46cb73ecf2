"""Byte streams between simulated processes, and everything that can go wrong with them.

Owns the links between nodes (delay, bandwidth, cuts), dialing and resets. ``stream.py`` has the
connections themselves. Must not know what the bytes mean. ``NodeNetwork`` satisfies
``seamfill_coordinator.raft.network.Network``.

What TCP promises is kept whatever happens: the bytes of one direction of one connection arrive in
order and without a hole, or the connection ends. What TCP does not promise is withheld: when they
arrive, in which pieces, in which order relative to another connection's, and whether the two ends
agree that there is a connection.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_chaos.sim.process import Process, current_process
from seamfill_chaos.sim.stream import Stream, Way

__all__ = ["Fabric", "NodeNetwork", "Weather"]

SYN_RETRY_S: Final = 1.0
DIAL_LIMIT_S: Final = 20.0
HEAL_MAX_S: Final = 0.4
"""TCP sends again what a healed cut had swallowed within its retransmission timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the network is like all the time, in the absence of faults."""

    delay_min_s: float = 0.0002
    delay_max_s: float = 0.001
    spike_probability: float = 0.0
    """How often a write takes up to ``spike_max_s`` longer."""
    spike_max_s: float = 0.05
    split_probability: float = 0.0
    """How often a delivery is cut in two, anywhere."""
    ghost_probability: float = 0.0
    """How often a dial fails at the dialer after the other side has accepted it."""


@dataclass(slots=True, eq=False)
class _Listening:
    process: Process
    accept: Callable[[], asyncio.Protocol]
    is_open: bool = True

    def close(self) -> None:
        self.is_open = False


class Fabric:
    """The network of one simulated world."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, weather: Weather) -> None:
        self.loop = loop
        self.rng = rng
        self.weather = weather
        self.superseded = 0
        """Connections that were accepted while an older one of the same two nodes stood."""
        self._ways: dict[tuple[str, str], Way] = {}
        self._listening: dict[str, _Listening] = {}
        self._streams: dict[tuple[str, str], list[Stream]] = {}
        self._refused_until_s: dict[str, float] = {}

    @property
    def swallowed(self) -> int:
        """How often bytes that had been sent were lost in a cut, and came later."""
        return sum(way.swallowed for way in self._ways.values())

    def network_of(self, process: Process) -> NodeNetwork:
        """Return the network as one process sees it; its connections end when it does."""
        return NodeNetwork(self, process)

    def way(self, source: str, target: str) -> Way:
        """Return the one-way link from one node to another."""
        way = self._ways.get((source, target))
        if way is None:
            way = self._ways[source, target] = Way(self.loop, self.rng, self.weather)
        return way

    def streams_between(self, one: str, other: str) -> list[Stream]:
        """Return the ends, on ``one``'s side, of its connections with ``other``."""
        streams = [s for s in self._streams.get((one, other), ()) if not s.is_dead]
        self._streams[one, other] = streams
        return streams

    # Faults

    def cut(self, source: str, target: str) -> None:
        """Swallow every byte from now on, in this direction alone; connections stand."""
        self.way(source, target).cut()

    def heal(self, source: str, target: str) -> None:
        """Let what was swallowed arrive a little later, as TCP sends it again."""
        self.way(source, target).heal(self.rng.uniform(0.001, HEAL_MAX_S))

    def reset(self, one: str, other: str, *, late_s: float = 0.0) -> int:
        """Reset all connections of two nodes; returns how many.

        With ``late_s`` only ``one`` hears of it at once: what it had sent before arrives up to so
        much later, while a newer connection may already speak.
        """
        streams = self.streams_between(one, other)
        for stream in streams:
            stream.reset_by_network(late_s)
        return len(streams)

    def refuse(self, node: str, seconds: float) -> None:
        """Refuse all dials to a node for so long."""
        self._refused_until_s[node] = self.loop.now + seconds

    # Used by NodeNetwork

    def listen(self, address: str, listening: _Listening) -> None:
        holder = self._listening.get(address)
        if holder is not None and holder.is_open and not holder.process.has_ended:
            raise OSError(errno.EADDRINUSE, f"{address} is in use by {holder.process.name}")
        self._listening[address] = listening

    def dial(
        self, dialer: Process, address: str, protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Future[None]:
        done: asyncio.Future[None] = self.loop.create_future()
        give_up_s = self.loop.now + DIAL_LIMIT_S
        dial = _Dial(self, dialer, address, protocol, done, give_up_s)
        dial.send()
        return done

    def listener_at(self, address: str) -> _Listening | None:
        """Return who accepts connections there now, if anybody does."""
        listening = self._listening.get(address)
        if listening is None or not listening.is_open or listening.process.has_ended:
            return None
        if self._refused_until_s.get(listening.process.name, 0.0) > self.loop.now:
            return None
        return listening

    def holder_of(self, address: str) -> str | None:
        """Return the node that listened there last."""
        listening = self._listening.get(address)
        return None if listening is None else listening.process.name

    def connect(self, dialer: Process, acceptor: Process) -> tuple[Stream, Stream]:
        """Return the two ends of a new connection."""
        near = Stream(self.loop, dialer, self.way(dialer.name, acceptor.name))
        far = Stream(self.loop, acceptor, self.way(acceptor.name, dialer.name))
        near.join(far)
        if self.streams_between(acceptor.name, dialer.name):
            self.superseded += 1
        for stream in (near, far):
            key = (stream.process.name, stream.peer.process.name)
            self.streams_between(*key).append(stream)
        return near, far


class _Dial:
    """One attempt to connect: a word there, a word back, and both ends are told."""

    def __init__(
        self,
        fabric: Fabric,
        dialer: Process,
        address: str,
        protocol: Callable[[], asyncio.Protocol],
        done: asyncio.Future[None],
        give_up_s: float,
    ) -> None:
        self._fabric = fabric
        self._dialer = dialer
        self._address = address
        self._protocol = protocol
        self._done = done
        self._give_up_s = give_up_s

    def send(self) -> None:
        """Send the first word, or try again later while nothing gets through."""
        fabric = self._fabric
        target = fabric.holder_of(self._address)
        if target is None:
            self._later(fabric.weather.delay_max_s, self._refuse)
            return
        way = fabric.way(self._dialer.name, target)
        if way.is_cut:
            self._try_again(self.send)
        else:
            fabric.loop.call_outside(way.draw_delay(), self._arrive)

    def _arrive(self) -> None:
        fabric = self._fabric
        target = fabric.holder_of(self._address)
        assert target is not None
        listening = fabric.listener_at(self._address)
        if self._dialer.has_ended:
            return
        if listening is None:
            self._answer(target, self._refuse)
            return
        near, far = fabric.connect(self._dialer, listening.process)
        listening.process.call_soon(far.open, listening.accept)
        if fabric.rng.random() < fabric.weather.ghost_probability:
            self._answer(target, self._lose, near)
        else:
            self._answer(target, self._connected, near)

    def _answer(self, target: str, tell: Callable[..., None], *args: object) -> None:
        way = self._fabric.way(target, self._dialer.name)
        if way.is_cut:
            self._try_again(self._answer, target, tell, *args)
        else:
            self._later(way.draw_delay(), tell, *args)

    def _try_again(self, step: Callable[..., None], *args: object) -> None:
        if self._fabric.loop.now + SYN_RETRY_S > self._give_up_s:
            self._later(0.0, self._time_out)
        else:
            self._fabric.loop.call_outside(SYN_RETRY_S, step, *args)

    def _later(self, delay_s: float, tell: Callable[..., None], *args: object) -> None:
        context = self._dialer.context
        self._fabric.loop.call_later(delay_s, tell, *args, context=context)

    def _connected(self, near: Stream) -> None:
        if self._done.done():
            near.open(asyncio.Protocol)
            near.abort()  # nobody waits for it any more
            return
        near.open(self._protocol)
        self._done.set_result(None)

    def _lose(self, near: Stream) -> None:
        near.open(asyncio.Protocol)
        near.abort()
        self._time_out()

    def _refuse(self) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionRefusedError(errno.ECONNREFUSED, self._address))

    def _time_out(self) -> None:
        if not self._done.done():
            self._done.set_exception(TimeoutError(errno.ETIMEDOUT, self._address))


class NodeNetwork:
    """The fabric as one process sees it."""

    def __init__(self, fabric: Fabric, process: Process) -> None:
        self._fabric = fabric
        self._process = process

    async def listen(self, address: str, accept: Callable[[], asyncio.Protocol]) -> _Listening:
        listening = _Listening(self._process, accept)
        self._fabric.listen(address, listening)
        return listening

    async def dial(
        self, node_id: str, address: str, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        assert current_process() is self._process
        await self._fabric.dial(self._process, address, protocol)

    def proves(self, transport: asyncio.BaseTransport, node_id: str) -> bool:
        assert isinstance(transport, Stream)
        return transport.peer.process.name == node_id
