"""Digest points are the same on nodes that were told of different indexes."""

from __future__ import annotations

from seamfill_coordinator.raft.digests import DigestPoints


def test_points_lie_at_multiples_of_64() -> None:
    digests = DigestPoints(lambda: "d")
    for index in range(1, 200):
        digests.reached(index)
    assert list(digests.points()) == [64, 128, 192]


def test_a_point_behind_an_entry_without_effect_is_taken_before_the_next_change() -> None:
    state = 63
    digests = DigestPoints(lambda: str(state))
    digests.reached(63)
    # Entry 64 does not touch the machine, and nobody was told that it passed.
    digests.reached(65)
    state = 66
    digests.reached(66)
    assert digests.points() == {64: "63"}


def test_only_the_newest_are_kept() -> None:
    digests = DigestPoints(lambda: "d")
    for index in range(64, 64 * 40, 64):
        digests.reached(index)
    assert len(digests.points()) == 16
    assert max(digests.points()) == 64 * 39
