"""Members' links over TLS, their certificates, and strangers who speak TLS or say nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from contract.cluster_rig import until
from contract.links_rig import Addresses, Node, Stranger, both_connected, running
from seamfill_coordinator.raft.certs import init_certificates
from seamfill_coordinator.raft.credentials import load_credentials
from seamfill_coordinator.raft.messages import Vote
from seamfill_coordinator.raft.network import split_address
from seamfill_coordinator.raft.tls import TlsNetwork


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
        n2.links.flush()
        await until(lambda: ("n2", Vote(term=77)) in n1.messages)


async def closed(other: Stranger) -> None:
    """Return when the node has closed; its alert, if it sent one, is an ``SSLError``."""
    with suppress(ssl.SSLError):
        await other.is_closed()


async def silent(stack: AsyncExitStack, address: str) -> asyncio.Future[bytes]:
    """Connect and say nothing; return what will be read in the end."""
    loop = asyncio.get_running_loop()
    connection = stack.enter_context(socket.socket())
    connection.setblocking(False)
    await loop.sock_connect(connection, split_address(address))
    return asyncio.ensure_future(loop.sock_recv(connection, 1))
