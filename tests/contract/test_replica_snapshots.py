"""Compaction, and members that come back behind it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from contract.busy_machines import excused
from contract.cluster_rig import ClusterPlan, Rig, cluster_rig, running, until
from seamfill_coordinator.machine.commands import Claim
from seamfill_coordinator.machine.outcomes import Claimed, Rejected
from seamfill_coordinator.raft.compaction import CompactionLimits
from seamfill_coordinator.raft.membership import Configuration, Member
from seamfill_coordinator.raft.messages import Hello
from seamfill_coordinator.raft.replica import PysyncobjReplica
from seamfill_coordinator.raft.snapshot_store import SnapshotUnusable

OFTEN = CompactionLimits(every_entries=40, keep_entries=10)


def often(directory: Path) -> ClusterPlan:
    return ClusterPlan(directory, compaction=OFTEN)


async def claim(rig: Rig, keys: list[str]) -> None:
    for key in keys:
        reply = await rig.propose(Claim(key=key, lease_ms=600_000))
        assert isinstance(reply.outcomes[0], Claimed), reply


async def assert_held(rig: Rig, keys: list[str]) -> None:
    for key in keys:
        reply = await rig.propose(Claim(key=key, lease_ms=600_000))
        assert isinstance(reply.outcomes[0], Rejected), key


def node_of(rig: Rig, node_id: str) -> PysyncobjReplica:
    replica = rig.nodes[node_id]
    assert isinstance(replica, PysyncobjReplica)
    return replica


def first_index(rig: Rig, node_id: str) -> int:
    return node_of(rig, node_id)._running_node.core.first_index


def peers_of(rig: Rig, node_id: str) -> Mapping[str, Hello]:
    return node_of(rig, node_id)._running_node.members.peers


async def test_a_log_that_was_trimmed_resumes_from_its_snapshot(tmp_path: Path) -> None:
    plan = often(Path(tempfile.mkdtemp(dir=tmp_path)))
    async with running(cluster_rig(plan)) as rig:
        keys = [f"k{n}" for n in range(150)]
        await claim(rig, keys)
        await rig.all_applied()
        assert all(first_index(rig, node_id) > 100 for node_id in rig.nodes)
        await rig.stop()
        await rig.start()
        await assert_held(rig, keys)
        await rig.all_applied()
        assert len(await rig.state_digests()) == 1
    assert plan.fatal == []


@excused
async def test_a_member_that_is_behind_the_log_gets_the_snapshot_under_load(
    tmp_path: Path,
) -> None:
    plan = often(Path(tempfile.mkdtemp(dir=tmp_path)))
    async with running(cluster_rig(plan)) as rig:
        await claim(rig, ["first"])
        gone = (await rig.followers())[0].status().node_id
        await rig.stop(gone)
        keys = [f"k{n}" for n in range(150)]
        await claim(rig, keys)
        await rig.start(gone)
        more = [f"more-{n}" for n in range(50)]
        await claim(rig, more)
        await rig.all_applied()
        assert node_of(rig, gone)._running_node.snapshots_installed >= 1
        assert len(await rig.state_digests()) == 1
        # What it got is its own now, across a restart of everything.
        await rig.stop()
        await rig.start()
        await assert_held(rig, ["first", *keys, *more])
    assert plan.fatal == []


@excused
async def test_a_wiped_member_counts_for_nothing_until_it_is_taken_in(tmp_path: Path) -> None:
    """It has forgotten its vote and what it acknowledged."""
    plan = often(Path(tempfile.mkdtemp(dir=tmp_path)))
    async with running(cluster_rig(plan)) as rig:
        keys = [f"k{n}" for n in range(100)]
        await claim(rig, keys)
        gone, kept = (replica.status().node_id for replica in await rig.followers())
        await rig.stop(gone)
        plan.wipe(gone)
        await rig.start(gone)
        await until(lambda: node_of(rig, gone).configuration is None)
        await claim(rig, ["while it is a stranger"])
        assert node_of(rig, gone).status().last_index == 1, "nobody feeds a stranger"

        # One of two that count goes: the stranger can not stand in for it.
        await rig.stop(kept)
        await until(lambda: all(not r.status().has_quorum for r in rig.nodes.values()))
        await rig.start(kept)
        leader = await rig.leader()
        assert isinstance(leader, PysyncobjReplica)

        present = leader.configuration
        assert present is not None
        reborn = Member(gone, plan.incarnation(gone))
        others = tuple(m for m in present.voters if m.node_id != gone)
        await rig.all_applied_on(*(m.node_id for m in others))
        leader.change_membership(Configuration(voters=others, learners=(reborn,)))
        await rig.all_applied()
        leader.change_membership(Configuration(voters=tuple(sorted((*others, reborn)))))
        await claim(rig, ["after it was taken in"])
        await rig.all_applied()
        assert len(await rig.state_digests()) == 1
        await rig.stop(kept)
        await claim(rig, ["with its help"])
    assert plan.fatal == []


async def test_wiped_members_do_not_found_a_cluster_beside_the_one_that_is(
    tmp_path: Path,
) -> None:
    """Two of three without memory are a majority; what they would elect knows nothing."""
    plan = ClusterPlan(tmp_path)
    async with running(cluster_rig(plan)) as rig:
        await claim(rig, ["remembered"])
        await rig.stop()
        for node_id in ("n1", "n2"):
            plan.wipe(node_id)
        await rig.start()
        await until(
            lambda: all(len(node_of(rig, n)._running_node.members.peers) == 2 for n in rig.nodes)
        )
        assert [node_of(rig, n).configuration is None for n in ("n1", "n2")] == [True, True]
        assert await rig.nodes["n1"].wait_for_leader(timeout_ms=1_500) is None
    assert plan.fatal == []


async def test_a_disk_that_can_not_be_read_is_not_taken_for_an_address(tmp_path: Path) -> None:
    plan = ClusterPlan(tmp_path)
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "snapshots").write_text("a file where a directory should be")
    with pytest.raises(SnapshotUnusable, match="snapshots"):
        await plan.make("n1").start()
