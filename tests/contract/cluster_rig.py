"""Replicas under test: one alone, or three in this process on free ports of the loopback.

``Rig`` starts, stops and restarts them by name and finds the leader, so that the contract suite
reads the same for both kinds.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from contract.plain_network import PlainNetwork
from seamfill_coordinator.raft.aggregator import AggregatorLimits
from seamfill_coordinator.raft.replica import PysyncobjReplica, ReplicaSettings
from seamfill_coordinator.raft.solo import SoloReplica
from seamfill_coordinator.raft.timing import RaftTiming
from seamfill_coordinator.replication import Replica

ELECTION_LIMIT_S = 10.0
"""Far above what an election takes; on a busy machine a test must not fail for that."""


class RunningReplica(Replica, Protocol):
    """What both kinds also have: a life."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@dataclass(slots=True)
class Rig:
    """Running replicas by node id."""

    make: Callable[[str], RunningReplica]
    node_ids: tuple[str, ...]
    nodes: dict[str, RunningReplica] = field(default_factory=dict)

    async def start(self, *node_ids: str) -> None:
        for node_id in node_ids or self.node_ids:
            replica = self.make(node_id)
            self.nodes[node_id] = replica
            await replica.start()

    async def stop(self, *node_ids: str) -> None:
        for node_id in node_ids or tuple(self.nodes):
            await self.nodes.pop(node_id).stop()

    async def leader(self) -> RunningReplica:
        """Return the one that is ready to propose."""
        await until(lambda: bool(self._ready_leaders()))
        return self._ready_leaders()[0]

    async def followers(self) -> list[RunningReplica]:
        leader = await self.leader()
        return [replica for replica in self.nodes.values() if replica is not leader]

    async def all_applied(self) -> None:
        """Wait until every node has applied what the leader has committed now."""
        leader = await self.leader()
        index = leader.status().commit_index
        await until(lambda: all(r.status().applied_index >= index for r in self.nodes.values()))

    def _ready_leaders(self) -> list[RunningReplica]:
        ready = (r for r in self.nodes.values() if r.status().ready)
        return [r for r in ready if r.status().leader_id == r.status().node_id]


async def until(condition: Callable[[], bool], limit_s: float = ELECTION_LIMIT_S) -> None:
    """Let the loop run until ``condition`` holds; fail loudly when it never does."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # any condition of any node, none has an event
            await asyncio.sleep(0.005)


def solo_rig(limits: AggregatorLimits | None = None) -> Rig:
    return Rig(make=lambda node_id: SoloReplica(node_id=node_id, limits=limits), node_ids=("n1",))


@dataclass(slots=True)
class ClusterPlan:
    """Three members on fresh ports; ``move`` gives them others."""

    directory: Path
    cluster_id: str = "test-cluster"
    limits: AggregatorLimits = field(default_factory=AggregatorLimits)
    timing: RaftTiming = field(default_factory=RaftTiming)
    node_ids: tuple[str, ...] = ("n1", "n2", "n3")
    addresses: dict[str, str] = field(default_factory=dict)
    fatal: list[tuple[str, BaseException]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.move()

    def move(self) -> None:
        self.addresses = {node_id: f"127.0.0.1:{free_port()}" for node_id in self.node_ids}

    def make(self, node_id: str) -> PysyncobjReplica:
        data_dir = self.directory / node_id
        data_dir.mkdir(parents=True, exist_ok=True)
        return PysyncobjReplica(
            ReplicaSettings(
                cluster_id=self.cluster_id,
                node_id=node_id,
                incarnation=f"life-of-{node_id}",
                url=f"http://{node_id}.test",
                peer_listen=self.addresses[node_id],
                peers={i: address for i, address in self.addresses.items() if i != node_id},
                data_dir=data_dir,
                limits=self.limits,
                timing=self.timing,
            ),
            network=PlainNetwork(),
            on_fatal=lambda what, exc: self.fatal.append((what, exc)),
        )


def cluster_rig(plan: ClusterPlan) -> Rig:
    return Rig(make=plan.make, node_ids=plan.node_ids)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
