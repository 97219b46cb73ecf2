"""The rules around the core, each in the state it exists for."""

from __future__ import annotations

import random

import msgspec
import pytest

from contract.node_rig import DIRECTORY, TIMING, Cluster
from seamfill_chaos.disk import Fate
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.compaction import CompactionLimits
from seamfill_coordinator.raft.guard import SafetyViolation
from seamfill_coordinator.raft.members import MembershipRefused
from seamfill_coordinator.raft.membership import Configuration, Member
from seamfill_coordinator.raft.messages import (
    Append,
    Appended,
    Founded,
    HigherTerm,
    PreVoteReply,
    PreVoteRequest,
    SnapshotPart,
    Vote,
    VoteRequest,
)
from seamfill_coordinator.raft.node import RaftNode


def propose(node: RaftNode, command: bytes) -> list[Applied | None]:
    """Append the command; the list gets what became of it."""
    landed: list[Applied | None] = []
    node.append(command, landed.append)
    return landed


@pytest.fixture
def three() -> Cluster:
    return Cluster("n1", "n2", "n3")


# Founding


def test_the_smallest_id_founds_when_it_sees_all_the_others() -> None:
    cluster = Cluster("n1", "n2", "n3", founded=False)
    cluster.connect("n1", "n2")
    cluster.wait(3_000)
    assert all(cluster[n].members.configuration is None for n in cluster.node_ids)
    assert cluster.leaders == []
    cluster.connect()
    cluster.settle()
    founded = {cluster[n].members.configuration for n in cluster.node_ids}
    assert len(founded) == 1
    assert [m.node_id for m in cluster["n3"].members.voters] == ["n1", "n2", "n3"]


def test_who_missed_the_founding_learns_of_it_from_anybody() -> None:
    cluster = Cluster("n1", "n2", "n3", founded=False)
    cluster.connect()
    cluster.turn("n1")
    cluster.packets = [p for p in cluster.packets if p.receiver == "n2"]
    cluster.deliver(Founded)
    cluster.disconnect("n1")
    assert cluster["n3"].members.configuration is None
    cluster.settle()
    assert cluster["n3"].members.configuration == cluster["n2"].members.configuration is not None


def test_a_founding_survives_the_power() -> None:
    cluster = Cluster("n1", "n2", "n3", founded=False)
    cluster.connect()
    cluster.turn("n1")
    cluster.restart("n1")
    assert cluster["n1"].members.configuration is not None


def test_nodes_that_were_told_of_different_members_found_nothing() -> None:
    cluster = Cluster("n1", "n2", founded=False)
    stranger = Cluster("n1", "n2", "n3", founded=False)
    cluster["n1"].connected(stranger["n2"].members.hello)
    assert cluster["n1"].members.configuration is None


# Elections


def test_a_node_that_is_cut_off_burns_no_terms(three: Cluster) -> None:
    leader = three.elect("n1")
    term = leader.core.term
    three.disconnect("n3")
    three.wait(30_000)
    assert three["n3"].core.term == term
    three.connect()
    three.wait(1_000)
    assert three.leaders == ["n1"]
    assert leader.core.term == term


def test_who_hears_a_leader_grants_nothing(three: Cluster) -> None:
    leader = three.elect("n1")
    three.disconnect("n3")
    three["n3"].connected(three["n2"].members.hello)
    three["n2"].connected(three["n3"].members.hello)
    for _ in range(20):
        three.wait(100)
        assert three["n3"].core.term == leader.core.term
    assert three.leaders == ["n1"]


def test_a_vote_request_does_not_depose_a_leader_that_is_heard(three: Cluster) -> None:
    leader = three.elect("n1")
    term = leader.core.term
    request = VoteRequest(term=term + 5, last_index=1_000, last_term=term)
    for node_id in ("n1", "n2"):
        three[node_id].received("n3", request)
        assert three[node_id].core.term == term


def test_a_node_that_raised_its_term_alone_is_led_again(three: Cluster) -> None:
    """A candidate that persisted its term and crashed would be deaf to every leader below it."""
    three.elect("n1")
    three.disconnect("n3")
    stranded = three["n3"]
    stranded._journal.setCurrentTerm(50, "n3")
    stranded._journal.sync()
    three.restart("n3")
    assert three["n3"].core.term == 50
    three.connect()
    three.wait(3_000)
    (leader,) = three.leaders
    assert {three[n].core.term for n in three.node_ids} == {three[leader].core.term}
    assert three[leader].core.term > 50


def test_a_vote_counts_once_and_only_from_a_voter() -> None:
    cluster = Cluster("n1", "n2", "n3", "n4", "n5")
    cluster.now_ms += TIMING.election_max_ms
    cluster.turn("n1")
    cluster.deliver(PreVoteRequest)
    cluster.turn()
    cluster.deliver(PreVoteReply)
    candidate = cluster["n1"]
    assert candidate.core.is_candidate
    for _ in range(3):
        candidate.received("n2", Vote(term=candidate.core.term))
        candidate.received("stranger", Vote(term=candidate.core.term))
    assert not candidate.core.is_leader
    candidate.received("n3", Vote(term=candidate.core.term))
    assert candidate.core.is_leader


def test_a_vote_is_durable_before_it_leaves(three: Cluster) -> None:
    three.now_ms += TIMING.election_max_ms
    three.turn("n1")
    three.deliver(PreVoteRequest)
    three.turn()
    three.deliver(PreVoteReply)
    three.turn("n1")
    three.deliver(VoteRequest, to="n2")
    three.turn("n2")
    assert any(isinstance(p.message, Vote) for p in three.packets)
    three.restart("n2")
    assert three["n2"]._journal.getVotedForNodeId() == "n1"
    assert three["n2"].core.term == three["n1"].core.term


# Replication


def test_an_acknowledgement_is_durable_before_it_leaves(three: Cluster) -> None:
    leader = three.elect("n1")
    landed = propose(leader, b"kept")
    three.turn("n1")
    three.deliver(Append)
    three.turn("n2")
    assert any(isinstance(p.message, Appended) for p in three.packets)
    assert landed == []
    three.restart("n2")
    assert three["n2"].core.log[-1][0] == b"\0kept"


def test_a_cluster_of_one_is_durable_before_it_answers() -> None:
    cluster = Cluster("n1")
    leader = cluster.elect("n1")
    synced: list[bool] = []

    def landed(_applied: Applied | None) -> None:
        after = cluster.peers["n1"].disk.after_power_loss(Fate.DROPPED, random.Random(0))
        names = after.names(DIRECTORY / "journal")
        synced.append(
            any(b"\0mine" in after.read((DIRECTORY / "journal") / name) for name in names)
        )

    leader.append(b"mine", landed)
    cluster.turn()
    cluster.turn()
    assert synced == [True]


# Turns


def test_the_heartbeat_of_a_leader_that_is_followed_is_answered_without_a_turn(
    three: Cluster,
) -> None:
    leader = three.elect("n1")
    three.wait(2 * TIMING.heartbeat_ms)
    three.now_ms += TIMING.heartbeat_ms + 1
    leader.turn()
    (heartbeat,) = three.deliver(Append, to="n2")
    (answer,) = (p.message for p in three.packets if p.sender == "n2")
    assert isinstance(answer, Appended)
    assert answer.success
    assert not three["n2"].needs_turn
    # The first word after a silence tells those who wait for a leader that there is one.
    three.now_ms += 2 * TIMING.election_max_ms
    seen = [three["n2"].leader_id]
    assert isinstance(heartbeat, Append)
    three["n2"].received("n1", heartbeat)
    assert [*seen, three["n2"].leader_id] == [None, "n1"]
    assert three["n2"].needs_turn


def test_of_two_acknowledgements_the_one_that_commits_is_worth_a_turn(three: Cluster) -> None:
    leader = three.elect("n1")
    landed = propose(leader, b"one")
    leader.turn()
    three.deliver(Append)
    three.turn("n2")
    three.deliver(Appended, to="n1")
    needed = [leader.needs_turn]
    leader.turn()
    assert landed == [Applied(replies=())]
    three.turn("n3")
    assert three.deliver(Appended, to="n1")
    assert [*needed, leader.needs_turn] == [True, False]
    assert leader.core.match_index("n3") == leader.core.last_index


def test_an_acknowledgement_of_an_earlier_reign_proves_nothing(three: Cluster) -> None:
    leader = three.elect("n1")
    propose(leader, b"alone")
    three.turn("n1")
    three.packets.clear()
    late = Appended(
        term=leader.core.term - 1, next_index=leader.core.last_index + 1, success=True, reset=False
    )
    before = leader.core.commit_index
    leader.received("n2", late)
    three.turn("n1")
    assert leader.core.commit_index == before


def test_an_acknowledgement_of_another_life_of_a_voter_is_not_counted(three: Cluster) -> None:
    leader = three.elect("n1")
    another_life = msgspec.structs.replace(three["n2"].members.hello, incarnation="life-2-of-n2")
    three.disconnect("n2")
    leader.connected(another_life)
    three.disconnect("n3")
    landed = propose(leader, b"not enough")
    three.turn("n1")
    leader.received(
        "n2",
        Appended(
            term=leader.core.term,
            next_index=leader.core.last_index + 1,
            success=True,
            reset=False,
        ),
    )
    three.turn("n1")
    assert landed == []


def test_a_second_leader_in_a_term_stops_the_node(three: Cluster) -> None:
    leader = three.elect("n1")
    with pytest.raises(SafetyViolation, match="so does this node"):
        leader.received(
            "n2",
            Append(
                term=leader.core.term,
                previous_index=1,
                previous_term=0,
                commit_index=1,
                entries=(),
            ),
        )


def test_an_append_of_an_older_term_is_told_the_higher_one(three: Cluster) -> None:
    three.elect("n1")
    term = three.elect("n2").core.term
    three["n3"].received(
        "n1", Append(term=1, previous_index=1, previous_term=0, commit_index=1, entries=())
    )
    three.turn("n3")
    told = [p.message for p in three.packets if p.sender == "n3" and p.receiver == "n1"]
    assert HigherTerm(term=term) in told


def test_what_a_deposed_leader_had_alone_gives_way(three: Cluster) -> None:
    old = three.elect("n1")
    three.disconnect("n1")
    lost = propose(old, b"lost")
    three.turn("n1")
    new = three.elect("n2")
    kept = propose(new, b"kept")
    three.settle()
    assert kept == [Applied(replies=())]
    three.connect()
    three.wait(1_000)
    assert lost == [None]
    assert {tuple(three.peers[n].applied) for n in three.node_ids} == {
        ((new.core.commit_index, b"kept"),)
    }


def test_a_reconnected_member_gets_what_was_lost_on_the_way(three: Cluster) -> None:
    leader = three.elect("n1")
    for number in range(5):
        propose(leader, b"entry %d" % number)
        three.turn("n1")
        three.packets = [p for p in three.packets if p.receiver != "n3"]
        three.settle()
    three.disconnect("n3")
    three.connect()
    three.wait(200)
    assert three["n3"].core.applied_index == leader.core.commit_index


def test_entries_that_are_on_their_way_are_not_sent_once_more(three: Cluster) -> None:
    """A slow member refuses every heartbeat that was sent before them."""
    leader = three.elect("n1")
    for number in range(3):
        propose(leader, b"%d" % number)
    leader.turn()
    three.packets = [p for p in three.packets if p.receiver != "n3"]  # still in n1's sockets
    three.deliver(Append)
    three.turn("n2")
    three.disconnect("n1")
    three.now_ms += 2 * TIMING.election_max_ms
    three["n3"].campaign._elections.voted(three.now_ms)
    for kind in (PreVoteRequest, PreVoteReply, VoteRequest, Vote):
        three.turn("n2", "n3")
        three.deliver(kind)
    new = three["n2"]
    assert new.core.is_leader
    for _ in range(4):
        three.now_ms += TIMING.heartbeat_ms + 1
        new.turn()
    three.deliver(Append, to="n3")
    three.turn("n3")
    refusals = [p for p in three.packets if p.sender == "n3" and isinstance(p.message, Appended)]
    assert len(refusals) > 3
    for packet in refusals:
        three.packets.remove(packet)
        new.received("n3", packet.message)
        new.turn()
    sent = [p.message for p in three.packets if isinstance(p.message, Append)]
    assert sum(bool(append.entries) for append in sent) == 1
    three.settle()
    assert three["n3"].core.last_index == new.core.last_index


def test_a_member_taken_out_and_back_is_sent_anew_what_was_on_its_way(three: Cluster) -> None:
    """On the same connection; what it answered meanwhile was nobody's answer."""
    leader = three.elect("n1")
    *others, n3 = leader.members.voters
    propose(leader, b"on its way to n3")
    leader.turn()
    on_their_way = [p for p in three.packets if p.receiver == "n3"]
    three.packets = [p for p in three.packets if p.receiver != "n3"]
    leader.members.change(Configuration(voters=tuple(others)))
    three.settle()
    three.packets = on_their_way
    three.deliver()
    three.settle()
    before = three["n3"].core.last_index
    leader.members.change(Configuration(voters=(*others, n3)))
    three.settle()
    three.wait(TIMING.heartbeat_ms + 10)
    assert three["n3"].core.last_index == leader.core.last_index == before + 2


def test_entries_that_were_refused_themselves_are_sent_once_more(three: Cluster) -> None:
    """As many refusals as were on their way may be older than them; not one more."""
    leader = three.elect("n1")
    propose(leader, b"refused")
    leader.turn()
    (append,) = (p.message for p in three.packets if p.receiver == "n3")
    three.packets.clear()
    assert isinstance(append, Append)
    refusal = Appended(
        term=append.term, next_index=append.previous_index + 1, success=False, reset=True
    )
    leader.received("n3", refusal)
    leader.turn()
    sent = [p.message for p in three.packets if p.receiver == "n3"]
    assert [m.entries for m in sent if isinstance(m, Append)] == [append.entries]


def test_a_member_that_never_answered_and_is_gone_needs_no_snapshot(three: Cluster) -> None:
    """Nothing is known of it; taken for one that has nothing, it was to get a snapshot that there
    was not."""
    three.now_ms += TIMING.election_max_ms
    three.turn("n1")
    for kind in (PreVoteRequest, PreVoteReply, VoteRequest, Vote):
        three.deliver(kind)
        three.turn()
    leader = three["n1"]
    assert leader.core.is_leader
    assert leader.core.match_index("n3") == 0
    leader.disconnected("n3")
    leader.connected(three["n3"].members.hello)
    propose(leader, b"goes on")
    three.settle()
    assert three["n3"].core.last_index == leader.core.last_index


def with_a_member_behind_the_log() -> tuple[Cluster, RaftNode]:
    """Return three nodes and their leader n1, whose log begins behind the end of lost n3's."""
    cluster = Cluster(
        "n1", "n2", "n3", compaction=CompactionLimits(every_entries=20, keep_entries=2)
    )
    leader = cluster.elect("n1")
    cluster.disconnect("n3")
    for number in range(60):
        propose(leader, b"entry %d" % number)
        cluster.settle()
    assert leader.core.first_index > cluster["n3"].core.last_index + 1
    return cluster, leader


def test_a_member_behind_the_log_is_brought_up_by_a_snapshot() -> None:
    cluster, leader = with_a_member_behind_the_log()
    cluster.connect()
    cluster.wait(500)
    assert cluster["n3"].snapshots_installed == 1
    assert cluster["n3"].core.applied_index == leader.core.commit_index
    cluster.restart("n3")
    assert cluster["n3"].members.configuration == leader.members.configuration
    assert cluster["n3"].core.first_index >= leader.core.first_index


def test_a_member_taken_out_keeps_no_snapshot_on_its_way() -> None:
    """The log behind it would be kept for ever."""
    cluster, leader = with_a_member_behind_the_log()
    cluster.connect()
    cluster.now_ms += TIMING.heartbeat_ms + 1
    while not any(isinstance(p.message, SnapshotPart) for p in cluster.packets):
        cluster.deliver()
        cluster.turn()
    shipped_index = leader.core.first_index
    leader.members.change(without(leader.members.configuration, "n3"))
    cluster.packets = [p for p in cluster.packets if p.receiver != "n3"]
    for number in range(60):
        propose(leader, b"later entry %d" % number)
        cluster.settle()
    assert leader.core.first_index > shipped_index + 20


# Members


def without(configuration: Configuration | None, node_id: str) -> Configuration:
    assert configuration is not None
    return Configuration(voters=tuple(m for m in configuration.voters if m.node_id != node_id))


def test_a_configuration_counts_from_its_append_and_not_after_its_truncation(
    three: Cluster,
) -> None:
    old = three.elect("n1")
    founded = old.members.configuration
    three.disconnect("n1")
    old.members.change(without(founded, "n3"))
    assert [m.node_id for m in old.members.voters] == ["n1", "n2"]
    three.elect("n2")
    three.connect()
    three.wait(500)
    assert old.members.configuration == founded
    assert [m.node_id for m in old.members.voters] == ["n1", "n2", "n3"]


def test_a_change_is_refused_while_another_is_under_way(three: Cluster) -> None:
    leader = three.elect("n1")
    leader.members.change(without(leader.members.configuration, "n3"))
    with pytest.raises(MembershipRefused, match="not committed"):
        leader.members.change(Configuration(voters=leader.members.voters))


def test_two_voters_do_not_change_at_once(three: Cluster) -> None:
    leader = three.elect("n1")
    n1, n2, n3 = leader.members.voters
    for voters in ((n1,), (n1, n2, Member("n3", "another life")), (n1, n2, n3, n3)):
        with pytest.raises(MembershipRefused):
            leader.members.change(Configuration(voters=voters))
    with pytest.raises(MembershipRefused, match="remove itself"):
        leader.members.change(without(leader.members.configuration, "n1"))


def test_a_promoted_learner_votes_before_it_has_heard_of_it(three: Cluster) -> None:
    """Its vote may be what two of three need, and the third one is gone (Ongaro's thesis, 4.1)."""
    leader = three.elect("n1")
    n1, n2, n3 = leader.members.voters
    leader.members.change(Configuration(voters=(n1, n2), learners=(n3,)))
    three.settle()
    three.disconnect("n3")
    leader.members.change(Configuration(voters=(n1, n2, n3)))
    three.settle()
    three.disconnect("n2")
    three.restart("n1")
    three.connect("n1", "n3")
    assert not three["n3"].core.is_voter
    three.wait(3 * TIMING.election_max_ms)
    assert three.leaders == ["n1"]
    assert three["n3"].core.is_voter


def test_who_knows_of_no_cluster_votes_for_nobody() -> None:
    nodes = Cluster("n1", "n2", founded=False)
    nodes["n2"].connected(nodes["n1"].members.hello)
    nodes["n2"].received("n1", PreVoteRequest(term=5, last_index=9, last_term=4))
    nodes["n2"].received("n1", VoteRequest(term=5, last_index=9, last_term=4))
    nodes.turn("n2")
    assert nodes.deliver() == [PreVoteReply(term=5, granted=False)]
    assert nodes["n2"].core.term == 0


def test_a_learner_is_fed_but_not_counted(three: Cluster) -> None:
    leader = three.elect("n1")
    *counted, n3 = leader.members.voters
    leader.members.change(Configuration(voters=tuple(counted), learners=(n3,)))
    three.settle()
    assert not three["n3"].core.is_voter
    three.disconnect("n2")
    landed = propose(leader, b"heard by the learner")
    three.settle()
    assert three["n3"].core.last_index == leader.core.last_index
    assert landed == []
