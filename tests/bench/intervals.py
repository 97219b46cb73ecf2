"""Time merging and missing ranges of many intervals, beside `portion` on the same input.

Run: python tests/bench/intervals.py [RANGES]. Both sides get the same million closed ranges as
Python objects, in random order, and must give the same answer; the program fails when they differ.
"""

from __future__ import annotations

import platform
import random
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy
import portion

from seamfill.intervals import (
    CoverageRange,
    IntervalSet,
    WarmupWindow,
    compute_missing_ranges,
    merge_coverage,
)

INTERVAL: Final = 60_000
SEED: Final = 20_210_410
ROUNDS: Final = 3

T = TypeVar("T")


def main(count: int) -> int:
    ranges = _ranges(count)
    window = WarmupWindow(0, ranges_end(ranges), INTERVAL)
    # `portion` knows intervals, not bars: half-open instants, one interval beyond the last bar.
    theirs = [portion.closedopen(each.start, each.end + INTERVAL) for each in ranges]
    whole = portion.closedopen(window.start, window.end + INTERVAL)

    print(
        f"intervals: {count:,} closed ranges in random order, seed {SEED};"
        f" Python {platform.python_version()}, numpy {numpy.__version__},"
        f" portion {portion.__version__ if hasattr(portion, '__version__') else '2.x'};"
        f" {platform.machine()}"
    )
    merged, merge_s = best_of(ROUNDS, lambda: merge_coverage(ranges, INTERVAL))
    missing, missing_s = best_of(ROUNDS, lambda: compute_missing_ranges(ranges, window))
    union, union_s = best_of(1, lambda: portion.Interval(*theirs))
    rest, rest_s = best_of(1, lambda: whole - portion.Interval(*theirs))

    # What the objects cost: the same work on columns, as seamfill itself uses it.
    starts = numpy.array([each.start for each in ranges])
    ends = numpy.array([each.end + INTERVAL for each in ranges])
    columns, columns_s = best_of(ROUNDS, lambda: IntervalSet.from_columns(starts, ends))

    same_columns = [(r.start_ms, r.end_ms - INTERVAL) for r in columns] == closed(union)
    same_merge = closed(union) == [(each.start, each.end) for each in merged]
    same_missing = closed(rest) == [(each.start, each.end) for each in missing]
    print(f"{'':24}{'seamfill':>12}{'portion':>12}{'faster by':>12}   same answer")
    for name, ours_s, theirs_s, same in (
        (f"merge → {len(merged):,}", merge_s, union_s, same_merge),
        ("merge, in columns", columns_s, union_s, same_columns),
        (f"missing → {len(missing):,}", missing_s, rest_s, same_missing),
    ):
        print(f"{name:24}{ours_s:>11.3f}s{theirs_s:>11.3f}s{theirs_s / ours_s:>11.0f}×   {same}")
    return 0 if same_merge and same_columns and same_missing else 1


def _ranges(count: int) -> list[CoverageRange]:
    """Mostly disjoint windows of 1–20 bars with gaps of 0–8 bars, some overlapping, shuffled."""
    dice = random.Random(SEED)
    ranges: list[CoverageRange] = []
    at = 0
    for _ in range(count):
        bars = dice.randrange(1, 21)
        ranges.append(CoverageRange(at * INTERVAL, (at + bars - 1) * INTERVAL))
        at += bars + dice.randrange(-2, 9)
        at = max(at, 0)
    dice.shuffle(ranges)
    return ranges


def ranges_end(ranges: list[CoverageRange]) -> int:
    """Return a bar after the last one, so that the tail is missing too."""
    return max(each.end for each in ranges) + 10 * INTERVAL


def best_of(rounds: int, work: Callable[[], T]) -> tuple[T, float]:
    """Run the work and return its last result with the shortest time in seconds."""
    shortest = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        result = work()
        shortest = min(shortest, time.perf_counter() - begun)
    return result, shortest


def closed(intervals: Any) -> list[tuple[int, int]]:
    """Turn `portion`'s half-open result back into first and last bars."""
    return [(each.lower, each.upper - INTERVAL) for each in intervals]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
