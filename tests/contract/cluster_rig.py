"""Replicas under test: one alone, or three in this process on free ports of the loopback.

``Rig`` starts, stops and restarts them by name and finds the leader, so that the contract suite
reads the same for both kinds. Leadership may move at any time, and more often on a busy machine:
``Rig.propose`` asks the leader of the moment until there is an answer. Tests of what *one* leader
does are ``busy_machines.excused`` instead.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from contract.plain_network import PlainNetwork
from contract.unsynced_files import UnsyncedFiles
from seamfill_coordinator.machine.commands import OpenSession, Operation, Request
from seamfill_coordinator.machine.outcomes import Opened, Reply
from seamfill_coordinator.ports import free_ports
from seamfill_coordinator.raft.aggregator import AggregatorLimits
from seamfill_coordinator.raft.compaction import CompactionLimits
from seamfill_coordinator.raft.journal_files import Files
from seamfill_coordinator.raft.replica import PysyncobjReplica, ReplicaSettings
from seamfill_coordinator.raft.solo import SoloReplica
from seamfill_coordinator.raft.timing import RaftTiming
from seamfill_coordinator.replication import NotLeader, ProposalOutcomeUnknown, Replica

ELECTION_LIMIT_S = 30.0
"""Far above what an election takes; on a busy machine a test must not fail for that."""

PATIENT_MS = 10_000


class RunningReplica(Replica, Protocol):
    """What both kinds also have: a life."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@dataclass(slots=True)
class Rig:
    """Running replicas by node id."""

    make: Callable[[str], RunningReplica]
    node_ids: tuple[str, ...]
    move_on: Callable[[], None] = lambda: None
    """Give what is made from now on places of its own."""
    nodes: dict[str, RunningReplica] = field(default_factory=dict)
    _client: int = 0
    _sequence: int = 0

    async def start(self, *node_ids: str) -> None:
        for node_id in node_ids or self.node_ids:
            replica = self.make(node_id)
            self.nodes[node_id] = replica
            await replica.start()

    async def stop(self, *node_ids: str) -> None:
        for node_id in node_ids or tuple(self.nodes):
            await self.nodes.pop(node_id).stop()

    async def renew(self) -> None:
        """Begin again with an empty cluster."""
        await self.stop()
        self.move_on()
        self.forget_session()
        await self.start()

    async def propose(self, *operations: Operation) -> Reply:
        """Commit a request by whoever leads, and return its reply. It takes effect once.

        An election on the way is nobody's fault: the next leader is asked, with the same identity.
        One request at a time.
        """
        if not self._client:
            # One more session than is used harms nobody, so this needs no identity.
            (opened,) = (await self.ask_again(OpenSession())).outcomes
            assert isinstance(opened, Opened)
            self._client = opened.client
        self._sequence += 1
        return await self._until_known(
            Request(
                operations=operations,
                client=self._client,
                sequence=self._sequence,
                low=self._sequence,
            )
        )

    async def ask_again(self, *operations: Operation) -> Reply:
        """Like ``propose``, for what may well take effect more than once."""
        return await self._until_known(Request(operations=operations))

    def forget_session(self) -> None:
        """Expect nothing of the past: this cluster has lost it, as a control test makes it do."""
        self._client, self._sequence = 0, 0

    async def _until_known(self, request: Request) -> Reply:
        async with asyncio.timeout(ELECTION_LIMIT_S):
            while True:
                try:
                    return await (await self.leader()).propose(request, timeout_ms=PATIENT_MS)
                except (NotLeader, ProposalOutcomeUnknown):
                    continue

    async def leader(self) -> RunningReplica:
        """Return the one that is ready to propose."""
        await until(lambda: bool(self._ready_leaders()))
        return self._ready_leaders()[0]

    async def followers(self) -> list[RunningReplica]:
        leader = await self.leader()
        return [replica for replica in self.nodes.values() if replica is not leader]

    async def all_applied(self) -> None:
        """Wait until every node has applied what the leader has committed now."""
        await self.all_applied_on(*self.nodes)

    async def all_applied_on(self, *node_ids: str) -> None:
        """Wait until these nodes have applied what the leader has committed now."""
        index = (await self.leader()).status().commit_index
        await until(lambda: all(self.nodes[n].status().applied_index >= index for n in node_ids))

    async def state_digests(self) -> set[str]:
        """Return all nodes' state digests at a moment when all have applied the same entries."""
        await self.all_applied()
        await until(lambda: len({r.status().applied_index for r in self.nodes.values()}) == 1)
        return {replica.machine.state_digest() for replica in self.nodes.values()}

    def _ready_leaders(self) -> list[RunningReplica]:
        ready = (r for r in self.nodes.values() if r.status().ready)
        return [r for r in ready if r.status().leader_id == r.status().node_id]


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    """Start all nodes of a rig, and stop those that still run at the end."""
    try:
        await rig.start()
    except OSError as exc:
        # Somebody else took a port between our looking for it and using it.
        if exc.errno != errno.EADDRINUSE:
            raise
        await rig.renew()
    try:
        yield rig
    finally:
        await rig.stop()


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
    compaction: CompactionLimits = field(default_factory=CompactionLimits)
    lives: dict[str, int] = field(default_factory=dict)
    files: Callable[[str], Files] = lambda _node_id: UnsyncedFiles()
    """The disk of a node, by its id."""

    def __post_init__(self) -> None:
        self.move()

    def move(self) -> None:
        # Asked for together: two calls may name the same port.
        ports = free_ports(len(self.node_ids))
        self.addresses = {
            node_id: f"127.0.0.1:{port}" for node_id, port in zip(self.node_ids, ports, strict=True)
        }

    def begin_again(self) -> None:
        """Another directory, other ports: nothing of what was before is left."""
        self.directory = self.directory / "again"
        self.fatal.clear()
        self.move()

    def incarnation(self, node_id: str) -> str:
        return f"life-{self.lives.get(node_id, 1)}-of-{node_id}"

    def wipe(self, node_id: str) -> None:
        """Let the node, which must be stopped, begin anew on an empty disk."""
        shutil.rmtree(self.directory / node_id)
        self.lives[node_id] = self.lives.get(node_id, 1) + 1

    def make(self, node_id: str) -> PysyncobjReplica:
        data_dir = self.directory / node_id
        data_dir.mkdir(parents=True, exist_ok=True)
        return PysyncobjReplica(
            ReplicaSettings(
                cluster_id=self.cluster_id,
                node_id=node_id,
                incarnation=self.incarnation(node_id),
                url=f"http://{node_id}.test",
                peer_listen=self.addresses[node_id],
                peers={i: address for i, address in self.addresses.items() if i != node_id},
                data_dir=data_dir,
                limits=self.limits,
                compaction=self.compaction,
                timing=self.timing,
            ),
            network=PlainNetwork(),
            files=self.files(node_id),
            on_fatal=lambda what, exc: self.fatal.append((what, exc)),
        )


def cluster_rig(plan: ClusterPlan) -> Rig:
    return Rig(make=plan.make, node_ids=plan.node_ids, move_on=plan.begin_again)


def free_port() -> int:
    """Return a port that nobody's outgoing connection takes while its node is away."""
    (port,) = free_ports(1)
    return port
