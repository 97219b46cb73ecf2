"""Requests go out as fast as the budget and the venue allow, and no faster."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from seamfill_worker.pacing import Pacer


def pacer(limit: int = 6_000) -> Pacer:
    return Pacer(weight_per_minute=limit, page_weight=2)


def test_granted_weight_goes_out_at_once() -> None:
    venue = pacer()
    assert all(venue.wait_ms(weight=2, granted=True, now_ms=0) == 0 for _ in range(10_000))


def test_a_venue_without_a_budget_is_never_waited_for() -> None:
    venue = pacer(0)
    assert all(venue.wait_ms(weight=2, granted=False, now_ms=0) == 0 for _ in range(10_000))


def test_the_counter_of_the_venue_overrules_the_grant_until_its_minute_turns() -> None:
    venue = pacer()
    venue.observed(used_weight=5_699, server_time_ms=45_000, now_ms=100)
    assert venue.wait_ms(weight=2, granted=True, now_ms=100) == 0
    venue.observed(used_weight=5_700, server_time_ms=45_000, now_ms=100)
    assert venue.wait_ms(weight=2, granted=True, now_ms=100) == 15_000
    assert venue.wait_ms(weight=2, granted=True, now_ms=15_100) == 0


def test_holds_never_shorten_each_other() -> None:
    venue = pacer()
    venue.hold(20_000, now_ms=0)
    venue.hold(1_000, now_ms=0)
    assert venue.wait_ms(weight=2, granted=True, now_ms=0) == 20_000


@settings(deadline=None)
@given(st.lists(st.integers(0, 3_000), max_size=300), st.sampled_from([1, 40, 1_200, 6_000]))
def test_ungranted_requests_stay_within_the_reserve(steps: list[int], limit: int) -> None:
    """Over any time: at most the reserve at once, and its refill."""
    venue = pacer(limit)
    reserve = max(limit // 20, 4)
    now_ms = admitted = 0
    for step in steps:
        now_ms += step
        wait_ms = venue.wait_ms(weight=2, granted=False, now_ms=now_ms)
        if wait_ms == 0:
            admitted += 2
        else:
            assert 0 < wait_ms <= 60_001
    assert admitted <= reserve + reserve * now_ms / 60_000 + 1e-6


def test_the_wait_that_is_named_is_enough() -> None:
    venue = pacer(40)
    while (wait_ms := venue.wait_ms(weight=2, granted=False, now_ms=0)) == 0:
        pass
    assert venue.wait_ms(weight=2, granted=False, now_ms=wait_ms) == 0
