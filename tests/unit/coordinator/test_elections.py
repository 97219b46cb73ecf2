"""When a node asks for an election, and whom it lets have one."""

from __future__ import annotations

import pytest

from seamfill_coordinator.raft.elections import Elections
from seamfill_coordinator.raft.timing import RaftTiming

TIMING = RaftTiming()


def lowest(low: float, _high: float) -> float:
    return low


def elections(now_ms: int = 0) -> Elections:
    return Elections(TIMING, now_ms=now_ms, draw=lowest)


def test_a_node_that_hears_nobody_asks_after_the_election_timeout() -> None:
    timer = elections()
    assert not timer.is_due(TIMING.election_min_ms - 1)
    assert timer.is_due(TIMING.election_min_ms)


def test_each_word_of_a_leader_puts_the_question_off() -> None:
    timer = elections()
    timer.heard_leader(200)
    assert not timer.is_due(200 + TIMING.election_min_ms - 1)
    assert timer.is_due(200 + TIMING.election_min_ms)


def test_who_hears_a_leader_knows_it_for_the_shortest_timeout() -> None:
    timer = elections()
    assert not timer.hears_leader(0)
    timer.heard_leader(0)
    assert timer.hears_leader(TIMING.election_min_ms - 1)
    assert not timer.hears_leader(TIMING.election_min_ms)
    assert timer.is_following(TIMING.election_max_ms - 1)
    assert not timer.is_following(TIMING.election_max_ms)


def test_a_lost_connection_brings_the_question_forward_in_slots_of_their_own() -> None:
    deadlines = []
    for place in range(2):
        timer = Elections(TIMING, now_ms=0, draw=lambda _low, high: high)
        timer.heard_leader(1_000)
        timer.lost_leader(1_000, place=place, followers=2)
        assert not timer.hears_leader(1_000)
        deadlines.append(timer.deadline_ms - 1_000)
    assert deadlines == [225, 375]
    assert max(deadlines) < TIMING.lost_leader_max_ms


def test_a_lost_connection_never_puts_the_question_off() -> None:
    timer = elections()
    timer.lost_leader(290, place=1, followers=2)
    assert timer.is_due(TIMING.election_min_ms)


def test_a_majority_of_voters_must_have_granted_exactly_this_term() -> None:
    timer = elections()
    voters = ["n1", "n2", "n3", "n4", "n5"]
    timer.ask(0, term=7, me="n1")
    timer.count("n2", 7)
    timer.count("n2", 7)
    timer.count("n3", 6)
    timer.count("stranger", 7)
    assert not timer.has_majority(voters, 7)
    timer.count("n4", 7)
    assert timer.has_majority(voters, 7)
    assert not timer.has_majority(voters, 8)


def test_a_pre_vote_is_used_once() -> None:
    timer = elections()
    timer.ask(0, term=1, me="n1")
    assert timer.has_majority(["n1"], 1)
    timer.campaigned()
    assert not timer.has_majority(["n1"], 1)


@pytest.mark.parametrize("event", ["heard_leader", "voted"])
def test_a_pre_vote_ends_when_somebody_else_leads_or_is_voted_for(event: str) -> None:
    timer = elections()
    timer.ask(0, term=1, me="n1")
    getattr(timer, event)(10)
    timer.count("n2", 1)
    assert not timer.has_majority(["n1", "n2", "n3"], 1)


def test_asking_again_forgets_the_earlier_answers() -> None:
    timer = elections()
    timer.ask(0, term=1, me="n1")
    timer.count("n2", 1)
    timer.ask(400, term=1, me="n1")
    assert not timer.has_majority(["n1", "n2", "n3"], 1)
