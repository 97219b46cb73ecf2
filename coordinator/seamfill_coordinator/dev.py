"""A whole cluster on this machine, for development: N real ``serve`` processes under one parent.

Owns the layout of the directory, the processes and their end. Must not know what a node does.

Invariants: no node outlives this process, however it ends (the kernel kills them with it); a node
that dies stays dead unless ``respawn_s`` is set; the same directory is the same cluster, also on
other ports; two of these never share a directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from seamfill.errors import InvalidInput, SeamfillError
from seamfill.logs import log_event
from seamfill_coordinator.app import StopSignal
from seamfill_coordinator.config import configures_a_node
from seamfill_coordinator.data_dir import DataDirUnusable, DirectoryLock, write_atomically
from seamfill_coordinator.orphans import die_with
from seamfill_coordinator.ports import free_ports
from seamfill_coordinator.raft.certs import init_certificates

__all__ = ["DevPlan", "NodeFailed", "run_dev"]

MAX_NODES: Final = 9
READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
_HOST: Final = "127.0.0.1"
_FORMAT: Final = 1
_log = logging.getLogger("seamfill.coordinator.dev")


class NodeFailed(SeamfillError):
    """A node ended or stayed silent instead of becoming ready; its messages are above."""

    code = "node_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DevPlan:
    """What ``coordinator dev`` was asked for."""

    nodes: int
    data_dir: Path
    port: int | None
    """The first node's HTTP port, the next has the next; None takes free ones."""
    respawn_s: float | None
    """Start a dead node again after so long; None leaves it dead."""


async def run_dev(plan: DevPlan, *, on_ready: Callable[[dict[str, Any]], None]) -> None:
    """Run the cluster until told to stop; return when all nodes have ended.

    Raises ``InvalidInput``, ``DataDirInUse``, ``DataDirUnusable``, ``NodeFailed``.
    """
    lock = DirectoryLock(plan.data_dir)
    try:
        cluster_id = _remembered_cluster(plan)
        nodes = _plan_nodes(plan, cluster_id)
        cluster = _Cluster(nodes, respawn_s=plan.respawn_s)
        async with StopSignal(on_second=cluster.kill) as stop:
            try:
                await _run(cluster, stop, on_ready)
            finally:
                await cluster.stop()
    finally:
        lock.release()


async def _run(
    cluster: _Cluster, stop: StopSignal, on_ready: Callable[[dict[str, Any]], None]
) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(cluster.run(on_ready))
        await stop.wait()
        running.cancel()


def _remembered_cluster(plan: DevPlan) -> str:
    """Return the id of the cluster that lives in this directory, making one if it is new."""
    path = plan.data_dir / "cluster.json"
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        cluster_id = f"dev-{secrets.token_hex(4)}"
        write_atomically(path, {"format": _FORMAT, "cluster_id": cluster_id, "nodes": plan.nodes})
        return cluster_id
    except (OSError, ValueError) as exc:
        raise DataDirUnusable(f"{path} can not be read: {exc}") from exc
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise DataDirUnusable(f"{path} has a format this version does not know")
    if found.get("nodes") != plan.nodes:
        # A majority of another number of nodes is another majority: what one committed the other
        # may not know.
        raise InvalidInput(
            "nodes", f"{plan.data_dir} holds a cluster of {found.get('nodes')}, not {plan.nodes}"
        )
    return str(found["cluster_id"])


def _plan_nodes(plan: DevPlan, cluster_id: str) -> list[_Node]:
    ids = [f"n{number}" for number in range(1, plan.nodes + 1)]
    free = free_ports(2 * plan.nodes, _HOST)
    if plan.port is None:
        http_ports = free[: plan.nodes]
        peer_ports = free[plan.nodes :]
    else:
        http_ports = list(range(plan.port, plan.port + plan.nodes))
        peer_ports = [port for port in free if port not in http_ports][: plan.nodes]
    peers = {i: f"{_HOST}:{port}" for i, port in zip(ids, peer_ports, strict=True)}
    certs = _certificates(plan.data_dir / "certs", ids)
    return [
        _Node(
            node_id=node_id,
            url=f"http://{_HOST}:{http_port}",
            argv=[
                *_serve_argv(node_id, cluster_id, http_port, peers),
                *("--data-dir", str((plan.data_dir / node_id).resolve())),
                *("--certs", str(certs.resolve())),
            ],
        )
        for node_id, http_port in zip(ids, http_ports, strict=True)
    ]


def _certificates(directory: Path, node_ids: Sequence[str]) -> Path:
    """Return the directory with this cluster's certificates, making those that are missing."""
    try:
        init_certificates(directory, node_ids, now=datetime.now(UTC))
    except InvalidInput as exc:
        raise DataDirUnusable(exc.message) from exc
    return directory


def _serve_argv(node_id: str, cluster_id: str, http_port: int, peers: dict[str, str]) -> list[str]:
    """The line by which this node can also be started by hand, without its directories."""
    argv = [sys.executable, "-m", "seamfill_coordinator", "serve"]
    argv += ["--node-id", node_id, "--cluster-id", cluster_id]
    argv += ["--listen", f"{_HOST}:{http_port}", "--peer-listen", peers[node_id]]
    for peer_id, address in peers.items():
        if peer_id != node_id:
            argv += ["--peer", f"{peer_id}={address}"]
    return argv


@dataclass(slots=True)
class _Node:
    node_id: str
    url: str
    argv: Sequence[str]
    process: asyncio.subprocess.Process | None = None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start the process and wait for its ready line."""
        parent = os.getpid()
        self.process = await asyncio.create_subprocess_exec(
            *self.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
            preexec_fn=lambda: die_with(parent),
            # Ctrl-C in a terminal goes to the whole group: the nodes hear it from us, once.
            start_new_session=True,
        )
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise NodeFailed(f"{self.node_id} was not ready in {READY_TIMEOUT_S:g} s") from None
        if not line:
            code = await self.process.wait()
            raise NodeFailed(f"{self.node_id} ended with exit code {code} before it was ready")

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class _Cluster:
    """The processes of one run."""

    def __init__(self, nodes: list[_Node], *, respawn_s: float | None) -> None:
        self._nodes = nodes
        self._respawn_s = respawn_s

    async def run(self, on_ready: Callable[[dict[str, Any]], None]) -> None:
        """Start all nodes, say so, and look after them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for node in self._nodes:
                tasks.create_task(node.start())
        on_ready(self.ready_line())
        async with asyncio.TaskGroup() as tasks:
            for node in self._nodes:
                tasks.create_task(self._watch(node))

    def ready_line(self) -> dict[str, Any]:
        return {
            "event": "ready",
            "urls": [node.url for node in self._nodes],
            "nodes": [
                {
                    "id": node.node_id,
                    "url": node.url,
                    "pid": node.process.pid if node.process is not None else None,
                    "argv": list(node.argv),
                }
                for node in self._nodes
            ],
        }

    async def _watch(self, node: _Node) -> None:
        while True:
            assert node.process is not None
            code = await node.process.wait()
            log_event(_log, "dev.node_ended", level=logging.WARNING, node=node.node_id, code=code)
            if self._respawn_s is None:
                return
            await asyncio.sleep(self._respawn_s)
            try:
                await node.start()
            except NodeFailed as exc:
                node.signal(signal.SIGKILL)
                log_event(_log, "dev.respawn_failed", level=logging.ERROR, exc=exc)
            else:
                log_event(_log, "dev.node_respawned", node=node.node_id, pid=node.process.pid)

    async def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those that do not end in time; reap everything."""
        for node in self._nodes:
            node.signal(signal.SIGTERM)
        waits = [node.process.wait() for node in self._nodes if node.process is not None]
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.gather(*waits)
        except TimeoutError:
            self.kill()
            await asyncio.gather(*(n.process.wait() for n in self._nodes if n.process is not None))

    def kill(self) -> None:
        """End everything at once."""
        for node in self._nodes:
            node.signal(signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Ours, without what would configure a node: three nodes can not share one metrics port."""
    return {name: value for name, value in os.environ.items() if not configures_a_node(name)}
