"""Coverage algebra against plain sets of grid points."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamfill.errors import InvalidInput
from seamfill.intervals import (
    CoverageRange,
    IntervalSet,
    TimeRange,
    WarmupWindow,
    compute_missing_ranges,
    merge_coverage,
)

INTERVAL = 60

on_grid = st.builds(
    lambda first, bars: CoverageRange(first * INTERVAL, (first + bars) * INTERVAL),
    st.integers(-20, 60),
    st.integers(0, 8),
)
anywhere = st.builds(
    lambda start, length: CoverageRange(start, start + length),
    st.integers(-600, 3600),
    st.integers(0, 500),
)
coverages = st.lists(on_grid, max_size=12)
windows = st.builds(
    lambda start, length: WarmupWindow(start, start + length, INTERVAL),
    st.integers(-600, 3000),
    st.integers(0, 3000),
)
halfopen = st.builds(
    lambda start, length: TimeRange(start, start + length), st.integers(0, 60), st.integers(1, 12)
)
halfopens = st.lists(halfopen, max_size=10)


def bars(ranges: list[CoverageRange]) -> set[int]:
    """The oracle: every bar of on-grid ranges, one by one."""
    return {at for each in ranges for at in range(each.start, each.end + 1, INTERVAL)}


def instants(ranges: list[TimeRange]) -> set[int]:
    return {at for each in ranges for at in range(each.start_ms, each.end_ms)}


@given(coverages)
def test_merging_loses_and_invents_no_bar(ranges: list[CoverageRange]) -> None:
    assert bars(merge_coverage(ranges, INTERVAL)) == bars(ranges)


@given(st.lists(anywhere, max_size=12))
def test_merged_ranges_are_ordered_and_more_than_an_interval_apart(
    ranges: list[CoverageRange],
) -> None:
    merged = merge_coverage(ranges, INTERVAL)
    assert all(b.start > a.end + INTERVAL for a, b in itertools.pairwise(merged))


@given(st.lists(anywhere, max_size=12), st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_order(ranges: list[CoverageRange], random: object) -> None:
    shuffled = list(ranges)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis hands in a random.Random
    assert merge_coverage(shuffled, INTERVAL) == merge_coverage(ranges, INTERVAL)


@given(st.lists(anywhere, max_size=12))
def test_merging_twice_changes_nothing(ranges: list[CoverageRange]) -> None:
    once = merge_coverage(ranges, INTERVAL)
    assert merge_coverage(once, INTERVAL) == once


@given(st.lists(anywhere, max_size=8), st.lists(anywhere, max_size=8), st.lists(anywhere))
def test_merging_in_any_grouping_is_the_same(
    a: list[CoverageRange], b: list[CoverageRange], c: list[CoverageRange]
) -> None:
    left = merge_coverage(merge_coverage(a + b, INTERVAL) + c, INTERVAL)
    right = merge_coverage(a + merge_coverage(b + c, INTERVAL), INTERVAL)
    assert left == right == merge_coverage(a + b + c, INTERVAL)


@given(st.lists(anywhere, max_size=12), windows)
def test_missing_bars_are_exactly_those_of_the_window_that_nothing_contains(
    ranges: list[CoverageRange], window: WarmupWindow
) -> None:
    """Ranges and window may be off each other's grid; the oracle asks each bar of the window."""
    expected = {
        at
        for at in range(window.start, window.end + 1, INTERVAL)
        if not any(each.start <= at <= each.end for each in ranges)
    }
    missing = compute_missing_ranges(ranges, window)
    assert bars(missing) == expected
    assert missing == merge_coverage(missing, INTERVAL)


@given(coverages, windows)
def test_filling_what_is_missing_leaves_nothing_missing(
    ranges: list[CoverageRange], window: WarmupWindow
) -> None:
    missing = compute_missing_ranges(ranges, window)
    assert compute_missing_ranges([*ranges, *missing], window) == []


def test_ranges_join_when_the_next_bar_follows() -> None:
    near = [CoverageRange(0, 60), CoverageRange(120, 180)]
    far = [CoverageRange(0, 60), CoverageRange(121, 180)]
    assert merge_coverage(near, INTERVAL) == [CoverageRange(0, 180)]
    assert merge_coverage(far, INTERVAL) == far


def test_a_short_range_inside_a_long_one_does_not_cut_it() -> None:
    ranges = [CoverageRange(0, 600), CoverageRange(60, 120), CoverageRange(660, 720)]
    assert merge_coverage(ranges, INTERVAL) == [CoverageRange(0, 720)]


def test_a_gap_ends_one_bar_before_and_resumes_one_bar_after_a_range() -> None:
    missing = compute_missing_ranges([CoverageRange(120, 180)], WarmupWindow(0, 300, INTERVAL))
    assert missing == [CoverageRange(0, 60), CoverageRange(240, 300)]


def test_a_bar_before_an_off_grid_head_is_not_lost() -> None:
    """``range.start - interval`` would end the first gap before it begins and drop bar 0."""
    missing = compute_missing_ranges([CoverageRange(30, 150)], WarmupWindow(0, 300, INTERVAL))
    assert missing == [CoverageRange(0, 0), CoverageRange(180, 300)]


def test_without_coverage_the_whole_window_is_missing() -> None:
    assert compute_missing_ranges([], WarmupWindow(0, 300, INTERVAL)) == [CoverageRange(0, 300)]


def test_the_two_kinds_of_range_can_not_be_mixed() -> None:
    mixed = [CoverageRange(0, 60), TimeRange(0, 60)]
    with pytest.raises(TypeError, match="TimeRange"):
        merge_coverage(mixed, INTERVAL)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(TypeError, match="TimeRange"):
        compute_missing_ranges(mixed, WarmupWindow(0, 60, 60))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="CoverageRange"):
        IntervalSet.of(mixed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: TimeRange(1, 1), "end_ms"),
        (lambda: TimeRange(True, 2), "start_ms"),
        (lambda: TimeRange(0, 1 << 62), "end_ms"),
        (lambda: CoverageRange(1, 0), "end"),
        (lambda: CoverageRange(0.5, 1), "start"),  # type: ignore[arg-type]
        (lambda: WarmupWindow(0, 60, 0), "interval"),
        (lambda: WarmupWindow(60, 0, 60), "end"),
        (lambda: merge_coverage([], -1), "interval"),
    ],
)
def test_an_impossible_range_is_refused_by_its_field(build: object, field: str) -> None:
    assert callable(build)
    with pytest.raises(InvalidInput) as caught:
        build()
    assert caught.value.field == field


@given(halfopens, halfopens)
def test_set_operations_agree_with_sets_of_instants(a: list[TimeRange], b: list[TimeRange]) -> None:
    left, right = IntervalSet.of(a), IntervalSet.of(b)
    assert instants(list(left.union(right))) == instants(a) | instants(b)
    assert instants(list(left.intersection(right))) == instants(a) & instants(b)
    assert instants(list(left.difference(right))) == instants(a) - instants(b)
    assert instants(list(left.complement(5, 50))) == set(range(5, 50)) - instants(a)
    assert left.total == len(instants(a))


@given(halfopens, halfopens)
def test_equal_sets_have_equal_arrays(a: list[TimeRange], b: list[TimeRange]) -> None:
    """The result of every operation is in normal form, however it came about."""
    left, right = IntervalSet.of(a), IntervalSet.of(b)
    for result in (left.union(right), left.intersection(right), left.difference(right)):
        assert result == IntervalSet.of(result)


def test_the_empty_set_is_neutral() -> None:
    some = IntervalSet.of([TimeRange(0, 10)])
    nothing = IntervalSet.empty()
    assert some.union(nothing) == some
    assert some.difference(nothing) == some
    assert some.intersection(nothing) == nothing == nothing.difference(some)
    assert list(nothing.complement(0, 10)) == [TimeRange(0, 10)]
