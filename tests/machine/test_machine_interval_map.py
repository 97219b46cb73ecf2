"""The interval map against a plain dict of points."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seamfill_coordinator.machine.interval_map import IntervalMap, join_equal

SPAN = 40
edges = st.integers(0, SPAN)
steps = st.lists(st.tuples(st.booleans(), edges, edges, st.integers(0, 2)), max_size=30)


def _run(actions: list[tuple[bool, int, int, int]]) -> tuple[IntervalMap[int], dict[int, int]]:
    pieces: IntervalMap[int] = IntervalMap(join=join_equal)
    points: dict[int, int] = {}
    for is_put, a, b, value in actions:
        start, end = min(a, b), max(a, b)
        if start == end:
            continue
        if is_put:
            pieces.put(start, end, value)
            points.update(dict.fromkeys(range(start, end), value))
        else:
            pieces.clear(start, end)
            for point in range(start, end):
                points.pop(point, None)
    return pieces, points


@given(steps)
def test_every_point_has_the_value_that_was_put_last(
    actions: list[tuple[bool, int, int, int]],
) -> None:
    pieces, points = _run(actions)
    found = {point: value for start, end, value in pieces for point in range(start, end)}
    assert found == points
    for point in range(SPAN):
        piece = pieces.at(point)
        assert (None if piece is None else piece[2]) == points.get(point)


@given(steps)
def test_pieces_stay_ordered_disjoint_and_joined(
    actions: list[tuple[bool, int, int, int]],
) -> None:
    """Of neighbours that touch and are equal only one that a clear or cut left apart may stay."""
    pieces, _ = _run([action for action in actions if action[0]])
    previous_end, previous_value = -1, -1
    for start, end, value in pieces:
        assert previous_end <= start < end
        assert start > previous_end or value != previous_value
        previous_end, previous_value = end, value


@given(steps, edges, edges)
def test_parts_and_holes_tile_every_range(
    actions: list[tuple[bool, int, int, int]], a: int, b: int
) -> None:
    pieces, points = _run(actions)
    start, end = min(a, b), max(a, b)
    inside = [(s, e) for s, e, _ in pieces.within(start, end)]
    tiles = sorted(inside + pieces.holes(start, end))
    assert [point for s, e in tiles for point in range(s, e)] == list(range(start, end))
    assert pieces.touches(start, end) == any(point in points for point in range(start, end))
    assert pieces.length_within(start, end) == sum(point in points for point in range(start, end))


def test_an_empty_range_holds_nothing_and_changes_nothing() -> None:
    pieces: IntervalMap[int] = IntervalMap()
    pieces.put(0, 10, 1)
    pieces.clear(5, 5)
    assert list(pieces) == [(0, 10, 1)]
    assert pieces.overlapping(5, 5) == []
    assert pieces.holes(5, 5) == []
    assert not pieces.touches(5, 5)
    assert pieces.length_within(5, 5) == 0


def test_cut_and_join_are_asked_for_the_values_of_parts() -> None:
    """Values here are lengths: cutting and joining must keep their sum equal to what is held."""
    pieces: IntervalMap[int] = IntervalMap(
        cut=lambda value, start, end, new_start, new_end: new_end - new_start,
        join=lambda left, right: left + right,
    )
    pieces.put(0, 10, 10)
    pieces.put(20, 30, 10)
    pieces.put(10, 20, 10)
    assert list(pieces) == [(0, 30, 30)]
    pieces.clear(5, 8)
    assert list(pieces) == [(0, 5, 5), (8, 30, 22)]
    assert pieces.within(3, 10) == [(3, 5, 2), (8, 10, 2)]
