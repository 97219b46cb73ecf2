"""A whole node loses power at every write, sync and rename, through three compactions.

Journal, snapshots, trimming and their order together: after each step the disk is taken as power
loss would leave it, a node starts on it, and must know everything that was acknowledged by then.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from contract.node_rig import Cluster, Peer
from seamfill.errors import SeamfillError
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import Claim, Command, Request, Stamp
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Claimed
from seamfill_coordinator.raft.compaction import CompactionLimits

OPERATIONS = 200
COMPACTION = CompactionLimits(every_entries=60, keep_entries=5)


def command(number: int) -> bytes:
    request = Request(operations=(Claim(key=f"key-{number}", lease_ms=600_000),))
    stamp = Stamp(term=1, reign_ms=number * 10, wall_ms=number * 10)
    return encode_command(Command(version=1, stamp=stamp, requests=(request,)))


@dataclass(slots=True)
class Script:
    """The run, and what a restart at each of its steps found."""

    honours_sync: bool
    acknowledged: int = 0
    snapshots: int = 0
    digests: dict[str, int] = field(default_factory=dict)
    """State digest → operations applied."""
    steps: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    _rng: random.Random = field(default_factory=lambda: random.Random(4))

    def run(self) -> None:
        disk = SimulatedDisk(honours_sync=self.honours_sync)
        cluster = Cluster("n1", compaction=COMPACTION, disks={"n1": disk})
        leader = cluster.elect("n1")
        machine = cluster.peers["n1"].lease_machine
        self.digests[machine.state_digest()] = 0
        disk.on_step = lambda name, path: self._lose_power(disk, name, path)
        for number in range(1, OPERATIONS + 1):
            leader.append(command(number), lambda applied: self._landed(applied, machine))
            cluster.turn()
            cluster.turn()
        disk.on_step = None
        assert self.acknowledged == OPERATIONS

    def _landed(self, applied: Applied | None, machine: LeaseMachine) -> None:
        assert applied is not None
        (reply,) = applied.replies
        assert isinstance(reply.outcomes[0], Claimed)
        self.acknowledged += 1
        self.digests[machine.state_digest()] = self.acknowledged

    def _lose_power(self, disk: SimulatedDisk, name: str, path: Path) -> None:
        self.steps[name] += 1
        self.snapshots += name == "rename" and path.parent.name == "snapshots"
        for fate in Fate:
            remembered = self._remembered(disk.after_power_loss(fate, self._rng))
            if remembered is None or remembered < self.acknowledged:
                self.lost.append(f"{name} {path.name}, {fate.value}: {remembered}")

    def _remembered(self, disk: SimulatedDisk) -> int | None:
        """Return how many operations a node on this disk knows.

        None for a state that never was, and for a node that refuses to start.
        """
        try:
            cluster = Cluster("n1", compaction=COMPACTION, disks={"n1": disk}, founded=False)
        except (SeamfillError, OSError):
            return None
        cluster.elect("n1")
        survivor: Peer = cluster.peers["n1"]
        known = self.digests.get(survivor.lease_machine.state_digest())
        if known is None and len(survivor.lease_machine.state.claims) == self.acknowledged + 1:
            # The one that is being made durable now, and was applied nowhere yet.
            return self.acknowledged + 1
        return known


def test_what_was_acknowledged_survives_power_loss_at_every_step() -> None:
    script = Script(honours_sync=True)
    script.run()
    assert script.lost == []
    assert script.snapshots == 3
    assert script.steps["write"] > OPERATIONS
    assert script.steps["sync"] > OPERATIONS
    assert min(script.steps[name] for name in ("create", "rename", "sync_directory")) >= 3


def test_on_a_disk_that_does_not_sync_it_does_not() -> None:
    """The control: were it green, the test above would prove nothing."""
    script = Script(honours_sync=False)
    script.run()
    assert len(script.lost) > OPERATIONS
