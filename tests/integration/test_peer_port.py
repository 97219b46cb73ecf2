"""The peer port of real nodes: who is not a member gets nowhere, and the cluster goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import psutil
import pytest

from contract.cluster_rig import until
from contract.links_rig import hello_of
from contract.tls_rig import closed, showing, tls_stranger
from seamfill_chaos.live.processes import Processes, program
from seamfill_chaos.live.world import World, cluster_view
from seamfill_coordinator.raft.certs import RENEW_DAYS, VALID_DAYS, init_certificates
from seamfill_coordinator.raft.messages import Hello, Vote
from seamfill_coordinator.raft.network import split_address

GIBIBYTE = 1 << 30


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Processes(tmp_path / "logs") as processes:
        yield World(processes)


def peer_address(world: World, node_id: str) -> str:
    words = [str(word) for word in world.nodes[node_id].argv]
    return words[words.index("--peer-listen") + 1]


def logged(tmp_path: Path, node_id: str, event: str) -> list[dict[str, str]]:
    """Return the lines with this event in a node's log."""
    lines = (tmp_path / "logs" / f"{node_id}.log").read_text(encoding="utf-8").splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in parsed if line["event"] == event]


async def serves(world: World, key: str) -> None:
    """Prove that a claim is granted, if need be after an election."""
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http,
    ):
        for number in itertools.count():
            body = {"key": f"{key}-{number}", "lease_ms": 60_000}
            async with http.post(f"{world.urls['n1']}/v1/leases/claim", json=body) as answer:
                if answer.status != 503:
                    assert answer.status == 200, await answer.text()
                    return


async def term_of(world: World) -> int:
    view = await cluster_view(world.urls["n1"])
    assert view is not None
    return int(view["term"])


async def test_whatever_strangers_send_the_node_is_unharmed_and_the_cluster_serves(
    world: World, tmp_path: Path
) -> None:
    await world.start_cluster(tmp_path / "cluster")
    certs, address = tmp_path / "cluster" / "certs", peer_address(world, "n1")
    node = psutil.Process(world.nodes["n1"].pid)
    before = node.memory_info().rss
    trace = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trace,))

    payload = pickle.dumps(Payload())
    for data in (payload, len(payload).to_bytes(4, "little") + payload, os.urandom(1 << 20)):
        await asyncio.to_thread(_send_until_closed, address, data)
    # Behind the handshake of a member, the same and a frame of 2 GiB.
    for data in (payload, (2 * GIBIBYTE).to_bytes(4, "big") + bytes(1 << 20)):
        for greeting in ((), (hello_of("n2", cluster_id="live"),)):
            async with tls_stranger(address, showing(certs, "n2")) as member:
                member.say(*greeting)
                member.writer.write(data)
                await closed(member)
    assert not trace.exists()
    assert node.memory_info().rss - before < 64 << 20
    assert world.nodes["n1"].running
    assert logged(tmp_path, "n1", "peer.refused")
    await serves(world, "after-junk")


@pytest.mark.parametrize(
    ("shown", "said", "reason"),
    [
        ("n3", hello_of("n2", cluster_id="live"), "not_proved"),
        ("n2", hello_of("n2", cluster_id="another"), "cluster"),
        ("n2", hello_of("n9", cluster_id="live"), "unknown_member"),
    ],
)
async def test_the_right_ca_with_the_wrong_name_or_cluster_is_refused(
    world: World, tmp_path: Path, shown: str, said: Hello, reason: str
) -> None:
    await world.start_cluster(tmp_path / "cluster")
    term = await term_of(world)
    certs, address = tmp_path / "cluster" / "certs", peer_address(world, "n1")
    async with tls_stranger(address, showing(certs, shown)) as other:
        host, port = other.writer.get_extra_info("sockname")
        other.say(said, Vote(term=term + 1_000))
        await closed(other)

    # On a busy machine a member may have been refused too, for being slow.
    def its_refusals() -> list[object]:
        lines = logged(tmp_path, "n1", "peer.refused")
        return [line["reason"] for line in lines if line["address"] == f"{host}:{port}"]

    await until(lambda: bool(its_refusals()))
    assert its_refusals() == [reason]
    await serves(world, "after-refusal")
    assert await term_of(world) < term + 1_000, "its word counted"


async def test_a_node_with_a_certificate_of_another_ca_is_no_part_of_the_cluster(
    world: World, tmp_path: Path
) -> None:
    await world.start_cluster(tmp_path / "cluster")
    own, foreign = tmp_path / "cluster" / "certs", tmp_path / "foreign"
    init_certificates(foreign, ["n3"], now=datetime.now(UTC))
    await world.nodes["n3"].stop()
    mine = {name: (own / name).read_bytes() for name in ("n3.crt", "n3.key")}
    _put(own, {name: (foreign / name).read_bytes() for name in mine})
    refused = await _start_expecting_refusal(world)
    assert "n3.crt is not accepted by ca.crt" in refused
    # With a CA file of its own to match, it starts, and nobody talks to it.
    line = [str(word) for word in world.nodes["n3"].argv]
    line[line.index("--certs") + 1] = str(foreign)
    stranger = await world.processes.start("foreign", line)
    await until(lambda: bool(logged(tmp_path, "foreign", "peer.unreachable")))
    view = await cluster_view(world.urls["n3"])
    assert view is not None
    assert view["leader"] is None
    assert not view["ready"]
    await serves(world, "without-n3")
    await stranger.stop()
    _put(own, mine)
    world.nodes["n3"] = await world.processes.start("n3", world.nodes["n3"].argv)
    await until_ready(world, "n3")


async def test_a_node_warns_before_its_certificate_ends(world: World, tmp_path: Path) -> None:
    made = datetime.now(UTC) - timedelta(days=VALID_DAYS - RENEW_DAYS + 1)
    init_certificates(tmp_path / "certs", ["n1"], now=made)
    node = await world.processes.start(
        "n1",
        [
            *(program("coordinator"), "serve", "--node-id", "n1", "--cluster-id", "c1"),
            *("--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"),
            *("--data-dir", tmp_path / "data", "--certs", tmp_path / "certs"),
        ],
    )
    (line,) = logged(tmp_path, "n1", "certs.expiring")
    left = datetime.fromisoformat(line["expires"]) - datetime.now(UTC)
    assert timedelta(days=RENEW_DAYS - 2) < left < timedelta(days=RENEW_DAYS)
    await node.stop()


async def until_ready(world: World, node_id: str) -> None:
    async with asyncio.timeout(20):
        while True:
            view = await cluster_view(world.urls[node_id])
            if view is not None and view["ready"]:
                return
            await asyncio.sleep(0.05)


async def _start_expecting_refusal(world: World) -> str:
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in world.nodes["n3"].argv),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    return errors.decode()


def _put(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).write_bytes(content)


def _send_until_closed(address: str, data: bytes) -> None:
    with socket.create_connection(split_address(address), timeout=10) as connection:
        try:
            connection.sendall(data)
            while connection.recv(65_536):
                pass
        except (ConnectionError, ssl.SSLError):
            pass
