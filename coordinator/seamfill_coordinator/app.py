"""One coordinator node, from its configuration to its last request.

Owns the order in which the parts start and stop. A composition root: it builds the replica and the
HTTP application and hands them to each other. Must not know what either does.

Order: certificates, data directory (whose, and only ours), HTTP address (so that the leader
announces the real one), replica, application, ready line. The way back is the reverse, so that no
request finds half a node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiohttp import web

from seamfill.clock import SystemClock
from seamfill.errors import SeamfillError
from seamfill.logs import log_event
from seamfill_coordinator.config import Address, NodeConfig, Profile
from seamfill_coordinator.data_dir import DataDir, open_data_dir
from seamfill_coordinator.garbage import GarbageCollection
from seamfill_coordinator.http.app import build_app
from seamfill_coordinator.raft.certs import RENEW_DAYS
from seamfill_coordinator.raft.compaction import compaction_every
from seamfill_coordinator.raft.credentials import load_credentials
from seamfill_coordinator.raft.development_certs import development_certificates
from seamfill_coordinator.raft.journal_files import Files
from seamfill_coordinator.raft.network import Network, NoNetwork
from seamfill_coordinator.raft.replica import PysyncobjReplica, ReplicaSettings
from seamfill_coordinator.raft.tls import TlsNetwork

__all__ = ["AddressInUse", "StopSignal", "run_node"]

DRAIN_TIMEOUT_S: Final = 5.0
"""How long requests that are under way may take after SIGTERM; long polls end earlier."""
_BACKLOG: Final = 1_024
_log = logging.getLogger("seamfill.coordinator")


class AddressInUse(SeamfillError):
    """An address to listen on can not be had; another process may use it."""

    code = "address_in_use"


async def run_node(
    config: NodeConfig, *, on_ready: Callable[[dict[str, Any]], None], files: Files | None = None
) -> None:
    """Run one node until it is told to stop; return when it has drained.

    ``on_ready`` gets the ready line's document when HTTP is served. ``files`` is where journal and
    snapshots go, if not to the operating system's.
    Raises ``DataDirInUse``, ``DataDirUnusable``, ``AddressInUse``; ``InvalidInput`` when the
    certificates can not be used.
    """
    network = _peer_network(config)
    data_dir = open_data_dir(config.data_dir, cluster_id=config.cluster_id, node_id=config.node_id)
    try:
        with _bound("listen", config.listen) as listener:
            host, port = listener.getsockname()[:2]
            config = replace(config, listen=Address(host, port))
            async with (
                _serving(config, network, data_dir, listener, files) as url,
                StopSignal() as stop,
            ):
                on_ready(
                    {
                        "event": "ready",
                        "id": config.node_id,
                        "url": url,
                        "pid": os.getpid(),
                        "cluster_id": config.cluster_id,
                    }
                )
                await stop.wait()
                log_event(_log, "node.draining", node=config.node_id)
    finally:
        data_dir.release()
    log_event(_log, "node.stopped", node=config.node_id)


@asynccontextmanager
async def _serving(
    config: NodeConfig,
    network: Network,
    data_dir: DataDir,
    listener: socket.socket,
    files: Files | None,
) -> AsyncIterator[str]:
    url = config.advertise_url or _url_of(config.listen)
    clock = SystemClock()
    replica = PysyncobjReplica(
        ReplicaSettings(
            cluster_id=config.cluster_id,
            node_id=config.node_id,
            incarnation=data_dir.incarnation,
            url=url,
            peer_listen=str(config.peer_listen),
            peers={node_id: str(address) for node_id, address in config.peers.items()},
            data_dir=config.data_dir,
            journal_must_exist=data_dir.has_journal,
            compaction=compaction_every(config.snapshot_every),
            segment_bytes=config.journal_segment_bytes,
        ),
        network=network,
        files=files,
        clock=clock,
    )
    try:
        await replica.start()
    except OSError as exc:
        raise AddressInUse(f"--peer-listen {config.peer_listen}: {exc}") from exc
    data_dir.journal_was_begun()
    try:
        app = build_app(replica=replica, config=config, clock=clock, public_url=url)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_TIMEOUT_S)
        try:
            await _set_up(runner, config)
            await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            with GarbageCollection(is_following=lambda: replica.is_following, clock=clock):
                yield url
        finally:
            await runner.cleanup()
    finally:
        await replica.stop()


def _peer_network(config: NodeConfig) -> Network:
    """Return how peers are reached. Raises ``InvalidInput`` for certificates that can not be used.

    A cluster of one has no peers, and needs no certificates; nodes on loopback may share
    development certificates that they make themselves.
    """
    if config.certs is None and not config.peers:
        return NoNetwork()
    now = datetime.now(UTC)
    certs = config.certs or development_certificates(
        os.environ, cluster_id=config.cluster_id, node_id=config.node_id, now=now
    )
    credentials = load_credentials(
        certs,
        node_id=config.node_id,
        refuse_development=config.profile is Profile.PROD,
        now=now,
    )
    if credentials.expires < now + timedelta(days=RENEW_DAYS):
        expires = credentials.expires.isoformat()
        log_event(_log, "certs.expiring", level=logging.WARNING, expires=expires)
    return TlsNetwork(credentials)


async def _set_up(runner: web.AppRunner, config: NodeConfig) -> None:
    try:
        await runner.setup()
    except OSError as exc:
        raise AddressInUse(f"--metrics-listen {config.metrics_listen}: {exc}") from exc


def _bound(flag: str, address: Address) -> socket.socket:
    """Bind now, so that a taken address is found before the log is touched."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise AddressInUse(f"--{flag} {address}: {exc.strerror or exc}") from exc
    return listener


def _url_of(address: Address) -> str:
    if address.host in ("0.0.0.0", "::"):
        return f"http://127.0.0.1:{address.port}"
    return f"http://{address}"


class StopSignal:
    """SIGTERM or SIGINT asks to stop in order; a second one ends the process at once."""

    def __init__(self, on_second: Callable[[], None] | None = None) -> None:
        self._asked = asyncio.Event()
        self._on_second = on_second

    async def __aenter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._receive, number)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        # The handlers stay until the loop ends: a second signal must be heard while we drain.
        return None

    async def wait(self) -> None:
        """Return when the first signal has come."""
        await self._asked.wait()

    def _receive(self, number: int) -> None:
        if not self._asked.is_set():
            self._asked.set()
            return
        log_event(_log, "node.stopped_at_once", level=logging.WARNING, signal=number)
        if self._on_second is not None:
            self._on_second()
        logging.shutdown()
        os._exit(128 + number)
