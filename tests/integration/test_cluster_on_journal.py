"""Three real replicas over TCP, each with its journal on a disk that loses power.

What a node acknowledged to its peers, and what a cluster acknowledged to its callers, is on disk.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.cluster_rig import ClusterPlan, Rig, cluster_rig
from contract.journal_rig import journal_on
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.machine.commands import Claim
from seamfill_coordinator.machine.outcomes import Claimed, Rejected, RejectReason


@dataclass(slots=True)
class Disks:
    """Each node's disk, by its id."""

    by_node: dict[str, SimulatedDisk] = field(default_factory=dict)
    honours_sync: bool = True

    def of(self, node_id: str) -> SimulatedDisk:
        new = SimulatedDisk(honours_sync=self.honours_sync)
        return self.by_node.setdefault(node_id, new)

    def lose_power(self, fate: Fate, rng: random.Random) -> None:
        for node_id, disk in self.by_node.items():
            self.by_node[node_id] = disk.after_power_loss(fate, rng)


@pytest.fixture
def disks() -> Disks:
    return Disks()


@pytest.fixture
async def rig(tmp_path: Path, disks: Disks) -> AsyncIterator[Rig]:
    plan = ClusterPlan(tmp_path, files=disks.of)
    built = cluster_rig(plan)
    await built.start()
    yield built
    await built.stop()
    assert plan.fatal == []


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


async def test_on_disks_that_do_not_sync_claims_are_lost(tmp_path: Path) -> None:
    """The control: were it green, the test above would prove nothing."""
    disks = Disks(honours_sync=False)
    rig = cluster_rig(ClusterPlan(tmp_path, files=disks.of))
    await rig.start()
    keys = [f"k{i}" for i in range(15)]
    await claim_all(rig, keys)
    await restart_without_power(rig, disks, Fate.DROPPED, random.Random(3))
    rig.forget_session()
    assert await held(rig, keys) == []
    await rig.stop()


async def test_the_journals_agree_on_what_is_committed(
    rig: Rig, disks: Disks, tmp_path: Path
) -> None:
    """Beyond it they may differ for a while, where leadership has moved."""
    await claim_all(rig, [f"k{i}" for i in range(15)])
    await rig.all_applied()
    committed = min(replica.status().commit_index for replica in rig.nodes.values())
    await rig.stop()
    logs = [
        journal_on(
            disk,
            directory=tmp_path / node_id / "journal",
            cluster_id="test-cluster",
            incarnation=f"life-1-of-{node_id}",
            snapshot_index=None,
        )[:]
        for node_id, disk in disks.by_node.items()
    ]
    first, second, third = ([entry for entry in log if entry[1] <= committed] for log in logs)
    assert len(first) > 15
    assert first == second == third
