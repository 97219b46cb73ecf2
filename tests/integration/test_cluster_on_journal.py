"""Three real replicas over TCP, each with its journal on a disk that loses power.

The shell that owns turns of the loop is not wired to the journal yet; here the transport stands in
for it: nothing leaves a node before its journal is synced.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import syncobj as syncobj_module

from contract.cluster_rig import ClusterPlan, Rig, cluster_rig
from contract.journal_rig import Fatal, journal_on
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.machine.commands import Claim
from seamfill_coordinator.machine.outcomes import Claimed, Rejected, RejectReason
from seamfill_coordinator.raft import peers
from seamfill_coordinator.raft.journal import DurableJournal


@dataclass(slots=True)
class Disks:
    """Each node's disk, by the path that its core asks for."""

    by_path: dict[Path, SimulatedDisk] = field(default_factory=dict)
    syncs: bool = True
    fatal: Fatal = field(default_factory=Fatal)

    def journal(self, path: str) -> DurableJournal:
        directory = Path(path)
        disk = self.by_path.setdefault(directory, SimulatedDisk())
        return journal_on(disk, directory=directory, fatal=self.fatal, snapshot_index=None)

    def lose_power(self, fate: Fate, rng: random.Random) -> None:
        for path, disk in self.by_path.items():
            self.by_path[path] = disk.after_power_loss(fate, rng)


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> Disks:
    disks = Disks()
    send = peers.MemberTransport.send

    def sync_and_send(transport: Any, node: Any, message: Any) -> bool:
        if disks.syncs:
            transport._syncObj._SyncObj__raftLog.sync()
        return send(transport, node, message)

    monkeypatch.setattr(syncobj_module, "createJournal", disks.journal)
    monkeypatch.setattr(peers.MemberTransport, "send", sync_and_send)
    return disks


@pytest.fixture
async def rig(tmp_path: Path, disks: Disks) -> AsyncIterator[Rig]:
    plan = ClusterPlan(tmp_path)
    built = cluster_rig(plan)
    await built.start()
    yield built
    await built.stop()
    assert (plan.fatal, disks.fatal.calls) == ([], [])


async def claim_all(rig: Rig, keys: list[str]) -> None:
    """Claim the keys one by one; each is acknowledged, if need be by the next leader."""
    for key in keys:
        reply = await rig.propose(Claim(key=key, lease_ms=600_000))
        assert isinstance(reply.outcomes[0], Claimed), reply


async def held(rig: Rig, keys: list[str]) -> list[str]:
    """Return the keys that can not be claimed again: somebody holds them."""
    refused = []
    for key in keys:
        (outcome,) = (await rig.propose(Claim(key=key, lease_ms=600_000))).outcomes
        if isinstance(outcome, Rejected) and outcome.reason is RejectReason.HELD:
            refused.append(key)
    return refused


async def restart_without_power(rig: Rig, disks: Disks, fate: Fate, rng: random.Random) -> None:
    """All nodes at once: what they still write while they stop goes to the disks that are gone."""
    disks.lose_power(fate, rng)
    await rig.stop()
    await rig.start()


async def test_all_three_lose_power_again_and_again_and_keep_every_claim(
    rig: Rig, disks: Disks
) -> None:
    rng, claimed = random.Random(3), list[str]()
    for round_number, fate in enumerate((Fate.DROPPED, Fate.TORN, Fate.KEPT, Fate.TORN)):
        keys = [f"k{round_number}-{i}" for i in range(15)]
        await claim_all(rig, keys)
        claimed += keys
        await restart_without_power(rig, disks, fate, rng)
    assert await held(rig, claimed) == claimed


async def test_without_the_sync_before_sending_claims_are_lost(rig: Rig, disks: Disks) -> None:
    """The control: were it green, the test above would prove nothing."""
    disks.syncs = False
    keys = [f"k{i}" for i in range(15)]
    await claim_all(rig, keys)
    await restart_without_power(rig, disks, Fate.DROPPED, random.Random(3))
    rig.forget_session()
    assert await held(rig, keys) == []


async def test_the_journals_agree_on_what_is_committed(rig: Rig, disks: Disks) -> None:
    """Beyond it they may differ for a while, where leadership has moved."""
    await claim_all(rig, [f"k{i}" for i in range(15)])
    await rig.all_applied()
    committed = min(replica.status().commit_index for replica in rig.nodes.values())
    await rig.stop()
    logs = [disks.journal(str(path))[:] for path in disks.by_path]
    first, second, third = ([entry for entry in log if entry[1] <= committed] for log in logs)
    assert len(first) > 15
    assert first == second == third
