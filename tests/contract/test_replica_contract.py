"""What the service may rely on, whatever stands behind ``Replica``."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.busy_machines import excused
from contract.cluster_rig import (
    PATIENT_MS,
    ClusterPlan,
    Rig,
    cluster_rig,
    running,
    solo_rig,
    until,
)
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import Claim, Command, OpenSession, Request, Stamp
from seamfill_coordinator.machine.outcomes import Applied, Claimed, Opened, Rejected, Reply
from seamfill_coordinator.raft.aggregator import AggregatorLimits
from seamfill_coordinator.raft.timing import RaftTiming
from seamfill_coordinator.replication import NotLeader, Overloaded, ProposalOutcomeUnknown, Role


@pytest.fixture(params=["solo", "three"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param == "solo":
        async with running(solo_rig()) as built:
            yield built
        return
    plan = ClusterPlan(tmp_path)
    async with running(cluster_rig(plan)) as built:
        yield built
    assert plan.fatal == []


@pytest.fixture
async def plan(tmp_path: Path) -> ClusterPlan:
    return ClusterPlan(tmp_path)


@pytest.fixture
async def three(plan: ClusterPlan) -> AsyncIterator[Rig]:
    async with running(cluster_rig(plan)) as built:
        yield built
    assert plan.fatal == []


def a_claim(key: str) -> Claim:
    return Claim(key=key, lease_ms=600_000)


def claim(key: str) -> Request:
    return Request(operations=(a_claim(key),))


def is_held(reply: Reply) -> bool:
    (outcome,) = reply.outcomes
    return isinstance(outcome, Rejected) and outcome.reason == "held"


@excused
async def test_a_proposal_is_applied_once_on_every_node(rig: Rig) -> None:
    leader = await rig.leader()
    before = leader.machine.rev
    reply = await leader.propose(claim("a"), timeout_ms=PATIENT_MS)
    assert isinstance(reply.outcomes[0], Claimed)
    assert reply.rev == before + 1
    await rig.all_applied()
    assert {replica.machine.rev for replica in rig.nodes.values()} == {reply.rev}


async def test_a_repeated_claim_is_refused_by_the_machine_not_by_the_replica(rig: Rig) -> None:
    await rig.propose(a_claim("a"))
    assert is_held(await rig.propose(a_claim("a")))


@excused
async def test_each_caller_of_a_shared_command_gets_its_own_reply(rig: Rig) -> None:
    leader = await rig.leader()
    commands: list[Applied] = []
    leader.on_applied(commands.append)
    replies = await asyncio.gather(
        *(leader.propose(claim(f"key-{n}"), timeout_ms=PATIENT_MS) for n in range(500))
    )
    assert [reply.rev for reply in replies] == sorted(reply.rev for reply in replies)
    tokens = {o.token for reply in replies for o in reply.outcomes if isinstance(o, Claimed)}
    assert len(tokens) == 500
    with_requests = [applied for applied in commands if applied.replies]
    assert len(with_requests) <= 5, "500 concurrent requests must share a few commands"


@excused
async def test_a_barrier_sees_what_was_acknowledged_before(rig: Rig) -> None:
    leader = await rig.leader()
    reply = await leader.propose(claim("a"), timeout_ms=PATIENT_MS)
    await leader.barrier(timeout_ms=PATIENT_MS)
    assert leader.machine.rev >= reply.rev


@excused
async def test_concurrent_barriers_share_a_command(rig: Rig) -> None:
    leader = await rig.leader()
    before = leader.status().applied_index
    await asyncio.gather(*(leader.barrier(timeout_ms=PATIENT_MS) for _ in range(200)))
    assert leader.status().applied_index - before <= 3
    # It waits for an entry that is appended after the call: at least one there must be.
    assert leader.status().applied_index > before


async def test_a_leader_that_is_ready_has_announced_itself(rig: Rig) -> None:
    leader = await rig.leader()
    status = leader.status()
    assert status.ready
    assert status.has_quorum
    assert status.role is Role.LEADER
    assert leader.machine.rev >= 1, "the announcement is an operation"


@excused
async def test_every_node_learns_who_leads(rig: Rig) -> None:
    leader_id = (await rig.leader()).status().node_id
    for replica in rig.nodes.values():
        assert await replica.wait_for_leader(timeout_ms=PATIENT_MS) == leader_id


@excused
async def test_a_listener_that_raises_changes_nothing(rig: Rig) -> None:
    """pysyncobj would apply the entry a second time on this node alone."""
    leader = await rig.leader()

    def broken(_applied: Applied) -> None:
        raise RuntimeError("this listener is broken")

    leader.on_applied(broken)
    first = await leader.propose(claim("a"), timeout_ms=PATIENT_MS)
    second = await leader.propose(claim("b"), timeout_ms=PATIENT_MS)
    assert second.rev == first.rev + 1


@excused
async def test_a_caller_that_goes_away_harms_nobody(rig: Rig) -> None:
    leader = await rig.leader()
    leaving = asyncio.create_task(leader.propose(claim("a"), timeout_ms=PATIENT_MS))
    staying = asyncio.create_task(leader.propose(claim("b"), timeout_ms=PATIENT_MS))
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance((await staying).outcomes[0], Claimed)


@excused
async def test_a_silent_leader_commits_empty_commands(rig: Rig) -> None:
    """The lease clock would stand still otherwise, and nothing would expire."""
    leader = await rig.leader()
    ticks: list[Applied] = []
    leader.on_applied(ticks.append)
    await until(lambda: len(ticks) >= 2)
    assert all(applied.replies == () for applied in ticks)


async def test_digests_agree_at_every_common_point(rig: Rig) -> None:
    for n in range(150):
        await rig.propose(a_claim(f"key-{n}"))
    await rig.all_applied()
    points = [replica.status().digests for replica in rig.nodes.values()]
    # Empty commands of slow moments move the points that are still kept, and a node may pass
    # another one while we look: what all nodes know is compared, and that is more than one.
    common = set(points[0]).intersection(*points)
    assert len(common) >= 2
    for index in common:
        assert len({known[index] for known in points}) == 1, index


async def test_a_stopped_node_refuses(rig: Rig) -> None:
    leader = await rig.leader()
    await leader.stop()
    with pytest.raises(NotLeader):
        await leader.propose(claim("a"), timeout_ms=PATIENT_MS)


@pytest.mark.parametrize("kind", ["solo", "three"])
@excused
async def test_a_full_queue_is_overloaded_and_nothing_was_proposed(
    kind: str, tmp_path: Path
) -> None:
    limits = AggregatorLimits(queued=10)
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    rig = solo_rig(limits) if kind == "solo" else cluster_rig(ClusterPlan(place, limits=limits))
    async with running(rig):
        leader = await rig.leader()
        results = await asyncio.gather(
            *(leader.propose(claim(f"key-{n}"), timeout_ms=PATIENT_MS) for n in range(50)),
            return_exceptions=True,
        )
        granted = [r for r in results if isinstance(r, Reply)]
        refused = [r for r in results if isinstance(r, Overloaded)]
        assert len(granted) == 10
        assert len(refused) == 40


# Only a cluster can do these


@excused
async def test_a_follower_refuses_and_names_the_leader(three: Rig) -> None:
    leader = await three.leader()
    for follower in await three.followers():
        await follower.wait_for_leader(timeout_ms=PATIENT_MS)
        with pytest.raises(NotLeader) as refusal:
            await follower.propose(claim("a"), timeout_ms=PATIENT_MS)
        assert refusal.value.leader_id == leader.status().node_id
        with pytest.raises(NotLeader):
            await follower.barrier(timeout_ms=PATIENT_MS)


async def test_nothing_acknowledged_is_lost_when_leaders_go(three: Rig) -> None:
    acknowledged: list[str] = []
    for round_number in range(4):
        for n in range(20):
            key = f"{round_number}/{n}"
            assert isinstance((await three.propose(a_claim(key))).outcomes[0], Claimed)
            acknowledged.append(key)
        gone = (await three.leader()).status().node_id
        await three.stop(gone)
        for key in acknowledged:
            assert is_held(await three.propose(a_claim(key))), key
        await three.start(gone)
    assert len(await three.state_digests()) == 1


@excused
async def test_what_was_in_flight_when_the_leader_went_is_unknown(three: Rig) -> None:
    leader = await three.leader()
    await three.stop(*[r.status().node_id for r in await three.followers()])
    with pytest.raises(ProposalOutcomeUnknown):
        await leader.propose(claim("a"), timeout_ms=PATIENT_MS)


async def test_a_leader_without_a_quorum_steps_down_and_queues_nothing(three: Rig) -> None:
    leader = await three.leader()
    await three.stop(*[r.status().node_id for r in await three.followers()])
    await until(lambda: not leader.status().has_quorum)
    assert not leader.status().ready
    with pytest.raises(NotLeader):
        await leader.propose(claim("a"), timeout_ms=PATIENT_MS)
    assert await leader.wait_for_leader(timeout_ms=50) is None


async def test_the_whole_cluster_resumes_from_its_journals(three: Rig) -> None:
    for n in range(100):
        await three.propose(a_claim(f"key-{n}"))
    await three.stop()
    await three.start()
    for n in range(100):
        assert is_held(await three.propose(a_claim(f"key-{n}")))


async def test_the_whole_cluster_resumes_on_other_addresses(three: Rig, plan: ClusterPlan) -> None:
    """A vote is remembered for a member, not for an address."""
    await three.propose(a_claim("a"))
    term = (await three.leader()).status().term
    await three.stop()
    plan.move()
    await three.start()
    assert (await three.leader()).status().term > term
    assert is_held(await three.propose(a_claim("a")))


@excused
async def test_a_restarted_follower_catches_up_without_deposing_the_leader(three: Rig) -> None:
    leader = await three.leader()
    term = leader.status().term
    follower_id = (await three.followers())[0].status().node_id
    await three.stop(follower_id)
    for n in range(200):
        await leader.propose(claim(f"key-{n}"), timeout_ms=PATIENT_MS)
    await three.start(follower_id)
    await until(lambda: three.nodes[follower_id].status().ready)
    assert len(await three.state_digests()) == 1
    assert leader.status().term == term


async def test_members_of_another_cluster_are_not_listened_to(
    three: Rig, plan: ClusterPlan, tmp_path: Path
) -> None:
    follower_id = (await three.followers())[0].status().node_id
    await three.stop(follower_id)
    stranger_plan = ClusterPlan(tmp_path / "stranger", cluster_id="another-cluster")
    stranger_plan.addresses = plan.addresses
    stranger = stranger_plan.make(follower_id)
    await stranger.start()
    await three.propose(a_claim("a"))
    assert await stranger.wait_for_leader(timeout_ms=1_000) is None
    assert stranger.status().last_index == 1
    await stranger.stop()


async def test_sessions_opened_through_the_log_differ(three: Rig) -> None:
    opened = [await three.ask_again(OpenSession()) for _ in range(3)]
    clients = {o.client for reply in opened for o in reply.outcomes if isinstance(o, Opened)}
    assert len(clients) == 3


@pytest.mark.parametrize("seed", [1])
@excused
async def test_poison_bytes_kill_nobody(three: Rig, plan: ClusterPlan, seed: int) -> None:
    """Bytes that no version of the codec wrote are an entry like any other, on every node."""
    leader = await three.leader()
    rng = random.Random(seed)
    node = leader._node  # type: ignore[attr-defined]  # no honest caller can propose such bytes
    for size in (0, 1, 7, 100):
        landed: list[Applied | None] = []
        node.append(rng.randbytes(size), landed.append)
        await until(lambda landed=landed: bool(landed))  # type: ignore[misc]  # bound per round
        assert landed[0] is not None
        assert isinstance(landed[0].replies[0].outcomes[0], Rejected)
    await leader.propose(claim("a"), timeout_ms=PATIENT_MS)
    assert len(await three.state_digests()) == 1
    assert plan.fatal == []


@excused
async def test_a_proposal_does_not_wait_for_the_next_heartbeat(tmp_path: Path) -> None:
    """In batch mode pysyncobj sends a command with the next heartbeat only."""
    timing = RaftTiming(
        heartbeat_ms=300, election_min_ms=1_000, election_max_ms=1_500, leader_fallback_ms=2_000
    )
    plan = ClusterPlan(Path(tempfile.mkdtemp(dir=tmp_path)), timing=timing)
    async with running(cluster_rig(plan)) as rig:
        leader = await rig.leader()
        proposals = 20
        async with asyncio.timeout(proposals * timing.heartbeat_ms / 2 / 1000):
            for n in range(proposals):
                await leader.propose(claim(f"key-{n}"), timeout_ms=PATIENT_MS)


SLOW_ELECTIONS = RaftTiming(
    election_min_ms=2_500, election_max_ms=3_500, connection_timeout_ms=9_000
)


@excused
async def test_a_broken_connection_to_the_leader_brings_the_election_forward(
    tmp_path: Path,
) -> None:
    plan = ClusterPlan(Path(tempfile.mkdtemp(dir=tmp_path)), timing=SLOW_ELECTIONS)
    async with running(cluster_rig(plan)) as rig:
        leader = await rig.leader()
        await rig.all_applied()
        await rig.stop(leader.status().node_id)
        async with asyncio.timeout(SLOW_ELECTIONS.election_min_ms / 1000 * 0.8):
            await rig.leader()


@excused
async def test_a_broken_connection_does_not_depose_a_leader_that_lives(tmp_path: Path) -> None:
    plan = ClusterPlan(Path(tempfile.mkdtemp(dir=tmp_path)), timing=RaftTiming(reconnect_ms=20))
    async with running(cluster_rig(plan)) as three:
        leader = await three.leader()
        await three.all_applied()
        term = leader.status().term
        current = leader._links._current  # type: ignore[attr-defined]
        ended: set[object] = set()
        for round_number in range(5):
            ended.update(current.values())
            for link in list(current.values()):
                link.close()
            await until(lambda: len(current) == 2 and ended.isdisjoint(current.values()))
            await leader.propose(claim(f"key-{round_number}"), timeout_ms=PATIENT_MS)
        assert len(ended) == 10
        assert leader.status().term == term


async def test_a_log_for_a_newer_machine_ends_the_node(tmp_path: Path) -> None:
    """To skip what it does not understand would make its state another one."""
    plan = ClusterPlan(tmp_path)
    newer = encode_command(
        Command(version=99, stamp=Stamp(term=1, reign_ms=0, wall_ms=0), requests=())
    )
    async with running(cluster_rig(plan)) as rig:
        while not plan.fatal:
            lost: list[Applied | None] = []
            leader = await rig.leader()
            leader._node.append(newer, lost.append)  # type: ignore[attr-defined]  # as above
            await until(lambda lost=lost: bool(plan.fatal or lost))  # type: ignore[misc]  # per round
        # The leader meets it first, then whoever leads next; the third has no majority any more.
        await until(lambda: len({id(exc) for _, exc in plan.fatal}) == 2)
        assert all("machine version 99" in str(exc) for _, exc in plan.fatal)


async def test_who_waits_for_a_leader_hears_when_the_node_stops(tmp_path: Path) -> None:
    rig = cluster_rig(ClusterPlan(tmp_path))
    await rig.start("n1")
    waiting = asyncio.create_task(rig.nodes["n1"].wait_for_leader(timeout_ms=PATIENT_MS))
    await asyncio.sleep(0)
    await rig.stop()
    assert await waiting is None
