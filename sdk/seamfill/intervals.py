"""Coverage algebra: sets of time ranges, and the closed ranges some callers think in.

Owns two kinds of range and the border between them:

- ``TimeRange`` is half-open, ``[start_ms, end_ms)``, and what seamfill uses inside. ``IntervalSet``
  is a set of them in numpy arrays, so that a million ranges are one pass, not a million objects.
- ``CoverageRange`` is closed, ``[start, end]``, both being bars on a grid of ``interval``.
  ``merge_coverage`` and ``compute_missing_ranges`` are thin wrappers that widen the closed end by
  one interval, work half-open, and narrow it again.

Must not know series, bars or the coordinator. Pure.

Invariants: an ``IntervalSet`` is ordered, disjoint, without touching neighbours and without empty
ranges, so equal sets have equal arrays. The two kinds of range have differently named fields and
are refused where the other is expected: mixing them up loses exactly one bar per range, which
nobody notices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from seamfill.errors import InvalidInput

__all__ = [
    "CoverageRange",
    "IntervalSet",
    "TimeRange",
    "WarmupWindow",
    "compute_missing_ranges",
    "merge_coverage",
]

Int64s = npt.NDArray[np.int64]

# Leaves room to add an interval without overflow in int64; 146 million years in ms.
LARGEST: Final = 1 << 62


def _check(field: str, *values: int) -> None:
    for value in values:
        # bool is an int to Python, but never a time to a person.
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidInput(field, f"must be an int, not {type(value).__name__}")
        if not -LARGEST < value < LARGEST:
            raise InvalidInput(field, f"{value} is outside of what a time can be")


@dataclass(frozen=True, slots=True, order=True)
class TimeRange:
    """Half-open ``[start_ms, end_ms)``, never empty. Units: epoch ms UTC."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        _check("start_ms", self.start_ms)
        _check("end_ms", self.end_ms)
        if self.end_ms <= self.start_ms:
            raise InvalidInput("end_ms", f"{self.end_ms} must be after start_ms {self.start_ms}")

    @property
    def duration_ms(self) -> int:
        """Return how long the range is."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True, slots=True, order=True)
class CoverageRange:
    """Closed ``[start, end]``: the first and the last bar, in any one unit of time."""

    start: int
    end: int

    def __post_init__(self) -> None:
        _check("start", self.start)
        _check("end", self.end)
        if self.end < self.start:
            raise InvalidInput("end", f"{self.end} must not be before start {self.start}")


@dataclass(frozen=True, slots=True)
class WarmupWindow:
    """The bars ``start, start + interval, …`` up to and including ``end``."""

    start: int
    end: int
    interval: int

    def __post_init__(self) -> None:
        _check("start", self.start)
        _check("end", self.end)
        _check("interval", self.interval)
        if self.interval <= 0:
            raise InvalidInput("interval", f"{self.interval} must be positive")
        if self.end < self.start:
            raise InvalidInput("end", f"{self.end} must not be before start {self.start}")


def merge_coverage(ranges: Iterable[CoverageRange], interval: int) -> list[CoverageRange]:
    """Return the same bars as few ordered, disjoint closed ranges.

    Two ranges join when they overlap or the later one starts at most one ``interval`` after the
    earlier one's end. Raises ``TypeError`` when anything but a ``CoverageRange`` is among them.
    """
    _check("interval", interval)
    if interval <= 0:
        raise InvalidInput("interval", f"{interval} must be positive")
    starts, ends = _closed_columns(ranges)
    starts, ends = _normalised(starts, ends + interval)
    return _closed(starts, ends - interval)


def compute_missing_ranges(
    coverage: Iterable[CoverageRange], window: WarmupWindow
) -> list[CoverageRange]:
    """Return the window's bars that no range covers, as few ordered, disjoint closed ranges.

    The bars are the window's own grid, counted from its start. A range that is off that grid covers
    the bars it contains, no more: bars before an off-grid head are still missing. On the grid a gap
    ends at ``range.start - interval`` and resumes at ``range.end + interval``. Raises ``TypeError``
    when anything but a ``CoverageRange`` is among the coverage.
    """
    starts, ends = _closed_columns(coverage)
    # Count bars instead of time: rounding inwards is what keeps an off-grid range from swallowing
    # a bar that it only touches.
    bars = (window.end - window.start) // window.interval + 1
    first = -((window.start - starts) // window.interval)
    after = (ends - window.start) // window.interval + 1
    held = IntervalSet.from_columns(np.clip(first, 0, bars), np.clip(after, 0, bars))
    missing = held.complement(0, bars)
    return _closed(
        window.start + missing.starts * window.interval,
        window.start + (missing.ends - 1) * window.interval,
    )


@dataclass(frozen=True, slots=True, eq=False)
class IntervalSet:
    """A set of half-open ranges in two int64 arrays. Arrays are not to be changed.

    Build it with ``of`` or ``from_columns``, which put it in order; the constructor trusts.
    """

    starts: Int64s
    ends: Int64s

    @classmethod
    def of(cls, ranges: Iterable[TimeRange]) -> IntervalSet:
        """Build from ranges in any order, overlapping or not."""
        given = list(ranges)
        _refuse_others(given, TimeRange)
        return cls(*_normalised(_column(given, "start_ms"), _column(given, "end_ms")))

    @classmethod
    def from_columns(cls, starts: Int64s, ends: Int64s) -> IntervalSet:
        """Build from columns in any order; rows with ``end <= start`` are empty and dropped."""
        kept = ends > starts
        return cls(*_normalised(starts[kept], ends[kept]))

    @classmethod
    def empty(cls) -> IntervalSet:
        """Return the set without any range."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(nothing, nothing)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[TimeRange]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield TimeRange(start, end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.ends, other.ends)

    __hash__ = None  # type: ignore[assignment]  # holds arrays: equal by content, hence unhashable

    @property
    def total(self) -> int:
        """Return the sum of all lengths."""
        return int((self.ends - self.starts).sum())

    def union(self, other: IntervalSet) -> IntervalSet:
        """Return what is in either."""
        return IntervalSet(
            *_normalised(
                np.concatenate([self.starts, other.starts]),
                np.concatenate([self.ends, other.ends]),
            )
        )

    def intersection(self, other: IntervalSet) -> IntervalSet:
        """Return what is in both."""
        # The ranges of ``other`` that overlap one of ours are consecutive, since both are in order.
        low = np.searchsorted(other.ends, self.starts, side="right")
        high = np.searchsorted(other.starts, self.ends, side="left")
        counts = np.maximum(high - low, 0)
        mine = np.repeat(np.arange(len(self), dtype=np.int64), counts)
        before = np.cumsum(counts) - counts
        theirs = np.arange(len(mine), dtype=np.int64) + np.repeat(low - before, counts)
        return IntervalSet(
            np.maximum(self.starts[mine], other.starts[theirs]),
            np.minimum(self.ends[mine], other.ends[theirs]),
        )

    def complement(self, start: int, end: int) -> IntervalSet:
        """Return what of ``[start, end)`` is not in this set."""
        inside = self.clipped(start, end)
        starts = np.concatenate([np.array([start], dtype=np.int64), inside.ends])
        ends = np.concatenate([inside.starts, np.array([end], dtype=np.int64)])
        kept = ends > starts
        return IntervalSet(starts[kept], ends[kept])

    def difference(self, other: IntervalSet) -> IntervalSet:
        """Return what is here and not in ``other``."""
        if not len(self):
            return self
        return self.intersection(other.complement(int(self.starts[0]), int(self.ends[-1])))

    def clipped(self, start: int, end: int) -> IntervalSet:
        """Return what of this set lies in ``[start, end)``."""
        starts = np.maximum(self.starts, start)
        ends = np.minimum(self.ends, end)
        kept = ends > starts
        return IntervalSet(starts[kept], ends[kept])


def _normalised(starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """Order half-open ranges and join those that overlap or touch."""
    if len(starts) == 0:
        return starts, ends
    if not bool(np.all(starts[1:] >= starts[:-1])):
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    # A range opens a new group when it starts after the furthest end of all before it. A short
    # range inside a long one must not end the group, hence the running maximum.
    reach = np.maximum.accumulate(ends)
    opens = np.flatnonzero(starts[1:] > reach[:-1]) + 1
    firsts = np.concatenate([np.zeros(1, dtype=np.int64), opens])
    lasts = np.concatenate([opens - 1, np.array([len(starts) - 1], dtype=np.int64)])
    return starts[firsts], reach[lasts]


def _closed_columns(ranges: Iterable[CoverageRange]) -> tuple[Int64s, Int64s]:
    given = list(ranges)
    _refuse_others(given, CoverageRange)
    return _column(given, "start"), _column(given, "end")


def _column(given: Sequence[object], name: str) -> Int64s:
    return np.fromiter(map(attrgetter(name), given), dtype=np.int64, count=len(given))


def _closed(starts: Int64s, ends: Int64s) -> list[CoverageRange]:
    """Build ranges that are known to be sound.

    Through the slots' own descriptors: the checks and the frozen ``__init__`` are nine tenths of
    the time of a million ranges, and what comes out of the arrays can not be wrong.
    """
    built = list(map(object.__new__, repeat(CoverageRange, len(starts))))
    for name, column in (("start", starts), ("end", ends)):
        assign = CoverageRange.__dict__[name].__set__
        deque(map(assign, built, column.tolist()), maxlen=0)
    return built


def _refuse_others(given: Sequence[object], kind: type[object]) -> None:
    others = set(map(type, given)) - {kind}
    if others:
        names = ", ".join(sorted(other.__name__ for other in others))
        raise TypeError(f"expected only {kind.__name__}, got {names}: half-open and closed differ")
