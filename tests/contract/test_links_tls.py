"""Links over mutual TLS: members talk, and nobody else gets as far as a word."""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import shutil
import socket
import ssl
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from contract.cluster_rig import until
from contract.links_rig import Addresses, Node, both_connected, hello_of, logged, refusals, running
from contract.tls_rig import (
    closed,
    cluster,
    made,
    network,
    showing,
    silent,
    still_serves,
    tls_stranger,
)
from seamfill_coordinator.raft.messages import Hello, SnapshotPart, Vote
from seamfill_coordinator.raft.network import split_address
from seamfill_coordinator.raft.tls import HANDSHAKES_MAX


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return made(tmp_path / "certs", "n1", "n2", "n3")


async def test_members_talk_and_come_back(certs: Path) -> None:
    n1, n2, n3 = cluster(certs, "n1", "n2", "n3")
    async with running(n1, n3):
        await still_serves(n1, n2)
        await both_connected(n1, n3)
        await until(lambda: ("disconnected", "n2") in n1.events)
        await still_serves(n1, n2.restarted())
        part = SnapshotPart(
            term=1, last_index=1, last_term=1, size=1, offset=0, data=os.urandom(6 << 20)
        )
        n3.links.send("n1", part)
        n3.links.flush()
        await until(lambda: ("n3", part) in n1.messages)
        assert n3.links.unsent_bytes("n1") == 0


async def test_nodes_with_certificates_of_different_cas_do_not_talk(
    certs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n1, n2 = cluster(certs, "n1", "n2")
    foreign = Node(
        node_id="n3",
        address=n1.peers["n3"],
        peers={"n1": n1.address, "n2": n2.address},
        network=network(made(tmp_path / "other", "n3"), "n3"),
    )
    async with running(n1, foreign):
        # n2 does not run yet, and is unreachable too.
        await until(lambda: "n1" in {e["peer"] for e in logged(caplog, "peer.unreachable")})
        await still_serves(n1, n2)
        assert foreign.events == []
        assert {node_id for _, node_id in n1.events} == {"n2"}


async def test_a_listener_does_not_take_a_client_of_another_ca(
    certs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when the client would believe the listener."""
    n1, n2 = cluster(certs, "n1", "n2")
    context = showing(made(tmp_path / "other", "n2"), "n2")
    async with running(n1):
        async with tls_stranger(n1.address, context) as other:
            other.say(hello_of("n2"), Vote(term=1))
            await closed(other)
        await until(lambda: refusals(caplog) == ["tls"])
        assert (n1.events, n1.messages) == ([], [])
        await still_serves(n1, n2)


async def test_a_client_without_certificate_or_with_an_older_tls_gets_nowhere(
    certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n1, n2 = cluster(certs, "n1", "n2")
    older = showing(certs, "n2")
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(n1):
        async with tls_stranger(n1.address, showing(certs, None)) as nobody:
            nobody.say(hello_of("n2"))
            await closed(nobody)
        with pytest.raises(OSError):  # each OpenSSL says it in its own words
            async with tls_stranger(n1.address, older):
                pass
        await until(lambda: refusals(caplog) == ["tls", "tls"])
        await still_serves(n1, n2)


@pytest.mark.parametrize(
    ("shown", "said", "reason"),
    [
        ("n3", hello_of("n2"), "not_proved"),
        ("n2", hello_of("n3"), "not_proved"),
        ("n2", hello_of("n2", cluster_id="another"), "cluster"),
        ("n1", hello_of("n1"), "unknown_member"),
    ],
)
async def test_the_right_ca_with_the_wrong_name_or_cluster_is_refused(
    certs: Path, shown: str, said: Hello, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    n1, n2 = cluster(certs, "n1", "n2")
    async with running(n1):
        async with tls_stranger(n1.address, showing(certs, shown)) as other:
            other.say(said, Vote(term=1))
            await closed(other)
        assert (n1.events, n1.messages) == ([], [])
        assert refusals(caplog) == [reason]
        await still_serves(n1, n2)


async def test_a_dialer_does_not_talk_to_a_member_that_poses_as_another(
    certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n2, n3 = cluster(certs, "n2", "n3")
    impostor = Node(
        node_id="n1",
        address=n2.peers["n1"],
        peers=n2.peers | {"n2": n2.address},
        network=network(certs, "n3"),
    )
    async with running(n2, impostor):
        await until(lambda: "not_proved" in refusals(caplog))
        assert n2.events == []
        async with running(n3):
            await both_connected(n2, n3)


async def test_the_ca_is_changed_one_node_at_a_time(certs: Path, tmp_path: Path) -> None:
    """As the how-to says: believe both, show the new one, forget the old one."""
    new = made(tmp_path / "new", "n1", "n2")
    new_ca = (new / "ca.crt").read_bytes()
    own = {node_id: shutil.copytree(certs, tmp_path / node_id) for node_id in ("n1", "n2")}
    addresses = Addresses("n1", "n2")

    def believe_both(node_id: str) -> None:
        with (own[node_id] / "ca.crt").open("ab") as file:
            file.write(new_ca)

    def show_the_new(node_id: str) -> None:
        for name in (f"{node_id}.crt", f"{node_id}.key"):
            (own[node_id] / name).write_bytes((new / name).read_bytes())

    def forget_the_old(node_id: str) -> None:
        (own[node_id] / "ca.crt").write_bytes(new_ca)

    def node(node_id: str) -> Node:
        return addresses.node(node_id, network=network(own[node_id], node_id))

    lives = {node_id: node(node_id) for node_id in own}
    try:
        for each in lives.values():
            await each.links.start()
        for step in (believe_both, show_the_new, forget_the_old):
            for node_id in own:
                step(node_id)
                await lives[node_id].links.stop()
                lives[node_id] = node(node_id)
                await lives[node_id].links.start()
                await both_connected(*lives.values())
    finally:
        for each in lives.values():
            await each.links.stop()


async def test_junk_and_pickles_end_in_the_handshake(
    certs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trace,))

    n1, n2 = cluster(certs, "n1", "n2")
    async with running(n1):
        for data in (pickle.dumps(Payload()), os.urandom(1 << 20), bytes(1 << 20)):
            with socket.create_connection(split_address(n1.address)) as junk:
                await asyncio.to_thread(_sent_until_closed, junk, data)
        await until(lambda: refusals(caplog) == ["tls"] * 3)
        await still_serves(n1, n2)
    assert not trace.exists()


async def test_silent_connections_are_bounded_in_number_and_the_oldest_makes_room(
    certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamfill_coordinator.raft.tls.HANDSHAKE_S", 60.0)
    n1, n2 = cluster(certs, "n1", "n2")
    async with AsyncExitStack() as stack, asyncio.timeout(20):
        async with running(n1):
            ends = [await silent(stack, n1.address) for _ in range(HANDSHAKES_MAX + 5)]
            assert await asyncio.gather(*ends[:5]) == [b""] * 5
            assert not any(end.done() for end in ends[5:])
            await still_serves(n1, n2)
        # A member that stops leaves no handshake behind.
        assert await asyncio.gather(*ends) == [b""] * len(ends)


async def test_a_silent_connection_is_closed_after_a_while(
    certs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("seamfill_coordinator.raft.tls.HANDSHAKE_S", 0.1)
    (n1,) = cluster(certs, "n1")
    async with running(n1), AsyncExitStack() as stack, asyncio.timeout(10):
        assert await (await silent(stack, n1.address)) == b""
        await until(lambda: refusals(caplog) == ["tls"])


async def test_without_file_descriptors_the_listener_waits_and_goes_on(
    certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n1, n2 = cluster(certs, "n1", "n2")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(n1, n2):
        await both_connected(n1, n2)
        with socket.socket() as waiting:
            waiting.setblocking(False)
            used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
            with ExitStack() as holes:
                for _ in range(used - len(list(Path("/proc/self/fd").iterdir())) + 2):
                    holes.callback(os.close, os.open("/dev/null", os.O_RDONLY))
                resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
                try:
                    await asyncio.get_running_loop().sock_connect(
                        waiting, split_address(n1.address)
                    )
                    await until(lambda: bool(logged(caplog, "peer.accept_failed")))
                    n2.links.send("n1", Vote(term=5))  # who is connected is not disturbed
                    n2.links.flush()
                    await until(lambda: bool(n1.messages))
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        # The stranger that waited has hung up meanwhile, and a member gets in.
        await n2.links.stop()
        await still_serves(n1, n2.restarted())
        assert len(logged(caplog, "peer.accept_failed")) < 20, "it kept the loop busy"


@pytest.mark.parametrize("turns", range(5))
async def test_a_connection_is_closed_however_far_it_has_come_when_the_member_stops(
    certs: Path, turns: int
) -> None:
    """In the backlog, accepted, or in its handshake: none of them stays open."""
    (n1,) = cluster(certs, "n1")
    async with running(n1):
        # The kernel connects it; the loop has had no turn yet.
        waiting = socket.create_connection(split_address(n1.address), timeout=5)
        for _ in range(turns):
            await asyncio.sleep(0)
    with waiting:
        assert await asyncio.to_thread(_read_to_end, waiting) == b""


async def test_stopping_twice_is_harmless(certs: Path) -> None:
    (n1,) = cluster(certs, "n1")
    await n1.links.start()
    await n1.links.stop()
    await n1.links.stop()


async def test_an_address_that_is_taken_is_an_os_error(certs: Path) -> None:
    (n1,) = cluster(certs, "n1")
    async with running(n1):
        with pytest.raises(OSError, match="in use"):
            await n1.restarted().links.start()


def _read_to_end(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


def _sent_until_closed(connection: socket.socket, data: bytes) -> None:
    connection.settimeout(5)
    try:
        connection.sendall(data)
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
