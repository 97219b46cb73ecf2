"""The simulated network: what TCP promises, and everything it does not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_chaos.sim.network import Fabric, NodeNetwork, Weather
from seamfill_chaos.sim.process import Machine, Process
from seamfill_chaos.sim.stream import SOCKET_BYTES, Stream

ADDRESS = "n2:7000"


class Peer(asyncio.Protocol):
    """Remembers everything that it was told."""

    def __init__(self, loop: VirtualLoop, greeting: bytes = b"") -> None:
        self.loop = loop
        self.greeting = greeting
        self.got = bytearray()
        self.pieces: list[tuple[float, bytes]] = []
        self.lost: list[tuple[float, Exception | None]] = []
        self.is_full: list[bool] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Stream)
        self.transport = transport
        if self.greeting:
            transport.write(self.greeting)

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.pieces.append((self.loop.now, data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append((self.loop.now, exc))

    def pause_writing(self) -> None:
        self.is_full.append(True)

    def resume_writing(self) -> None:
        self.is_full.append(False)


@dataclass
class Net:
    """Two processes; ``n2`` listens, ``n1`` dials."""

    loop: VirtualLoop
    weather: Weather = field(default_factory=Weather)

    def __post_init__(self) -> None:
        self.fabric = Fabric(self.loop, random.Random(1), self.weather)
        self.machines = {name: Machine(self.loop, name) for name in ("n1", "n2")}
        self.near: list[Peer] = []
        self.far: list[Peer] = []
        self.failed: list[OSError] = []
        self.begin("n1")
        self.begin("n2")

    def begin(self, name: str) -> None:
        process = Process(self.loop, self.machines[name])
        setattr(self, name, process)
        if name == "n2":
            process.spawn(self._listen(self.fabric.network_of(process)))

    n1: Process = field(init=False)
    n2: Process = field(init=False)

    async def _listen(self, network: NodeNetwork) -> None:
        await network.listen(ADDRESS, self._remember(self.far, b"hello"))

    def _remember(self, peers: list[Peer], greeting: bytes) -> Callable[[], Peer]:
        def make() -> Peer:
            peers.append(Peer(self.loop, greeting))
            return peers[-1]

        return make

    async def _dial(self, network: NodeNetwork) -> None:
        try:
            await network.dial("n2", ADDRESS, self._remember(self.near, b"hi"))
        except OSError as exc:
            self.failed.append(exc)

    def dial(self) -> None:
        self.n1.spawn(self._dial(self.fabric.network_of(self.n1)))

    def run(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)

    def connected(self) -> tuple[Peer, Peer]:
        self.dial()
        self.run(0.1)
        return self.near[-1], self.far[-1]

    def write(self, peer: Peer, data: bytes) -> None:
        peer.transport.process.call_soon(peer.transport.write, data)


@pytest.fixture
def net(loop: VirtualLoop) -> Net:
    return Net(loop)


def test_both_ends_read_what_the_other_wrote(net: Net) -> None:
    near, far = net.connected()
    assert (bytes(near.got), bytes(far.got)) == (b"hello", b"hi")
    assert net.fabric.network_of(net.n1).proves(near.transport, "n2")
    assert not net.fabric.network_of(net.n1).proves(near.transport, "n3")


def test_bytes_arrive_in_order_however_long_each_takes(loop: VirtualLoop) -> None:
    weather = Weather(
        delay_min_s=0, delay_max_s=1, spike_probability=0.3, spike_max_s=2, split_probability=0.5
    )
    net = Net(loop, weather)
    net.dial()
    net.run(20)
    words = [f"{number:04}".encode() for number in range(500)]
    for number, word in enumerate(words):
        loop.call_at(loop.now + number / 100, net.write, net.near[0], word)
    net.run(20)
    assert bytes(net.far[0].got) == b"hi" + b"".join(words)
    assert len(net.far[0].pieces) > 20


def test_nobody_listening_is_refused(loop: VirtualLoop, net: Net) -> None:
    net.run(0.1)
    net.n2.end()
    net.dial()
    net.run(0.1)
    assert [type(exc) for exc in net.failed] == [ConnectionRefusedError]


def test_refused_dials_are_refused_for_a_while_only(net: Net) -> None:
    net.run(0.1)
    net.fabric.refuse("n2", 1.0)
    net.dial()
    net.run(1.1)
    assert [type(exc) for exc in net.failed] == [ConnectionRefusedError]
    assert net.connected()


def test_two_listeners_can_not_have_one_address(net: Net) -> None:
    net.run(0.1)
    network = net.fabric.network_of(net.n1)

    async def listen_too() -> None:
        try:
            await network.listen(ADDRESS, asyncio.Protocol)
        except OSError as exc:
            net.failed.append(exc)

    net.n1.spawn(listen_too())
    net.run(0.1)
    assert "in use" in str(net.failed[0])


def test_a_one_way_cut_swallows_one_direction_and_gives_it_back(net: Net) -> None:
    near, far = net.connected()
    net.fabric.cut("n1", "n2")
    net.write(near, b" lost?")
    net.write(far, b" there")
    net.run(30)
    assert (bytes(near.got), bytes(far.got)) == (b"hello there", b"hi")
    assert not near.lost and not far.lost
    net.fabric.heal("n1", "n2")
    net.run(1)
    assert bytes(far.got) == b"hi lost?"


def test_a_dial_into_a_cut_succeeds_when_it_heals_soon(net: Net) -> None:
    net.run(0.1)
    net.fabric.cut("n2", "n1")
    net.dial()
    net.run(5)
    assert net.far and not net.near
    net.fabric.heal("n2", "n1")
    net.run(2)
    assert bytes(net.near[0].got) == b"hello"


def test_a_dial_into_a_cut_times_out(net: Net) -> None:
    net.run(0.1)
    net.fabric.cut("n1", "n2")
    net.dial()
    net.run(60)
    assert [type(exc) for exc in net.failed] == [TimeoutError]


def test_a_reset_is_heard_at_both_ends(net: Net) -> None:
    near, far = net.connected()
    assert net.fabric.reset("n1", "n2") == 1
    net.run(0.1)
    for peer in (near, far):
        assert [type(exc) for _, exc in peer.lost] == [ConnectionResetError]
    net.write(near, b"nothing")
    net.run(0.1)
    assert bytes(far.got) == b"hi"


def test_late_bytes_of_a_lost_connection_arrive_after_those_of_a_newer_one(net: Net) -> None:
    near, far = net.connected()
    net.n1.call_soon(near.transport.write, b" late")
    net.loop.call_outside(0, lambda: net.fabric.reset("n1", "n2", late_s=1.0))
    near_again, far_again = net.connected()
    assert near.lost and not far.lost
    assert bytes(far_again.got) == b"hi"
    net.run(2)
    assert far.pieces[-1][1] == b" late"
    assert far.pieces[-1][0] > far_again.pieces[0][0]
    assert net.fabric.superseded == 1
    assert near_again.lost == []


def test_closing_delivers_what_was_written_first(net: Net) -> None:
    near, far = net.connected()
    net.write(near, b" bye")
    net.n1.call_soon(near.transport.close)
    net.run(0.1)
    assert bytes(far.got) == b"hi bye"
    assert [exc for _, exc in near.lost] == [None]
    assert [exc for _, exc in far.lost] == [None]


def test_a_killed_process_resets_its_connections(net: Net) -> None:
    near, far = net.connected()
    net.n2.end()
    net.run(0.1)
    assert [type(exc) for _, exc in near.lost] == [ConnectionResetError]
    assert far.lost == []


def test_a_machine_without_power_says_nothing_until_it_is_back(net: Net) -> None:
    near, _ = net.connected()
    net.machines["n2"].has_power = False
    net.n2.end()
    net.write(near, b"anybody?")
    net.run(10)
    assert near.lost == []
    net.machines["n2"].has_power = True
    net.begin("n2")
    net.write(near, b"anybody now?")
    net.run(0.1)
    assert [type(exc) for _, exc in near.lost] == [ConnectionResetError]


def test_a_paused_reader_fills_the_writers_buffer(net: Net) -> None:
    near, far = net.connected()
    net.n2.pause()
    for _ in range(40):
        net.write(near, bytes(10_000))
    net.run(1)
    unsent = near.transport.get_write_buffer_size()
    assert unsent == 400_000 - SOCKET_BYTES
    assert near.is_full == [True]
    net.n2.resume()
    net.run(1)
    assert near.transport.get_write_buffer_size() == 0
    assert near.is_full == [True, False]
    assert len(far.got) == 400_002


def test_a_slow_way_takes_its_time(net: Net) -> None:
    near, far = net.connected()
    net.fabric.way("n1", "n2").slow_down(100_000, lag_s=0.0)
    for _ in range(40):
        net.write(near, bytes(10_000))
    net.run(1)
    assert 90_000 <= len(far.got) <= 110_000
    assert near.transport.get_write_buffer_size() > 0
    net.run(4)
    assert len(far.got) == 400_002


def test_what_queued_up_on_a_slow_way_arrives_when_it_is_fast_again(net: Net) -> None:
    near, far = net.connected()
    way = net.fabric.way("n1", "n2")
    way.slow_down(1_000, lag_s=0.2)
    for number in range(40):
        net.write(near, b"%04d" % number * 250)
    net.run(2)
    assert len(far.got) < 4_000
    way.speed_up()
    net.write(near, b"last")
    net.run(0.1)
    assert far.got == b"hi" + b"".join(b"%04d" % n * 250 for n in range(40)) + b"last"


def test_a_reader_that_wants_nothing_gets_nothing(net: Net) -> None:
    near, far = net.connected()
    net.n2.call_soon(far.transport.pause_reading)
    net.run(0.1)
    net.write(near, b" and")
    net.n1.call_soon(near.transport.close)
    net.run(0.1)
    assert (bytes(far.got), far.lost) == (b"hi", [])
    net.n2.call_soon(far.transport.resume_reading)
    net.run(0.1)
    assert bytes(far.got) == b"hi and"
    assert [exc for _, exc in far.lost] == [None]


def test_a_ghost_connects_the_acceptor_alone(loop: VirtualLoop) -> None:
    net = Net(loop, Weather(ghost_probability=1.0))
    net.dial()
    net.run(0.1)
    assert len(net.far) == 1 and not net.near
    assert [type(exc) for exc in net.failed] == [TimeoutError]
    assert net.far[0].lost


def test_a_dialer_that_gave_up_leaves_a_connection_behind(net: Net) -> None:
    net.run(0.1)
    net.fabric.cut("n2", "n1")

    async def impatient() -> None:
        try:
            async with asyncio.timeout(0.5):
                await net._dial(net.fabric.network_of(net.n1))
        except TimeoutError:
            net.near.clear()

    net.n1.spawn(impatient())
    net.run(1)
    assert len(net.far) == 1 and not net.far[0].lost
    net.fabric.heal("n2", "n1")
    net.run(2)
    assert net.far[0].lost and not net.near
