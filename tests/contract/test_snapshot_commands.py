"""``coordinator snapshot`` and ``replay``: a backup, a new cluster from it, nodes compared."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from contract.cluster_rig import ClusterPlan, Rig, cluster_rig, running
from contract.http_rig import Facts, SteppedClock, http_rig, serving
from seamfill_coordinator.cli import main
from seamfill_coordinator.data_dir import open_data_dir
from seamfill_coordinator.machine.commands import Claim, FailClaim
from seamfill_coordinator.machine.invariants import check, verify_copies
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Claimed, Rejected
from seamfill_coordinator.machine.rebirth import FENCE_JUMP
from seamfill_coordinator.raft.compaction import CompactionLimits
from seamfill_coordinator.raft.journal_files import OsFiles
from seamfill_coordinator.raft.membership import Configuration, Member
from seamfill_coordinator.raft.offline_replay import replay_directory
from seamfill_coordinator.raft.replica import PysyncobjReplica
from seamfill_coordinator.raft.snapshot_store import SnapshotStore, load_file
from seamfill_coordinator.replication import SnapshotNotSaved

NODES = ("n1", "n2", "n3")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def document(result: Result) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


async def claim(rig: Rig, *keys: str) -> list[int]:
    """Claim keys for ten minutes; return their fences."""
    fences = []
    for key in keys:
        (outcome,) = (await rig.propose(Claim(key=key, lease_ms=600_000))).outcomes
        assert isinstance(outcome, Claimed), outcome
        fences.append(int(outcome.token))
    return fences


@dataclass(frozen=True, slots=True)
class Grown:
    """The directories of a cluster that was stopped in order."""

    data_dir: Path
    """Of one of its nodes."""
    all: tuple[Path, ...]
    snapshot: Path
    digests: dict[int, str]
    """As that node told them while it ran."""
    fence: int
    rev: int


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """A cluster that wrote a few snapshots of its own, was asked for one, and went on."""
    directory = tmp_path_factory.mktemp("cluster")

    async def live() -> Grown:
        plan = ClusterPlan(directory, compaction=CompactionLimits(every_entries=70, keep_entries=5))
        async with running(cluster_rig(plan)) as rig:
            await claim(rig, *[f"k{n}" for n in range(120)])
            leader = await rig.leader()
            saved = await leader.save_snapshot(timeout_ms=30_000)
            assert saved.last_index > 120
            fences = await claim(rig, *[f"later-{n}" for n in range(20)])
            await rig.all_applied()
            status = leader.status()
            found = Grown(
                data_dir=directory / status.node_id,
                all=tuple(directory / node_id for node_id in NODES),
                snapshot=saved.path,
                digests=status.digests,
                fence=fences[-1],
                rev=leader.machine.rev,
            )
        assert plan.fatal == []
        return found

    return asyncio.run(live())


def everything(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# ── save ─────────────────────────────────────────────────────────────────────────────────────────


async def test_any_node_saves_what_it_has_applied_and_once_for_all_who_ask(tmp_path: Path) -> None:
    plan = ClusterPlan(tmp_path)
    async with running(cluster_rig(plan)) as rig:
        await claim(rig, "a", "b", "c")
        await rig.all_applied()
        for replica in rig.nodes.values():
            index = replica.status().applied_index
            one, two = await asyncio.gather(
                replica.save_snapshot(timeout_ms=30_000), replica.save_snapshot(timeout_ms=30_000)
            )
            assert one == two
            assert one.last_index >= index
            _, machine = load_file(OsFiles(), one.path)
            assert one.path.stat().st_size == one.size
            assert machine.rev >= 3
    assert plan.fatal == []


async def test_a_save_that_does_not_come_in_time_says_so(tmp_path: Path) -> None:
    plan = ClusterPlan(tmp_path)
    async with running(cluster_rig(plan)) as rig:
        await claim(rig, "a")
        leader = await rig.leader()
        with pytest.raises(SnapshotNotSaved, match="not written within 0 ms"):
            await leader.save_snapshot(timeout_ms=0)
        assert (await leader.save_snapshot(timeout_ms=30_000)).last_index > 1


async def test_over_http_the_node_that_was_asked_saves(tmp_path: Path) -> None:
    plan = ClusterPlan(tmp_path, node_ids=("n1",))
    async with running(cluster_rig(plan)) as rig:
        await claim(rig, "a")
        facts = Facts(data_dir=tmp_path, cluster_id=plan.cluster_id)
        async with serving(rig.nodes["n1"], facts, SteppedClock()) as http:
            saved = (await http.post("/v1/cluster/snapshot", {})).body
            assert saved["node_id"] == "n1"
            assert Path(saved["file"]).stat().st_size == saved["bytes"]
            shown = await asyncio.to_thread(
                run, "snapshot", "save", "--endpoint", http.url, "-o", "json"
            )
            assert shown.exit_code == 0, shown.output
            assert document(shown)["last_index"] >= saved["last_index"]
            told = await asyncio.to_thread(run, "snapshot", "save", "--endpoint", http.url)
            assert told.stdout.startswith("n1 wrote ")


async def test_a_node_in_memory_alone_refuses(tmp_path: Path) -> None:
    async with http_rig(tmp_path) as rig:
        got = await rig.post("/v1/cluster/snapshot", {})
        assert (got.status, got.body["code"]) == (503, "snapshot_not_saved")


# ── inspect ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["file", "data directory", "snapshot directory"])
def test_inspect_shows_what_a_snapshot_holds(grown: Grown, what: str) -> None:
    path = {
        "file": next((grown.data_dir / "snapshots").iterdir()),
        "data directory": grown.data_dir,
        "snapshot directory": grown.data_dir / "snapshots",
    }[what]
    before = everything(grown.data_dir)
    shown = document(run("snapshot", "inspect", path, "-o", "json"))
    _, machine = load_file(OsFiles(), Path(shown["file"]))
    assert shown["ok"] is True
    assert shown["cluster_id"] == "test-cluster"
    assert shown["last_index"] == int(Path(shown["file"]).name.split(".")[0])
    assert [m["node_id"] for m in shown["members"]["voters"]] == list(NODES)
    assert shown["rows"]["claims"] == len(machine.state.claims) >= 100
    assert shown["state_digest"] == machine.state_digest()
    assert everything(grown.data_dir) == before, "nothing was changed"
    table = run("snapshot", "inspect", path).stdout
    assert f"state digest    {shown['state_digest']}" in table


def test_inspect_names_file_and_offset_of_damage(grown: Grown, tmp_path: Path) -> None:
    content = bytearray(next((grown.data_dir / "snapshots").iterdir()).read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "backup"
    damaged.write_bytes(content)
    result = run("snapshot", "inspect", damaged, "-o", "json")
    assert result.exit_code == 8
    shown = document(result)
    assert (shown["ok"], shown["code"], shown["file"]) == (False, "snapshot_invalid", str(damaged))
    assert 0 < shown["offset"] <= len(content) // 2
    assert f"{damaged}, offset {shown['offset']}" in result.stderr


def test_where_there_is_no_snapshot_inspect_exits_3(tmp_path: Path) -> None:
    assert run("snapshot", "inspect", tmp_path).exit_code == 3
    assert run("snapshot", "inspect", tmp_path / "nothing").exit_code == 3


# ── restore ──────────────────────────────────────────────────────────────────────────────────────


def restore(grown: Grown, data_dir: Path, *more: str, cluster_id: str = "reborn") -> Result:
    nodes = [part for node in NODES for part in ("--node", node)]
    return run(
        "snapshot", "restore", next((grown.data_dir / "snapshots").iterdir()),
        "--cluster-id", cluster_id, *nodes, "--data-dir", data_dir, "-o", "json", *more,
    )  # fmt: skip


@dataclass(slots=True)
class RestoredPlan(ClusterPlan):
    """The cluster that lives in restored directories."""

    def incarnation(self, node_id: str) -> str:
        home = open_data_dir(self.directory / node_id, cluster_id="reborn", node_id=node_id)
        home.release()
        return home.incarnation


def restored_plan(data_dir: Path, **more: Any) -> RestoredPlan:
    return RestoredPlan(data_dir, cluster_id="reborn", **more)


def test_a_restored_cluster_goes_on_with_the_state_and_higher_fences(
    grown: Grown, tmp_path: Path
) -> None:
    made = document(restore(grown, tmp_path / "new"))
    assert [node["id"] for node in made["nodes"]] == list(NODES)
    assert len({node["incarnation"] for node in made["nodes"]}) == len(NODES)

    async def live() -> None:
        plan = restored_plan(tmp_path / "new")
        async with running(cluster_rig(plan)) as rig:
            leader = await rig.leader()
            assert leader.status().term > made["last_term"]
            assert leader.status().cluster_id == "reborn"
            reply = await rig.propose(Claim(key="k0", lease_ms=600_000))
            assert isinstance(reply.outcomes[0], Rejected), "still held, as in the old life"
            # Fences that the old cluster gave out after the snapshot are not given out again.
            (fence,) = await claim(rig, "another")
            assert fence > grown.fence + FENCE_JUMP // 2
            (refused,) = (await rig.propose(FailClaim(key="k0", token=str(fence)))).outcomes
            assert isinstance(refused, Rejected)
            assert len(await rig.state_digests()) == 1
            await rig.stop()
            await rig.start()
            assert (await claim(rig, "once more"))[0] > fence
        assert plan.fatal == []

    asyncio.run(live())


def test_a_node_on_an_empty_directory_counts_for_nothing(grown: Grown, tmp_path: Path) -> None:
    """It must not found an empty cluster in the place of the restored one, nor vote in it."""
    made = document(restore(grown, tmp_path / "new"))
    configuration = Configuration(
        voters=tuple(Member(node["id"], node["incarnation"]) for node in made["nodes"])
    )
    plan = restored_plan(tmp_path / "new")
    for path in sorted((tmp_path / "new" / "n1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    async def live() -> None:
        rig = cluster_rig(plan)
        try:
            await rig.start()  # n1, the founder by its id, is the empty one
            (fence,) = await claim(rig, "another")
            assert fence > FENCE_JUMP
            for replica in rig.nodes.values():
                assert isinstance(replica, PysyncobjReplica)
                # As the directories were made; the empty one has another incarnation.
                assert replica.configuration in (None, configuration)
            assert rig.nodes["n1"].status().role == "follower"
        finally:
            await rig.stop()
        assert plan.fatal == []

    asyncio.run(live())


def test_restore_refuses_what_is_not_safe(grown: Grown, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("something")
    for result, why in (
        (restore(grown, tmp_path / "a", cluster_id="test-cluster"), "must be another one"),
        (restore(grown, used), "is not empty"),
        (restore(grown, tmp_path / "a", "--node", "n1"), "each node of the new cluster once"),
        (restore(grown, tmp_path / "a", "--node", "../n4"), "name of a directory"),
    ):
        assert result.exit_code == 4
        assert why in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"], "nothing was made"
    assert restore(grown, tmp_path / "a").exit_code == 0
    again = restore(grown, tmp_path / "a")
    assert again.exit_code == 4


def test_restore_leaves_nothing_of_a_damaged_snapshot(grown: Grown, tmp_path: Path) -> None:
    damaged = tmp_path / "backup"
    content = next((grown.data_dir / "snapshots").iterdir()).read_bytes()
    damaged.write_bytes(content[:-1])
    arguments = ("--cluster-id", "reborn", "--node", "n1", "--data-dir", tmp_path / "new")
    assert run("snapshot", "restore", damaged, *arguments).exit_code == 8
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def test_a_restored_log_begins_in_the_term_of_its_snapshot(tmp_path: Path) -> None:
    """Were it lower, the new cluster's first terms would be older than its own log."""
    store = SnapshotStore(tmp_path / "old", OsFiles(), cluster_id="c1")
    writer = store.begin(LeaseMachine(), last_index=900, last_term=40, configuration=None)
    while (info := writer.step()) is None:
        pass
    arguments = ("--cluster-id", "reborn", "--node", "n1", "--data-dir", tmp_path / "new")
    assert run("snapshot", "restore", info.path, *arguments).exit_code == 0
    shown = document(run("journal", "inspect", tmp_path / "new" / "n1", "-o", "json"))
    assert (shown["term"], shown["vote"], shown["first"], shown["last_term"]) == (40, None, 900, 40)


def test_a_new_life_keeps_every_invariant(grown: Grown, tmp_path: Path) -> None:
    assert restore(grown, tmp_path / "new").exit_code == 0
    for node_id in NODES:
        machine = replay_directory(tmp_path / "new" / node_id, OsFiles()).machine
        check(machine)
        verify_copies(machine)
        assert machine.state.members == {}


# ── replay ───────────────────────────────────────────────────────────────────────────────────────


def test_replays_of_all_nodes_agree_with_each_other_and_with_what_they_told(grown: Grown) -> None:
    before = everything(grown.data_dir)
    shown = [document(run("replay", path, "--digests", "-o", "json")) for path in grown.all]
    newest = min(each["index"] for each in shown)
    assert newest > max(grown.digests) - 64
    at_one_index = {
        document(run("replay", path, "--until", newest, "-o", "json"))["state_digest"]
        for path in grown.all
    }
    assert len(at_one_index) == 1
    mine = document(run("replay", grown.data_dir, "--digests", "-o", "json"))
    told = {index: found for index, found in grown.digests.items() if str(index) in mine["digests"]}
    assert told
    assert {int(i): found for i, found in mine["digests"].items()} | told == {
        int(i): found for i, found in mine["digests"].items()
    }
    assert mine["rev"] >= grown.rev - 20
    assert mine["commands"] > 0
    assert everything(grown.data_dir) == before, "nothing was changed"


def test_replay_until_an_index_that_is_not_here_says_what_is(grown: Grown) -> None:
    for index in (1, 1_000_000):
        result = run("replay", grown.data_dir, "--until", index, "-o", "json")
        assert result.exit_code == 4
        assert document(result)["code"] == "replay_refused"
        assert "the snapshot ends at" in result.stderr


def test_replay_refuses_a_journal_whose_snapshot_is_gone(grown: Grown, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "journal").mkdir(parents=True)
    for path in (grown.data_dir / "journal").iterdir():
        (home / "journal" / path.name).write_bytes(path.read_bytes())
    result = run("replay", home, "-o", "json")
    assert result.exit_code == 8
    assert document(result)["code"] == "journal_incomplete"
    assert run("replay", tmp_path).exit_code == 3


def test_replay_of_a_snapshot_alone_shows_its_state(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots", OsFiles(), cluster_id="c1")
    writer = store.begin(
        LeaseMachine(),
        last_index=64,
        last_term=2,
        configuration=Configuration(voters=(Member("n1", "life"),)),
    )
    while writer.step() is None:
        pass
    shown = document(run("replay", tmp_path, "-o", "json"))
    assert (shown["index"], shown["term"], shown["digest_index"]) == (64, 2, 64)
    assert shown["state_digest"] == shown["digest_at_index"] == LeaseMachine().state_digest()


async def test_a_node_that_stops_tells_who_waits_for_a_snapshot(tmp_path: Path) -> None:
    plan = ClusterPlan(tmp_path, node_ids=("n1",))
    rig = cluster_rig(plan)
    await rig.start()
    await claim(rig, "a")
    waiting = asyncio.ensure_future(rig.nodes["n1"].save_snapshot(timeout_ms=30_000))
    await asyncio.sleep(0)
    await rig.stop()
    with pytest.raises(SnapshotNotSaved, match="stopping"):
        await waiting
