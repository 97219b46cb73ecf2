"""The guard in front of the Raft core, message by message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from seamfill_coordinator.raft.guard import Entry, Guard, Message, SafetyViolation


@dataclass
class FakeCore:
    """A core that stands still: the guard only looks."""

    term: int = 3
    is_leader: bool = False
    commit_index: int = 1
    log: Sequence[Entry] = field(default_factory=lambda: entries((1, 0), (2, 1), (3, 1), (4, 2)))


def entries(*places: tuple[int, int]) -> list[Entry]:
    return [(f"command {index}".encode(), index, term) for index, term in places]


def append(previous: tuple[int, int], *places: tuple[int, int], commit: int = 1) -> Message:
    index, term = previous
    return {
        "type": "append_entries",
        "term": 3,
        "commit_index": commit,
        "prevLogIdx": index,
        "prevLogTerm": term,
        "entries": entries(*places),
    }


def test_an_append_at_the_end_passes_unchanged() -> None:
    message = append((4, 2), (5, 3))
    verdict = Guard(FakeCore()).incoming("n2", message)
    assert verdict.deliver == message
    assert verdict.answer is None


def test_late_bytes_of_known_entries_remove_nothing() -> None:
    """The core would truncate entries 3 and 4, which were acknowledged, and keep 2 alone."""
    verdict = Guard(FakeCore()).incoming("n2", append((1, 0), (2, 1)))
    assert verdict.deliver is not None
    assert "entries" not in verdict.deliver
    assert "prevLogIdx" not in verdict.deliver
    assert verdict.answer == {
        "type": "next_node_idx",
        "next_node_idx": 3,
        "reset": False,
        "success": True,
    }


def test_a_known_prefix_is_trimmed_and_the_rest_appended_behind_it() -> None:
    verdict = Guard(FakeCore()).incoming("n2", append((2, 1), (3, 1), (4, 2), (5, 3)))
    assert verdict.deliver == append((4, 2), (5, 3))


def test_a_conflict_of_terms_above_the_commit_replaces_our_tail() -> None:
    core = FakeCore(commit_index=2)
    verdict = Guard(core).incoming("n2", append((2, 1), (3, 3), (4, 3)))
    assert verdict.deliver == append((2, 1), (3, 3), (4, 3))


def test_a_conflict_at_a_committed_entry_stops_the_node() -> None:
    with pytest.raises(SafetyViolation, match="index 3"):
        Guard(FakeCore(commit_index=4)).incoming("n2", append((2, 1), (3, 3)))


@pytest.mark.parametrize("previous", [(9, 3), (4, 3)], ids=["beyond our log", "another term"])
def test_a_mismatch_is_answered_with_our_commit_index(previous: tuple[int, int]) -> None:
    """One index lower per round trip, as the core does, may never end."""
    verdict = Guard(FakeCore(commit_index=2)).incoming("n2", append(previous, (10, 3), commit=9))
    assert verdict.answer == {
        "type": "next_node_idx",
        "next_node_idx": 3,
        "reset": True,
        "success": False,
    }
    assert verdict.deliver == {"type": "append_entries", "term": 3, "commit_index": 2}


def test_a_heartbeat_commits_only_what_was_compared() -> None:
    """Our tail beyond it may be another leader's, whatever the commit index says."""
    verdict = Guard(FakeCore()).incoming("n2", append((3, 1), commit=4))
    assert verdict.deliver == {"type": "append_entries", "term": 3, "commit_index": 3}


def test_a_leader_of_an_older_term_is_not_heard() -> None:
    verdict = Guard(FakeCore(term=4)).incoming("n2", append((4, 2), (5, 3)))
    assert verdict.deliver is None
    assert verdict.answer is None


@pytest.mark.parametrize(
    "message",
    [
        {"type": "append_entries", "term": 3, "commit_index": 4, "serialized": (b"", True, True)},
        append((4, 2)) | {"transmission": "start"},
        {"type": "apply_command", "command": b"x", "request_id": 1},
        {"type": "apply_command_response", "request_id": 1, "log_idx": 5, "log_term": 3},
        {"type": "timeout_now", "term": 3},
        {"type": "alive"},
        {"type": "anything else"},
    ],
    ids=lambda message: "/".join(sorted(message)),
)
def test_what_does_not_belong_here_is_dropped(message: Message) -> None:
    verdict = Guard(FakeCore()).incoming("n2", message)
    assert verdict.deliver is None
    assert verdict.answer is None


def test_an_acknowledgement_counts_only_in_the_reign_it_was_meant_for() -> None:
    follower, leader = Guard(FakeCore(term=3)), FakeCore(term=3, is_leader=True)
    sent = follower.outgoing({"type": "next_node_idx", "next_node_idx": 5})
    assert sent is not None
    assert Guard(leader).incoming("n2", sent).deliver == sent
    leader.term = 5
    assert Guard(leader).incoming("n2", sent).deliver is None
    leader.term, leader.is_leader = 3, False
    assert Guard(leader).incoming("n2", sent).deliver is None


def test_a_vote_counts_once() -> None:
    guard = Guard(FakeCore())
    vote: Message = {"type": "response_vote", "term": 3}
    assert guard.incoming("n2", vote).deliver == vote
    assert guard.incoming("n2", vote).deliver is None
    assert guard.incoming("n3", vote).deliver == vote
    assert guard.incoming("n2", vote | {"term": 4}).deliver is not None


def test_the_memory_of_votes_is_bounded() -> None:
    guard = Guard(FakeCore())
    for term in range(1_000):
        guard.incoming("n2", {"type": "response_vote", "term": term})
    assert len(guard._votes) <= 64


def test_a_command_is_never_forwarded() -> None:
    guard = Guard(FakeCore())
    assert guard.outgoing({"type": "apply_command", "command": b"x"}) is None
    assert guard.outgoing({"type": "request_vote", "term": 3}) is not None


def test_what_a_leader_said_is_remembered_before_it_is_cut() -> None:
    """A restarted follower that took its own cut for the leader's word would call itself ready."""
    guard = Guard(FakeCore(commit_index=2))
    assert guard.leader_commit_index is None
    guard.incoming("n2", append((9, 3), (10, 3), commit=9))
    assert guard.leader_commit_index == 9
