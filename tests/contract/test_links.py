"""Links over real TCP: who may speak, in which order, and what strangers can not do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import socket
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from contract.busy_machines import excused
from contract.cluster_rig import until
from contract.links_rig import (
    FAST,
    Addresses,
    Node,
    both_connected,
    hello_of,
    refusals,
    running,
    stranger,
)
from contract.plain_network import PlainNetwork
from seamfill_coordinator.raft.frames import frame_of
from seamfill_coordinator.raft.link import FRAME_BYTES_MAX, FRAMES_PER_TURN, HELLO_BYTES_MAX
from seamfill_coordinator.raft.links import STRANGERS_MAX
from seamfill_coordinator.raft.messages import (
    Append,
    Hello,
    HigherTerm,
    SnapshotPart,
    Vote,
    encode_message,
)
from seamfill_coordinator.raft.network import split_address
from seamfill_coordinator.raft.refusals import REFUSALS_PER_WINDOW

GIBIBYTE = 1 << 30


def pair() -> tuple[Node, Node]:
    addresses = Addresses("n1", "n2")
    return addresses.node("n1"), addresses.node("n2")


# Members among themselves


async def test_messages_pass_in_both_directions_in_order() -> None:
    n1, n2 = pair()
    async with running(n1, n2):
        await both_connected(n1, n2)
        there, back = [Vote(term=t) for t in range(50)], [HigherTerm(term=t) for t in range(50)]
        assert all(n1.links.send("n2", message) for message in there)
        assert all(n2.links.send("n1", message) for message in back)
        n1.links.flush()
        n2.links.flush()
        await until(lambda: len(n1.messages) == len(n2.messages) == 50)
    assert n2.messages == [("n1", message) for message in there]
    assert n1.messages == [("n2", message) for message in back]
    assert n1.events == [("connected", "n2")]
    assert n2.events == [("connected", "n1")]


async def test_three_members_all_connect_whatever_the_order_of_their_start() -> None:
    addresses = Addresses("n1", "n2", "n3")
    nodes = [addresses.node(node_id) for node_id in ("n3", "n1", "n2")]
    async with running(*nodes):
        await until(lambda: all(len(node.events) == 2 for node in nodes))
        assert all(not node.links.is_connected(node.node_id) for node in nodes)


async def test_nothing_is_sent_to_a_peer_without_connection() -> None:
    n1, n2 = pair()
    async with running(n2):
        assert not n2.links.send("n1", Vote(term=1))
        assert not n2.links.send("nobody", Vote(term=1))
        assert n2.links.unsent_bytes("n1") == 0
        async with running(n1):
            await both_connected(n1, n2)
            n2.links.send("n1", Vote(term=2))
            n2.links.flush()
            await until(lambda: bool(n1.messages))
    assert n1.messages == [("n2", Vote(term=2))]


async def test_a_restarted_member_is_connected_again_and_its_end_is_told_once() -> None:
    n1, n2 = pair()
    async with running(n2):
        async with running(n1):
            await both_connected(n1, n2)
        await until(lambda: ("disconnected", "n1") in n2.events)
        assert not n2.links.is_connected("n1")
        again = n1.restarted()
        async with running(again):
            await both_connected(again, n2)
    assert n2.events[:3] == [("connected", "n1"), ("disconnected", "n1"), ("connected", "n1")]


async def test_stopping_delivers_what_was_sent_before_and_tells_nothing() -> None:
    n1, n2 = pair()
    async with running(n1):
        async with running(n2):
            await both_connected(n1, n2)
            n2.links.send("n1", Vote(term=7))
        await until(lambda: ("disconnected", "n2") in n1.events)
    assert n1.messages == [("n2", Vote(term=7))]
    assert n2.events == [("connected", "n1")]


async def test_an_address_that_is_taken_is_an_os_error() -> None:
    n1, _ = pair()
    async with running(n1):
        with pytest.raises(OSError, match="in use"):
            await n1.restarted().links.start()


async def test_frames_of_one_turn_leave_in_one_write_and_are_encoded_once() -> None:
    n1, n2 = pair()
    async with running(n1, n2):
        await both_connected(n1, n2)
        link = n1.links._current["n2"]
        writes: list[object] = []
        link.transport.write = writes.append  # type: ignore[method-assign,assignment]  # to see them
        message = Append(term=1, previous_index=1, previous_term=1, commit_index=1, entries=())
        n1.links.send("n2", message)
        n1.links.send("n2", Vote(term=1))
        assert writes == []
        assert n1.links.unsent_bytes("n2") > 0
        n1.links.flush()
        expected = frame_of(encode_message(message)) + frame_of(encode_message(Vote(term=1)))
        assert writes == [expected]
        n1.links.flush()  # there is nothing more
        assert writes == [expected]


async def test_the_same_message_to_several_peers_is_encoded_once() -> None:
    addresses = Addresses("n1", "n2", "n3")
    nodes = [addresses.node(node_id) for node_id in ("n1", "n2", "n3")]
    async with running(*nodes):
        await until(lambda: all(len(node.events) == 2 for node in nodes))
        message = Append(
            term=1, previous_index=1, previous_term=1, commit_index=1, entries=((b"\0x", 2, 1),)
        )
        links = nodes[0].links
        links.send("n2", message)
        links.send("n3", message)
        queued = [links._current[node_id]._queued[-1] for node_id in ("n2", "n3")]
        assert queued[0] is queued[1]
        links.flush()
        await until(lambda: len(nodes[1].messages) == len(nodes[2].messages) == 1)


async def test_a_large_message_passes_and_unsent_bytes_tell_of_it() -> None:
    n1, n2 = pair()
    async with running(n1, n2):
        await both_connected(n1, n2)
        part = SnapshotPart(
            term=1, last_index=1, last_term=1, size=1, offset=0, data=os.urandom(6 << 20)
        )
        assert n1.links.send("n2", part)
        n1.links.flush()
        assert n1.links.unsent_bytes("n2") > 0
        await until(lambda: bool(n2.messages))
        assert n1.links.unsent_bytes("n2") == 0
    assert n2.messages == [("n1", part)]


@excused
async def test_idle_members_stay_connected_and_a_silent_one_is_dropped() -> None:
    """Followers say nothing to each other; only the keepalive tells them from dead ones."""
    n1, n2 = pair()
    async with running(n1, n2):
        await both_connected(n1, n2)
        await asyncio.sleep(3 * FAST.connection_timeout_ms / 1_000)
        assert n1.events == [("connected", "n2")]
        assert n2.events == [("connected", "n1")]
        n2.links._current["n1"].keep_alive = lambda: None  # type: ignore[method-assign]
        await until(lambda: ("disconnected", "n2") in n1.events)
        await until(lambda: n1.events[-1] == ("connected", "n2"))


async def test_after_a_stall_of_its_own_a_member_judges_nobody() -> None:
    """What the others said meanwhile may still lie in the sockets."""
    n1, n2 = pair()
    async with running(n1, n2):
        await both_connected(n1, n2)
        time.sleep(1.5 * FAST.connection_timeout_ms / 1_000)  # noqa: ASYNC251  # the stall itself
        n1.links.send("n2", Vote(term=1))
        n1.links.flush()
        await until(lambda: bool(n2.messages))
        assert (n1.events, n2.events) == ([("connected", "n2")], [("connected", "n1")])


async def test_a_peer_that_does_not_read_is_held_back_and_cut_off_at_the_cap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("seamfill_coordinator.raft.link.UNSENT_BYTES_MAX", 16 << 20)
    n1, n2 = pair()
    async with running(n1, n2):
        await both_connected(n1, n2)
        n2.links._current["n1"].transport.pause_reading()
        part = SnapshotPart(
            term=1, last_index=1, last_term=1, size=1, offset=0, data=bytes(2 << 20)
        )
        sent = [n1.links.send("n2", part) for _ in range(12)]
        assert sent == [True] * 7 + [False] * 5
        assert n1.links.unsent_bytes("n2") == 0
        await until(lambda: ("disconnected", "n2") in n1.events)


# Which connection counts


async def test_a_newer_connection_silences_the_older_one() -> None:
    """Late bytes of a superseded connection made stock followers drop acknowledged entries."""
    addresses = Addresses("n1", "n2")
    n1 = addresses.node("n1")
    async with running(n1):
        async with stranger(n1.address) as older, stranger(n1.address) as newer:
            older.say(hello_of("n2"), Vote(term=1))
            await until(lambda: len(n1.messages) == 1)
            newer.say(hello_of("n2"))
            # Behind the newer greeting, in the same instant, the older one goes on.
            await until(lambda: len(n1.events) == 3)
            older.say(Vote(term=2))
            newer.say(Vote(term=3))
            await older.is_closed()
            await until(lambda: len(n1.messages) == 2)
            assert n1.links.is_connected("n2")
        await until(lambda: len(n1.events) == 4)
    assert n1.messages == [("n2", Vote(term=1)), ("n2", Vote(term=3))]
    assert [what for what, _ in n1.events] == [
        "connected",
        "disconnected",
        "connected",
        "disconnected",
    ]


async def test_what_was_read_already_of_an_older_connection_is_not_delivered() -> None:
    n1 = Addresses("n1", "n2").node("n1")
    async with running(n1), stranger(n1.address) as older, stranger(n1.address) as newer:
        flood = [Vote(term=t) for t in range(3 * FRAMES_PER_TURN)]

        def supersede(_node_id: str, message: object) -> None:
            if message == flood[0]:
                n1.links.greeted(
                    next(link for link in n1.links._links if link.is_stranger), hello_of("n2")
                )

        n1.on_received = supersede
        older.say(hello_of("n2"), *flood)
        await older.is_closed()
        await newer.hears()
    assert n1.messages == [("n2", flood[0])]


# Whom a member does not listen to


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (hello_of("n2", cluster_id="another"), "cluster"),
        (hello_of("n9"), "unknown_member"),
        (hello_of("n1"), "unknown_member"),
        (hello_of("n0"), "wrong_direction"),
        (
            Hello(
                protocol=99,
                cluster_id="c1",
                node_id="n2",
                incarnation="",
                configuration=None,
                peer_ids=(),
            ),
            "protocol",
        ),
    ],
)
async def test_a_greeting_that_is_not_a_members_is_refused(
    hello: Hello, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    n1 = Addresses("n0", "n1", "n2").node("n1")
    async with running(n1), stranger(n1.address) as other:
        other.say(hello, Vote(term=1))
        await other.is_closed()
    assert (n1.events, n1.messages) == ([], [])
    assert refusals(caplog) == [reason]


async def test_a_member_that_does_not_prove_who_it_is_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    n1 = Addresses("n1", "n2").node("n1", network=PlainNetwork(impostors={"n2"}))
    async with running(n1), stranger(n1.address) as other:
        other.say(hello_of("n2"), Vote(term=1))
        await other.is_closed()
    assert (n1.events, n1.messages) == ([], [])
    assert refusals(caplog) == ["not_proved"]


async def test_whoever_answers_at_a_members_address_must_be_that_member(
    caplog: pytest.LogCaptureFixture,
) -> None:
    addresses = Addresses("n1", "n2", "n3")
    n3 = addresses.node("n3")
    n1 = addresses.node("n1")
    n1.address = addresses.of["n2"]
    n1 = n1.restarted()
    async with running(n3, n1):
        await until(lambda: "other_member" in refusals(caplog))
    assert n3.events == []


async def test_two_clusters_never_mix(caplog: pytest.LogCaptureFixture) -> None:
    addresses = Addresses("n1", "n2")
    n1 = addresses.node("n1")
    n2 = addresses.node("n2", says=hello_of("n2", cluster_id="another"))
    async with running(n1, n2):
        await until(lambda: refusals(caplog).count("cluster") >= 3)  # it was called again
        assert not n1.links.is_connected("n2")
    assert n1.events == []


# What strangers say


async def test_a_pickle_is_closed_and_executes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trace,))

    payload = pickle.dumps(Payload())
    pickle.loads(payload)
    assert trace.exists(), "the payload would work"
    trace.unlink()
    n1 = Addresses("n1", "n2").node("n1")
    async with running(n1):
        # As a frame of ours, and as stock pysyncobj frames it.
        for data in (frame_of(payload), len(payload).to_bytes(4, "little") + payload):
            async with stranger(n1.address) as other:
                other.writer.write(data)
                await other.is_closed()
        async with stranger(n1.address) as member:
            member.say(hello_of("n2"))
            member.writer.write(frame_of(payload))
            await member.is_closed()
        await until(lambda: len(n1.events) == 2)
    assert not trace.exists()
    assert refusals(caplog) == ["bad_message", "frame_too_long", "bad_message"]


@pytest.mark.parametrize("greets", [False, True])
async def test_a_frame_declared_at_two_gibibytes_takes_no_memory(
    greets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    n1 = Addresses("n1", "n2").node("n1")
    async with running(n1), stranger(n1.address) as other:
        if greets:
            other.say(hello_of("n2"))
            await until(lambda: n1.links.is_connected("n2"))
        before = _address_space_bytes()
        other.writer.write((2 * GIBIBYTE).to_bytes(4, "big") + bytes(1 << 20))
        await other.is_closed()
        assert _address_space_bytes() - before < 64 << 20
    assert n1.messages == []
    assert refusals(caplog) == ["frame_too_long"]


@pytest.mark.parametrize(("greets", "limit"), [(False, HELLO_BYTES_MAX), (True, FRAME_BYTES_MAX)])
async def test_a_frame_one_byte_over_its_cap_is_refused_by_its_length(
    greets: bool, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    n1 = Addresses("n1", "n2").node("n1")
    async with running(n1), stranger(n1.address) as other:
        if greets:
            other.say(hello_of("n2"))
        other.writer.write((limit + 1).to_bytes(4, "big"))
        await other.is_closed()
    assert refusals(caplog) == ["frame_too_long"]


async def test_nothing_may_come_before_the_greeting_and_no_second_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    n1 = Addresses("n1", "n2").node("n1")
    async with running(n1):
        async with stranger(n1.address) as hasty:
            hasty.say(Vote(term=1), hello_of("n2"))
            await hasty.is_closed()
        async with stranger(n1.address) as empty:
            empty.writer.write(bytes(4))
            await empty.is_closed()
        assert n1.events == []
        async with stranger(n1.address) as repeating:
            repeating.say(hello_of("n2"), hello_of("n2"))
            await repeating.is_closed()
        await until(lambda: len(n1.events) == 2)
    assert n1.messages == []
    assert refusals(caplog) == ["out_of_order", "bad_message", "out_of_order"]


async def test_a_connection_that_says_nothing_or_only_half_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    n1 = Addresses("n1", "n2").node("n1")
    greeting = frame_of(encode_message(hello_of("n2")))
    async with running(n1), stranger(n1.address) as silent, stranger(n1.address) as trickling:
        trickling.writer.write(greeting[:-1])
        await silent.is_closed()
        await trickling.is_closed()
    assert n1.events == []
    assert refusals(caplog) == ["silent", "silent"]


async def test_junk_for_ever_does_not_keep_members_from_talking(
    caplog: pytest.LogCaptureFixture,
) -> None:
    n1, n2 = pair()

    async with running(n1, n2):
        await both_connected(n1, n2)
        enough = threading.Event()
        junkies = [asyncio.to_thread(_junk, n1.address, enough) for _ in range(4)]
        flood = asyncio.gather(*junkies)
        try:
            await until(lambda: len(refusals(caplog)) >= REFUSALS_PER_WINDOW)
            for count in range(1, 101):
                n1.links.send("n2", Vote(term=count))
                n1.links.flush()
                while len(n2.messages) < count:  # noqa: ASYNC110  # turns of the loop are the unit
                    await asyncio.sleep(0)
        finally:
            enough.set()
            await flood
        assert (n1.events, n2.events) == ([("connected", "n2")], [("connected", "n1")])


async def test_a_member_that_floods_leaves_the_loop_to_others() -> None:
    """In one turn of the loop at most so many frames are delivered, then others have theirs."""
    n1 = Addresses("n1", "n2").node("n1")
    flood = [Vote(term=t) for t in range(5 * FRAMES_PER_TURN)]
    seen, was_reading = [0], []
    loop = asyncio.get_running_loop()

    def look() -> None:
        seen.append(len(n1.messages))
        was_reading.append(n1.links._current["n2"].transport.is_reading())
        if seen[-1] < len(flood):
            loop.call_soon(look)

    def watch_from_the_first(_node_id: str, message: object) -> None:
        if message == flood[0]:
            loop.call_soon(look)

    n1.on_received = watch_from_the_first
    async with running(n1), stranger(n1.address) as other:
        other.say(hello_of("n2"), *flood)
        await until(lambda: seen[-1] == len(flood))
        assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= (
            FRAMES_PER_TURN
        )
        assert not all(was_reading), "what it did not deliver yet would pile up"
        assert n1.links._current["n2"].transport.is_reading()
    assert [message for _, message in n1.messages] == flood


@excused
async def test_silent_strangers_are_bounded_and_a_member_still_gets_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All must be there before the first has been silent for too long."""
    caplog.clear()
    n1, n2 = pair()
    async with running(n1), AsyncExitStack() as strangers:
        for _ in range(STRANGERS_MAX + 8):
            await strangers.enter_async_context(stranger(n1.address))
        await until(lambda: len(refusals(caplog)) >= 8, limit_s=5)
        assert refusals(caplog) == ["too_many"] * 8
        await until(lambda: len(n1.links._links) <= STRANGERS_MAX)
        async with running(n2):
            await both_connected(n1, n2)


async def test_refusals_are_logged_with_reason_and_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    n1 = Addresses("n1", "n2").node("n1")
    async with running(n1), stranger(n1.address) as other:
        host, port = other.writer.get_extra_info("sockname")
        other.say(hello_of("n9\nforged line"))
        await other.is_closed()
    (line,) = [r for r in caplog.records if r.getMessage() == "peer.refused"]
    facts = line.__dict__["seamfill_facts"]
    assert line.levelno == logging.WARNING
    assert facts["address"] == f"{host}:{port}"
    assert facts["detail"] == r"'n9\nforged line'"


def _junk(address: str, enough: threading.Event) -> None:
    """Send random bytes until ``enough``; a new connection for each that is closed."""
    while not enough.is_set():
        with socket.create_connection(split_address(address)) as junk:
            try:
                while not enough.is_set():
                    junk.sendall(os.urandom(65_536))
            except ConnectionError:
                pass


def _address_space_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
