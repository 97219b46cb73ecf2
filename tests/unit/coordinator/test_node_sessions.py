"""Identities of a node: used once, and `low` never passes what is unanswered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seamfill_coordinator.calls import Identity
from seamfill_coordinator.node_sessions import MAX_SESSIONS, WINDOW, NodeSessions


def pool(*clients: int) -> NodeSessions:
    sessions = NodeSessions()
    for client in clients:
        sessions.add(client)
    return sessions


def take(sessions: NodeSessions) -> Identity:
    identity = sessions.take()
    assert identity is not None
    return identity


def test_without_a_session_there_is_no_identity() -> None:
    assert pool().take() is None


def test_low_follows_the_answers() -> None:
    sessions = pool(7)
    first, second = take(sessions), take(sessions)
    assert (first.sequence, first.low) == (1, 1)
    assert (second.sequence, second.low) == (2, 1)
    sessions.settle(second)
    assert take(sessions).low == 1
    sessions.settle(first)
    assert take(sessions).low == 3


def test_a_session_whose_low_is_stuck_is_set_aside_until_it_moves() -> None:
    sessions = pool(7)
    stuck = take(sessions)
    for _ in range(WINDOW - 1):
        sessions.settle(take(sessions))
    assert sessions.take() is None
    sessions.add(8)
    assert take(sessions).client == 8
    sessions.settle(stuck)
    assert take(sessions).client == 7


def test_a_forgotten_session_is_not_used_again() -> None:
    sessions = pool(7)
    identity = take(sessions)
    sessions.forget(7)
    sessions.settle(identity)
    assert sessions.take() is None


def test_the_pool_has_a_limit() -> None:
    sessions = pool(*range(1, MAX_SESSIONS))
    assert sessions.can_grow()
    sessions.add(MAX_SESSIONS)
    assert not sessions.can_grow()


@given(st.lists(st.integers(0, 20), max_size=600))
def test_no_identity_is_outside_its_window_or_used_twice(picks: list[int]) -> None:
    """0 takes one; any other number settles the one taken that long ago."""
    sessions, unanswered, used = pool(1, 2), list[Identity](), set[tuple[int, int]]()
    for pick in picks:
        if pick and unanswered:
            sessions.settle(unanswered.pop(-min(pick, len(unanswered))))
            continue
        identity = sessions.take()
        if identity is None:
            continue
        assert (identity.client, identity.sequence) not in used
        used.add((identity.client, identity.sequence))
        unanswered.append(identity)
        mine = [other.sequence for other in unanswered if other.client == identity.client]
        assert identity.low == min(mine)
        assert identity.sequence < identity.low + WINDOW
