"""Members that only have links, on free ports of the loopback, and a stranger with a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from contract.cluster_rig import until
from contract.plain_network import PlainNetwork
from seamfill_coordinator.ports import free_ports
from seamfill_coordinator.raft.frames import frame_of
from seamfill_coordinator.raft.links import Links
from seamfill_coordinator.raft.messages import (
    PROTOCOL_VERSION,
    Hello,
    Message,
    decode_message,
    encode_message,
)
from seamfill_coordinator.raft.network import Network
from seamfill_coordinator.raft.timing import RaftTiming

CLUSTER = "c1"
FAST = RaftTiming(reconnect_ms=20, connection_timeout_ms=400, keepalive_ms=100)
"""So that a silence ends within a test."""


def hello_of(node_id: str, *, cluster_id: str = CLUSTER) -> Hello:
    return Hello(
        protocol=PROTOCOL_VERSION,
        cluster_id=cluster_id,
        node_id=node_id,
        incarnation=f"life-of-{node_id}",
        configuration=None,
        peer_ids=(),
    )


@dataclass(slots=True)
class Node:
    """One member; records what its links tell, in order."""

    node_id: str
    address: str
    peers: dict[str, str]
    network: Network
    timing: RaftTiming = FAST
    says: Hello | None = None
    on_received: Callable[[str, Message], None] | None = None
    events: list[tuple[str, str]] = field(default_factory=list)
    messages: list[tuple[str, Message]] = field(default_factory=list)
    links: Links = field(init=False)

    def __post_init__(self) -> None:
        self.links = Links(
            cluster_id=CLUSTER,
            node_id=self.node_id,
            listen=self.address,
            peers=self.peers,
            network=self.network,
            events=self,
            timing=self.timing,
        )

    def hello(self) -> Hello:
        return self.says or hello_of(self.node_id)

    def connected(self, hello: Hello) -> None:
        self.events.append(("connected", hello.node_id))

    def disconnected(self, node_id: str) -> None:
        self.events.append(("disconnected", node_id))

    def received(self, node_id: str, message: Message) -> None:
        self.messages.append((node_id, message))
        if self.on_received is not None:
            self.on_received(node_id, message)

    def restarted(self) -> Node:
        """Return the next life of this node, at the same address."""
        return replace(self, events=[], messages=[])


class Addresses:
    """The addresses of a cluster whose members need not all be there."""

    def __init__(self, *node_ids: str) -> None:
        ports = free_ports(len(node_ids))
        self.of = {n: f"127.0.0.1:{port}" for n, port in zip(node_ids, ports, strict=True)}

    def node(
        self,
        node_id: str,
        *,
        network: Network | None = None,
        timing: RaftTiming = FAST,
        says: Hello | None = None,
    ) -> Node:
        return Node(
            node_id=node_id,
            address=self.of[node_id],
            peers={i: address for i, address in self.of.items() if i != node_id},
            network=network or PlainNetwork(),
            timing=timing,
            says=says,
        )


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Start the nodes' links; stop them at the end."""
    try:
        for node in nodes:
            await node.links.start()
        yield
    finally:
        for node in nodes:
            await node.links.stop()


async def both_connected(n1: Node, n2: Node) -> None:
    await until(lambda: n1.links.is_connected(n2.node_id) and n2.links.is_connected(n1.node_id))


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, object]]:
    """Return the facts of all lines with this event."""
    lines = [record for record in caplog.records if record.getMessage() == event]
    return [line.__dict__["seamfill_facts"] for line in lines]


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the reasons of all ``peer.refused`` lines."""
    return [str(facts["reason"]) for facts in logged(caplog, "peer.refused")]


@dataclass(slots=True)
class Stranger:
    """A socket at somebody's peer port that says whatever a test wants."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, *messages: Message) -> None:
        self.writer.write(b"".join(frame_of(encode_message(m)) for m in messages))

    async def hears(self) -> Message | None:
        """Return the next message, None for a keepalive."""
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        return decode_message(await self.reader.readexactly(length)) if length else None

    async def is_closed(self) -> None:
        """Return when the other end has closed; fail when it does not."""
        async with asyncio.timeout(5):
            try:
                while await self.reader.read(65_536):
                    pass
            except ConnectionError:
                pass


@asynccontextmanager
async def stranger(address: str) -> AsyncIterator[Stranger]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()
