"""Raft nodes without asyncio, sockets or real time: messages lie in a list until a test delivers.

A test decides what arrives, in which order and when, one message at a time, so that it can put a
cluster into exactly the state that a rule exists for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from contract.journal_rig import Fatal
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.machine.codec import apply_encoded, command_version
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.compaction import CompactionLimits
from seamfill_coordinator.raft.journal import open_journal
from seamfill_coordinator.raft.messages import Hello, Message
from seamfill_coordinator.raft.node import NodeSettings, RaftNode
from seamfill_coordinator.raft.snapshot_store import SnapshotStore
from seamfill_coordinator.raft.timing import RaftTiming

CLUSTER = "c1"
DIRECTORY = Path("/data")
TIMING = RaftTiming()
SEGMENT_BYTES = 16 << 10


@dataclass(slots=True)
class Packet:
    """One message that was sent and not delivered yet."""

    sender: str
    receiver: str
    message: Message


@dataclass(slots=True, eq=False)
class Peer:
    """One node and its surroundings."""

    cluster: Cluster
    node_id: str
    incarnation: str
    disk: SimulatedDisk = field(default_factory=SimulatedDisk)
    applied: list[tuple[int, bytes]] = field(default_factory=list)
    lease_machine: LeaseMachine = field(default_factory=LeaseMachine)
    node: RaftNode = field(init=False)

    def start(self) -> None:
        store = SnapshotStore(DIRECTORY / "snapshots", self.disk, cluster_id=CLUSTER)
        newest = store.newest()
        self.applied.clear()
        self.lease_machine = LeaseMachine() if newest is None else store.load(newest)
        journal = open_journal(
            DIRECTORY / "journal",
            cluster_id=CLUSTER,
            incarnation=self.incarnation,
            fatal=Fatal(),
            files=self.disk,
            snapshot_index=None if newest is None else newest.last_index,
            segment_bytes=SEGMENT_BYTES,
        )
        self.node = RaftNode(
            NodeSettings(
                cluster_id=CLUSTER,
                node_id=self.node_id,
                incarnation=self.incarnation,
                peer_ids=tuple(n for n in self.cluster.node_ids if n != self.node_id),
                timing=TIMING,
                compaction=self.cluster.compaction,
            ),
            journal=journal,
            snapshots=store,
            newest=newest,
            hooks=self,
            now_ms=lambda: self.cluster.now_ms,
            draw=lambda low, _high: low,
        )
        self.node.turn()

    # NodeHooks

    def apply(self, index: int, command: bytes) -> Applied:
        self.applied.append((index, command))
        if command_version(command) is None:
            return Applied(replies=())
        return apply_encoded(self.lease_machine, command)

    def machine(self) -> LeaseMachine:
        return self.lease_machine

    def installed(self, machine: LeaseMachine, last_index: int) -> None:
        self.lease_machine = machine

    def send(self, node_id: str, message: Message) -> bool:
        self.cluster.packets.append(Packet(self.node_id, node_id, message))
        return True

    def flush(self) -> None:
        """Everything lies in the list already."""

    # What tests ask

    def lose_power(self) -> None:
        """Come back with what was synced, and nothing else."""
        self.disk = self.disk.after_power_loss(Fate.DROPPED, random.Random(0))
        self.start()


class Cluster:
    """Some peers, a clock and what is on its way between them."""

    def __init__(
        self,
        *node_ids: str,
        compaction: CompactionLimits | None = None,
        founded: bool = True,
        disks: dict[str, SimulatedDisk] | None = None,
    ) -> None:
        self.node_ids = node_ids
        self.compaction = compaction or CompactionLimits()
        self.now_ms = 0
        self.packets: list[Packet] = []
        self.peers = {n: Peer(self, n, f"life-1-of-{n}") for n in node_ids}
        for peer in self.peers.values():
            peer.disk = (disks or {}).get(peer.node_id, peer.disk)
            peer.start()
        if founded:
            self.connect()
            self.settle()

    def __getitem__(self, node_id: str) -> RaftNode:
        return self.peers[node_id].node

    def connect(self, *node_ids: str) -> None:
        """Connect these among each other, all if none is named; again is a new connection."""
        names = node_ids or self.node_ids
        hellos: dict[str, Hello] = {n: self[n].members.hello for n in names}
        for name in names:
            for other in names:
                if other != name:
                    self[name].connected(hellos[other])

    def disconnect(self, node_id: str) -> None:
        """Cut the node off; what was on its way is lost."""
        for other in self.node_ids:
            if other != node_id:
                self[other].disconnected(node_id)
                self[node_id].disconnected(other)
        self.packets = [p for p in self.packets if node_id not in (p.sender, p.receiver)]

    def restart(self, node_id: str) -> None:
        """Stop the node without power, and start it, connected to nobody."""
        self.disconnect(node_id)
        self.peers[node_id].lose_power()

    def turn(self, *node_ids: str) -> None:
        for node_id in node_ids or self.node_ids:
            self[node_id].turn()

    def deliver(self, *kinds: type, to: str | None = None) -> list[Message]:
        """Deliver what lies there now, of these kinds or all, to one or all; no turn follows."""
        due = [
            p
            for p in self.packets
            if (not kinds or isinstance(p.message, kinds)) and to in (None, p.receiver)
        ]
        self.packets = [p for p in self.packets if p not in due]
        for packet in due:
            if packet.sender in self[packet.receiver].members.peers:
                self[packet.receiver].received(packet.sender, packet.message)
        return [packet.message for packet in due]

    def settle(self) -> None:
        """Turn and deliver until nobody has anything to say."""
        for _ in range(200):
            self.turn()
            if not self.packets:
                return
            self.deliver()
        raise AssertionError("they never stop talking")

    def wait(self, duration_ms: int) -> None:
        """Let time pass, in steps shorter than a heartbeat, everything delivered at once."""
        for _ in range(duration_ms // 10):
            self.now_ms += 10
            self.settle()

    def elect(self, node_id: str) -> RaftNode:
        """Let this node call the next election, and win it."""
        self.now_ms += 2 * TIMING.election_max_ms
        for peer in self.peers.values():
            # All are due by now; the others get one more timeout.
            if peer.node_id != node_id:
                peer.node.campaign._elections.voted(self.now_ms)
        self.turn(node_id)
        self.settle()
        assert self[node_id].core.is_leader
        return self[node_id]

    @property
    def leaders(self) -> list[str]:
        return [n for n in self.node_ids if self[n].core.is_leader]
