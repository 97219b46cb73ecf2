"""Links over mutual TLS: members talk, and nobody else gets as far as a word."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.cluster_rig import until
from contract.links_rig import Addresses, Node, Stranger, hello_of, running
from contract.test_links import both_connected, refusals
from seamfill_coordinator.raft.certs import init_certificates
from seamfill_coordinator.raft.credentials import load_credentials
from seamfill_coordinator.raft.messages import Hello, SnapshotPart, Vote
from seamfill_coordinator.raft.network import split_address
from seamfill_coordinator.raft.tls import HANDSHAKES_MAX, TlsNetwork


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return made(tmp_path / "certs", "n1", "n2", "n3")


def made(directory: Path, *node_ids: str) -> Path:
    init_certificates(directory, node_ids, now=datetime.now(UTC))
    return directory


def network(certs: Path, node_id: str) -> TlsNetwork:
    credentials = load_credentials(
        certs, node_id=node_id, refuse_development=False, now=datetime.now(UTC)
    )
    return TlsNetwork(credentials)


def cluster(certs: Path, *node_ids: str) -> list[Node]:
    addresses = Addresses("n1", "n2", "n3")
    return [addresses.node(node_id, network=network(certs, node_id)) for node_id in node_ids]


@asynccontextmanager
async def tls_stranger(address: str, context: ssl.SSLContext) -> AsyncIterator[Stranger]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="")
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()


def showing(certs: Path, node_id: str | None) -> ssl.SSLContext:
    """Return a client's context with this node's certificate, or none; it believes anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if node_id is not None:
        context.load_cert_chain(certs / f"{node_id}.crt", certs / f"{node_id}.key")
    return context


async def still_serves(n1: Node, n2: Node) -> None:
    """Prove that ``n1`` is unharmed: a member connects and is heard."""
    async with running(n2):
        await both_connected(n1, n2)
        n2.links.send("n1", Vote(term=77))
        await until(lambda: ("n2", Vote(term=77)) in n1.messages)


async def test_members_talk_and_come_back(certs: Path) -> None:
    n1, n2, n3 = cluster(certs, "n1", "n2", "n3")
    async with running(n1, n3):
        await still_serves(n1, n2)
        await both_connected(n1, n3)
        await until(lambda: n1.events[-1] == ("disconnected", "n2"))
        await still_serves(n1, n2.restarted())
        part = SnapshotPart(
            term=1, last_index=1, last_term=1, size=1, offset=0, data=os.urandom(6 << 20)
        )
        n3.links.send("n1", part)
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
        await until(lambda: any(r.getMessage() == "peer.unreachable" for r in caplog.records))
        await still_serves(n1, n2)
    assert foreign.events == []
    assert [node_id for _, node_id in n1.events] == ["n2", "n2"]


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


async def test_silent_connections_are_bounded_in_number_and_time(
    certs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamfill_coordinator.raft.tls.HANDSHAKE_S", 0.5)
    n1, n2 = cluster(certs, "n1", "n2")
    loop = asyncio.get_running_loop()
    async with running(n1), AsyncExitStack() as open_sockets:
        silent = []
        for _ in range(HANDSHAKES_MAX + 5):
            silent.append(open_sockets.enter_context(socket.socket()))
            silent[-1].setblocking(False)
            await loop.sock_connect(silent[-1], split_address(n1.address))
        ends = [asyncio.ensure_future(loop.sock_recv(one, 1)) for one in silent]
        async with asyncio.timeout(5):
            # The oldest go at once, to make room; the others when their time is over.
            assert await asyncio.gather(*ends[:5]) == [b""] * 5
            assert not any(end.done() for end in ends[5:])
            await still_serves(n1, n2)
            assert await asyncio.gather(*ends) == [b""] * len(ends)


async def test_a_stopped_member_leaves_no_handshake_behind(certs: Path) -> None:
    (n1,) = cluster(certs, "n1")
    with socket.socket() as silent:
        silent.settimeout(5)
        async with running(n1):
            await asyncio.to_thread(silent.connect, split_address(n1.address))
        assert await asyncio.to_thread(silent.recv, 1) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*split_address(n1.address))


async def test_an_address_that_is_taken_is_an_os_error(certs: Path) -> None:
    (n1,) = cluster(certs, "n1")
    async with running(n1):
        with pytest.raises(OSError, match="in use"):
            await n1.restarted().links.start()


async def closed(other: Stranger) -> None:
    """Return when the node has closed; its alert, if it sent one, is an ``SSLError``."""
    with suppress(ssl.SSLError):
        await other.is_closed()


def _sent_until_closed(connection: socket.socket, data: bytes) -> None:
    connection.settimeout(5)
    try:
        connection.sendall(data)
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
