"""A mutable map from disjoint half-open ranges to values.

Owns splitting and merging, nothing else; must not know what the values mean. Kept as three parallel
sorted lists: a lookup is a binary search, a change moves only pointers behind it (one ``memmove``),
and an empty map costs almost nothing. A balanced tree would be O(log n) for the moves as well, but
in CPython it loses to ``memmove`` below some 10⁵ pieces, which is the cap.

Invariants: ``starts`` is strictly increasing; ``starts[i] < ends[i] <= starts[i + 1]``; when a join
is given, no two touching neighbours could be joined at the moment the later one was put.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Cut", "IntervalMap", "Join", "Piece", "join_equal", "keep_whole"]

V = TypeVar("V")
Piece = tuple[int, int, V]
Cut = Callable[[V, int, int, int, int], V]
"""(value, start, end, new_start, new_end) → the value of the part [new_start, new_end)."""
Join = Callable[[V, V], V | None]
"""(left, right) → the value of both together, or None when they must stay apart."""


def keep_whole(value: V, start: int, end: int, new_start: int, new_end: int) -> V:
    """Cut that leaves the value as it is: every part has what the whole had."""
    return value


def join_equal(left: V, right: V) -> V | None:
    """Join neighbours whose values are equal."""
    return left if left == right else None


class IntervalMap(Generic[V]):
    """Disjoint ranges with values, in order. The three lists are public to read, never to write:
    the scheduler's inner loop searches them without a call in between."""

    __slots__ = ("_cut", "_join", "ends", "starts", "values")

    def __init__(self, *, cut: Cut[V] = keep_whole, join: Join[V] | None = None) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.values: list[V] = []
        self._cut = cut
        self._join = join

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Piece[V]]:
        return iter(list(zip(self.starts, self.ends, self.values, strict=True)))

    def at(self, point: int) -> Piece[V] | None:
        """Return the piece that contains ``point``."""
        i = bisect_right(self.starts, point) - 1
        if i >= 0 and self.ends[i] > point:
            return (self.starts[i], self.ends[i], self.values[i])
        return None

    def overlapping(self, start: int, end: int) -> list[Piece[V]]:
        """Return the pieces that share a point with [start, end), whole, in order."""
        if start >= end:
            return []
        i = bisect_right(self.ends, start)
        j = bisect_left(self.starts, end, i)
        if i == j:
            return []
        return list(zip(self.starts[i:j], self.ends[i:j], self.values[i:j], strict=True))

    def within(self, start: int, end: int) -> list[Piece[V]]:
        """Return the parts inside [start, end), clipped; values are cut to what is left."""
        return [
            (s, e, v)
            if s >= start and e <= end
            else (max(s, start), min(e, end), self._cut(v, s, e, max(s, start), min(e, end)))
            for s, e, v in self.overlapping(start, end)
        ]

    def holes(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of [start, end) that have no value, in order."""
        found = []
        at = start
        for s, e, _ in self.overlapping(start, end):
            if s > at:
                found.append((at, s))
            at = e
        if at < end:
            found.append((at, end))
        return found

    def length_within(self, start: int, end: int) -> int:
        """Return how much of [start, end) has a value."""
        i = bisect_right(self.ends, start)
        j = bisect_left(self.starts, end, i)
        if i == j or start >= end:
            return 0
        length = sum(self.ends[i:j]) - sum(self.starts[i:j])
        return length - max(0, start - self.starts[i]) - max(0, self.ends[j - 1] - end)

    def touches(self, start: int, end: int) -> bool:
        """Tell whether any point of [start, end) has a value."""
        i = bisect_right(self.ends, start)
        return start < end and i < len(self.starts) and self.starts[i] < end

    def clear(self, start: int, end: int) -> None:
        """Forget what [start, end) holds, cutting the pieces that reach out of it."""
        if start < end:
            self._carve(start, end)

    def put(self, start: int, end: int, value: V) -> None:
        """Give [start, end) a value, replacing what was there, joining with its neighbours."""
        self.place(self._carve(start, end), start, end, value)

    def place(self, i: int, start: int, end: int, value: V) -> None:
        """Put a piece where nothing is; ``i`` is the number of pieces before ``start``."""
        starts, ends, values = self.starts, self.ends, self.values
        join = self._join
        if join is not None:
            if i and ends[i - 1] == start:
                joined = join(values[i - 1], value)
                if joined is not None:
                    ends[i - 1] = end
                    values[i - 1] = joined
                    self._join_right(i - 1)
                    return
            if i < len(starts) and starts[i] == end:
                joined = join(value, values[i])
                if joined is not None:
                    starts[i] = start
                    values[i] = joined
                    return
        starts.insert(i, start)
        ends.insert(i, end)
        values.insert(i, value)

    def drop(self, i: int) -> None:
        """Remove the piece with this index."""
        del self.starts[i], self.ends[i], self.values[i]

    def load(self, pieces: list[Piece[V]]) -> None:
        """Take over pieces that another map had, exactly, without joining (restore)."""
        self.starts = [s for s, _, _ in pieces]
        self.ends = [e for _, e, _ in pieces]
        self.values = [v for _, _, v in pieces]

    def _join_right(self, i: int) -> None:
        """Join piece ``i`` with the next one if they touch and may."""
        starts, ends, values = self.starts, self.ends, self.values
        if self._join is None or i + 1 >= len(starts) or starts[i + 1] != ends[i]:
            return
        joined = self._join(values[i], values[i + 1])
        if joined is not None:
            ends[i] = ends[i + 1]
            values[i] = joined
            del starts[i + 1], ends[i + 1], values[i + 1]

    def _carve(self, start: int, end: int) -> int:
        """Make [start, end) empty; return the index at which a piece there belongs."""
        starts, ends, values = self.starts, self.ends, self.values
        i = bisect_right(ends, start)
        j = bisect_left(starts, end, i)
        if i == j:
            return i
        left, right = starts[i], ends[j - 1]
        if left >= start and right <= end:
            del starts[i:j], ends[i:j], values[i:j]
            return i
        new_starts, new_ends, new_values = [], [], []
        if left < start:
            new_starts.append(left)
            new_ends.append(start)
            new_values.append(self._cut(values[i], left, ends[i], left, start))
        if right > end:
            new_starts.append(end)
            new_ends.append(right)
            new_values.append(self._cut(values[j - 1], starts[j - 1], right, end, right))
        starts[i:j], ends[i:j], values[i:j] = new_starts, new_ends, new_values
        return i + 1 if left < start else i
