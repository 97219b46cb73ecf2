"""What nodes may not do to each other's log, one broken promise a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seamfill_chaos.checkers.agreement import MAX_VIOLATIONS, Agreement, Life
from seamfill_coordinator.raft.messages import Append, Appended, PreVoteRequest, Vote, VoteRequest

A = Life(node="a", incarnation="1", number=1)
A_AGAIN = Life(node="a", incarnation="1", number=2)
A_WIPED = Life(node="a", incarnation="2", number=3)
B = Life(node="b", incarnation="1", number=1)


def found(*steps: Callable[[Agreement], object]) -> str:
    """Return what was found after these steps, one line each."""
    agreement = Agreement()
    for step in steps:
        step(agreement)
    return "\n".join(map(str, agreement.violations))


def applied(life: Life, index: int, command: bytes = b"x", term: int = 1) -> Callable[..., object]:
    return lambda agreement: agreement.applied(life, index, term, command)


def loaded(life: Life, index: int, term: int = 1) -> Callable[..., object]:
    return lambda agreement: agreement.loaded(life, index, term)


def digested(life: Life, index: int, digest: str) -> Callable[..., object]:
    return lambda agreement: agreement.digested(life, index, digest)


def observed(
    life: Life, term: int, commit_index: int = 0, *, is_leader: bool = False
) -> Callable[..., object]:
    return lambda agreement: agreement.observed(
        life, term=term, commit_index=commit_index, is_leader=is_leader
    )


def sent(
    life: Life, target: str, message: Append | Vote | VoteRequest | Appended | PreVoteRequest
) -> Callable[..., object]:
    return lambda agreement: agreement.sent(life, target, message)


def woke(life: Life, term: int, last_index: int) -> Callable[..., object]:
    return lambda agreement: agreement.woke(life, term=term, last_index=last_index)


def truncated(life: Life, index: int, term: int, for_term: int | None) -> Callable[..., object]:
    return lambda agreement: agreement.truncated(life, index, term, for_term=for_term)


def append(term: int) -> Append:
    return Append(term, 1, 1, 1, ())


def test_nodes_that_apply_one_log_agree() -> None:
    """With a restart that replays, an entry of the leader's own between, and a snapshot."""
    assert not found(
        *(applied(A, index) for index in (2, 3, 5)),
        *(applied(B, index) for index in (2, 3)),
        loaded(A_AGAIN, 3),
        applied(A_AGAIN, 5),
        loaded(B, 5),
        applied(B, 6, b"y", term=2),
        applied(A_AGAIN, 6, b"y", term=2),
        digested(A, 5, "d"),
        digested(B, 5, "d"),
        observed(A, 1, 5, is_leader=True),
        observed(A, 1, 6, is_leader=True),
        observed(A_AGAIN, 2, 5),
        sent(A, "b", VoteRequest(1, 1, 1)),
        sent(A_AGAIN, "b", Vote(2)),
        sent(A_WIPED, "c", Vote(1)),
        observed(A_WIPED, 1),
    )


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((applied(A, 2, b"x"), applied(B, 2, b"y")), "b (start 1) applied another command than a"),
        ((applied(A, 2, b"x"), applied(A_AGAIN, 2, b"y")), "another command than a (start 1)"),
        ((applied(A, 2, term=1), applied(B, 2, term=2)), "another command"),
        ((applied(A, 2), applied(A, 2)), "applied index 2 after index 2"),
        ((applied(A, 2), applied(A, 3), applied(B, 2), applied(B, 4), applied(A, 4)), "without"),
        ((applied(A, 2), applied(A, 4), applied(B, 3)), "a (start 1) went past index 3"),
        ((applied(A, 2, term=3), applied(A, 3, term=2)), "index 3 has term 2, index 2 has term 3"),
        ((applied(A, 5), loaded(A, 4)), "went back to a snapshot of index 4"),
        ((applied(A, 5, term=2), loaded(B, 5, term=1)), "a snapshot that ends in term 1"),
        ((digested(A, 64, "one"), digested(B, 64, "two")), "is two, that of a (start 1) is one"),
        ((observed(A, 3, is_leader=True), observed(B, 3, is_leader=True)), "leads term 3, which a"),
        (
            (observed(A, 3, is_leader=True), observed(A_AGAIN, 3, is_leader=True)),
            "a (start 2) leads term 3, which a (start 1) led",
        ),
        ((observed(A, 3), observed(A, 2)), "fell from term 3 to term 2"),
        ((observed(A, 3, 9), observed(A, 3, 8)), "took back its commit index: 9 became 8"),
        ((sent(A, "b", Vote(4)), sent(A_AGAIN, "c", Vote(4))), "voted for c in term 4"),
        ((sent(A, "b", VoteRequest(4, 1, 1)), sent(A, "c", Vote(4))), "having voted for a"),
        ((sent(A, "b", append(7)), observed(A_AGAIN, 6)), "woke up in term 6"),
        ((sent(A, "b", Appended(7, 1, True, False)), observed(A_AGAIN, 6)), "spoke in term 7"),
        ((sent(A, "b", append(7)), woke(A_AGAIN, 6, 9)), "woke up in term 6"),
        ((sent(A, "b", Appended(7, 9, True, False)), woke(A_AGAIN, 7, 7)), "acknowledged index 8"),
        ((truncated(A, 5, 2, 2),), "threw away index 5 of term 2, which its leader has as well"),
        ((truncated(A, 5, 2, None),), "threw away index 5"),
    ],
)
def test_each_broken_promise_is_found(steps: tuple[Callable[..., object], ...], text: str) -> None:
    assert text in found(*steps)


def test_an_acknowledgement_binds_until_its_entry_had_to_go() -> None:
    acknowledged = sent(A, "b", Appended(7, 9, True, False))
    assert not found(acknowledged, woke(A_AGAIN, 7, 8))
    assert not found(acknowledged, truncated(A, 6, 6, 7), woke(A_AGAIN, 7, 5))
    assert not found(acknowledged, woke(A_WIPED, 0, 1))
    assert not found(woke(A, 1, 1), acknowledged, loaded(A, 5, 7), woke(A_AGAIN, 7, 5))
    assert found(acknowledged, loaded(A_AGAIN, 5, 7), woke(A_AGAIN, 7, 5))
    assert not found(sent(A, "b", Appended(7, 9, False, True)), woke(A_AGAIN, 7, 2))


def test_a_pre_vote_promises_nothing() -> None:
    assert not found(sent(A, "b", PreVoteRequest(9, 1, 1)), observed(A_AGAIN, 3))


def test_a_cluster_that_diverged_does_not_fill_the_memory() -> None:
    steps = [applied(life, index, life.node.encode()) for index in range(500) for life in (A, B)]
    assert found(*steps).count("\n") == MAX_VIOLATIONS - 1


def test_the_committed_log_is_what_any_node_applied() -> None:
    agreement = Agreement()
    agreement.applied(A, 2, 1, b"x")
    agreement.applied(B, 2, 1, b"x")
    agreement.applied(B, 3, 1, b"y")
    agreement.observed(B, term=1, commit_index=3, is_leader=True)
    agreement.loaded(A, 3, 1)
    assert [entry.command for entry in agreement.committed.values()] == [b"x", b"y"]
    assert agreement.leaders == {1: B}
    assert agreement.snapshots_loaded == 1
