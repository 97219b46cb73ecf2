"""The guard in front of the Raft core, message by message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from seamfill_coordinator.raft.guard import Guard, Heartbeat, SafetyViolation, Verdict
from seamfill_coordinator.raft.journal_format import Entry
from seamfill_coordinator.raft.messages import Append, Appended


@dataclass
class FakeCore:
    """A core that stands still: the guard only looks."""

    term: int = 3
    commit_index: int = 1
    log: Sequence[Entry] = field(default_factory=lambda: entries((1, 0), (2, 1), (3, 1), (4, 2)))


def entries(*places: tuple[int, int]) -> tuple[Entry, ...]:
    return tuple((f"\0command {index}".encode(), index, term) for index, term in places)


def append(previous: tuple[int, int], *places: tuple[int, int], commit: int = 1) -> Append:
    index, term = previous
    return Append(
        term=3,
        previous_index=index,
        previous_term=term,
        commit_index=commit,
        entries=entries(*places),
    )


def test_an_append_at_the_end_passes_unchanged() -> None:
    message = append((4, 2), (5, 3))
    assert Guard(FakeCore()).judge(message) == Verdict(deliver=message)


def test_late_bytes_of_known_entries_remove_nothing() -> None:
    """The core would truncate entries 3 and 4, which were acknowledged, and keep 2 alone."""
    assert Guard(FakeCore()).judge(append((1, 0), (2, 1), commit=4)) == Verdict(
        deliver=Heartbeat(term=3, commit_index=2),
        answer=Appended(term=3, next_index=3, success=True, reset=False),
    )


def test_a_known_prefix_is_trimmed_and_the_rest_appended_behind_it() -> None:
    verdict = Guard(FakeCore()).judge(append((2, 1), (3, 1), (4, 2), (5, 3)))
    assert verdict.deliver == append((4, 2), (5, 3))


def test_a_conflict_of_terms_above_the_commit_replaces_our_tail() -> None:
    message = append((2, 1), (3, 3), (4, 3))
    assert Guard(FakeCore(commit_index=2)).judge(message).deliver == message


def test_a_conflict_at_a_committed_entry_stops_the_node() -> None:
    with pytest.raises(SafetyViolation, match="index 3"):
        Guard(FakeCore(commit_index=4)).judge(append((2, 1), (3, 3)))


@pytest.mark.parametrize("previous", [(9, 3), (4, 3)], ids=["beyond our log", "another term"])
def test_a_mismatch_is_answered_with_our_commit_index(previous: tuple[int, int]) -> None:
    """One index lower per round trip, as the core does, may never end."""
    message = append(previous, (previous[0] + 1, 3), commit=9)
    assert Guard(FakeCore(commit_index=2)).judge(message) == Verdict(
        deliver=Heartbeat(term=3, commit_index=2),
        answer=Appended(term=3, next_index=3, success=False, reset=True),
    )


def test_a_heartbeat_commits_only_what_was_compared() -> None:
    """Our tail beyond it may be another leader's, whatever the commit index says."""
    verdict = Guard(FakeCore()).judge(append((3, 1), commit=4))
    assert verdict.deliver == Heartbeat(term=3, commit_index=3)


def test_a_leader_of_an_older_term_is_not_heard() -> None:
    assert Guard(FakeCore(term=4)).judge(append((4, 2), (5, 3))) == Verdict()


AFTER_SNAPSHOT = entries((10, 2), (11, 2))
"""A log whose entries up to 9 lie in a snapshot."""


def test_entries_that_a_snapshot_contains_are_passed_over() -> None:
    core = FakeCore(commit_index=10, log=AFTER_SNAPSHOT)
    message = append((8, 1), (9, 1), (10, 2), (11, 2), (12, 3))
    assert Guard(core).judge(message).deliver == append((11, 2), (12, 3))


@pytest.mark.parametrize(
    "message",
    [append((8, 1), (9, 1)), append((8, 1)), append((8, 1), (9, 1), (10, 1))],
    ids=["ends before", "empty", "another term at its end"],
)
def test_an_append_that_ends_inside_the_snapshot_is_answered_with_the_commit_index(
    message: Append,
) -> None:
    core = FakeCore(commit_index=10, log=AFTER_SNAPSHOT)
    assert Guard(core).judge(message).answer == Appended(
        term=3, next_index=11, success=False, reset=True
    )


@pytest.mark.parametrize(
    "message",
    [
        append((4, 2), (6, 3)),
        append((4, 2), (5, 4)),
        append((4, 2), (5, 3), (6, 2)),
        append((4, 2), (5, 1)),
        append((0, 0), (1, 0)),
        append((4, 9)),
        msgspec.structs.replace(append((4, 2)), entries=((b"", 5, 3),)),
        msgspec.structs.replace(append((4, 2)), entries=((b"\3version", 5, 3),)),
    ],
    ids=[
        "a hole",
        "a later term than the leader's",
        "terms that go back",
        "an older term than before",
        "before the first",
        "a previous term beyond its own",
        "an empty entry",
        "a kind that is not ours",
    ],
)
def test_what_no_honest_leader_sends_is_not_touched(message: Append) -> None:
    assert Guard(FakeCore()).judge(message) == Verdict(malformed=True)
