"""Liveness: once the faults stop, the cluster works again, soon.

Owns the bounds of testing.md and how long recovery took, for the ledger. Pure: it is told when
faults began and ended and how far each node had applied. Must not know what the faults were.

A *recovery* is the time from a moment (a leader killed, a cut healed) to the answer of the first
operation that was asked after it. The workload has to ask often enough for this to mean something:
the time between its requests is part of what is measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seamfill_chaos.checkers.violation import Checker, Violation
from seamfill_chaos.history import History, Operation
from seamfill_coordinator.machine.commands import Request
from seamfill_coordinator.machine.outcomes import Reply

__all__ = [
    "CONVERGED_WITHIN_MS",
    "WRITTEN_AFTER_CRASH_MS",
    "WRITTEN_WITHIN_MS",
    "Progress",
    "Recoveries",
    "check_converged",
    "check_terms",
    "check_written",
    "converged_after_ms",
    "percentile",
    "written_after_ms",
]

WRITTEN_AFTER_CRASH_MS: Final = 1_200
"""p99 of the next write after a leader crashed."""
WRITTEN_WITHIN_MS: Final = 3_000
"""p99 of the next write after any other fault."""
CONVERGED_WITHIN_MS: Final = 5_000
"""p99 until all live members have applied what any had applied at the moment of healing."""

SPARE_TERMS: Final = 2
"""The first election, and one that was split."""


class Progress:
    """How far each node had applied, and when. Told in order of time."""

    def __init__(self) -> None:
        self._at_ms: dict[str, list[int]] = {}
        self._index: dict[str, list[int]] = {}

    def reached(self, node: str, at_ms: int, applied_index: int) -> None:
        """``node`` has applied so far; a restart may put it back."""
        times = self._at_ms.setdefault(node, [])
        indexes = self._index.setdefault(node, [])
        if not indexes or indexes[-1] != applied_index:
            times.append(at_ms)
            indexes.append(applied_index)

    def at(self, at_ms: int) -> int:
        """Return the highest index that any node had applied before or at this time."""
        highest = 0
        for node, times in self._at_ms.items():
            until = bisect_left(times, at_ms + 1)
            highest = max([highest, *self._index[node][:until]])
        return highest

    def when(self, node: str, index: int, *, since_ms: int) -> int | None:
        """Return when ``node`` had applied ``index``, at ``since_ms`` at the earliest."""
        times, indexes = self._at_ms.get(node, []), self._index.get(node, [])
        first = bisect_left(times, since_ms + 1)
        if first > 0 and indexes[first - 1] >= index:
            return since_ms
        for at_ms, applied in zip(times[first:], indexes[first:], strict=True):
            if applied >= index:
                return at_ms
        return None


def written_after_ms(history: History, since_ms: int) -> int | None:
    """Return how long after ``since_ms`` the first write that was asked from then on was answered;
    None when none was."""
    answered = [
        operation.returned_at_ms
        for operation in history.operations
        if _is_write(operation)
        and operation.invoked_at_ms >= since_ms
        and operation.returned_at_ms is not None
    ]
    return min(answered) - since_ms if answered else None


def converged_after_ms(progress: Progress, live: Iterable[str], since_ms: int) -> int | None:
    """Return how long after ``since_ms`` all ``live`` nodes had applied what any had by then; None
    when they never did."""
    target = progress.at(since_ms)
    reached = [progress.when(node, target, since_ms=since_ms) for node in live]
    times = [at_ms for at_ms in reached if at_ms is not None]
    return max(times, default=since_ms) - since_ms if len(times) == len(reached) else None


def check_written(
    history: History, since_ms: int, *, within_ms: int, until_ms: int
) -> list[Violation]:
    """Demand an answered write after ``since_ms``. A run that ended (``until_ms``) before the time
    was over, without a write, could not show anything: a violation too."""
    took_ms = written_after_ms(history, since_ms)
    if took_ms is not None and took_ms <= within_ms:
        return []
    return [
        _violation(
            f"no write was answered within {within_ms} ms after {since_ms} ms: "
            + (f"it took {took_ms} ms" if took_ms is not None else f"none until {until_ms} ms")
        )
    ]


def check_converged(
    progress: Progress, live: Iterable[str], since_ms: int, *, within_ms: int
) -> list[Violation]:
    """Demand that all live members have applied everything soon after ``since_ms``."""
    target = progress.at(since_ms)
    violations: list[Violation] = []
    for node in sorted(live):
        at_ms = progress.when(node, target, since_ms=since_ms)
        if at_ms is None or at_ms - since_ms > within_ms:
            took = "never did" if at_ms is None else f"took {at_ms - since_ms} ms"
            violations.append(
                _violation(
                    f"{node} should have applied index {target} within {within_ms} ms after "
                    f"{since_ms} ms; it {took}",
                    target,
                )
            )
    return violations


def check_terms(highest_term: int, *, disturbances: int) -> list[Violation]:
    """Demand that terms are used up by disturbances alone: one election each, and a few spare.

    For runs whose every disturbance is counted and can depose one leader at most.
    """
    allowed = SPARE_TERMS + disturbances
    if highest_term <= allowed:
        return []
    return [
        _violation(
            f"term {highest_term} was reached after {disturbances} disturbances; {allowed} would do"
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoveries:
    """How long recoveries of each kind took, over many faults or many runs."""

    took_ms: Mapping[str, Sequence[int]]

    def check(self, bounds_ms: Mapping[str, int], *, share: float = 0.99) -> list[Violation]:
        """Demand that this share of each kind stayed within its bound, and that each was seen."""
        violations: list[Violation] = []
        for kind, bound_ms in sorted(bounds_ms.items()):
            took_ms = self.took_ms.get(kind, ())
            if not took_ms:
                violations.append(_violation(f"no recovery of kind {kind!r} was seen"))
            elif (reached_ms := percentile(took_ms, share)) > bound_ms:
                violations.append(
                    _violation(
                        f"{kind}: {share:.0%} of {len(took_ms)} recoveries took up to "
                        f"{reached_ms} ms, more than {bound_ms} ms"
                    )
                )
        return violations

    def lines(self) -> list[str]:
        """Return one line a kind for the ledger: number, p50, p99, longest."""
        return [
            f"{kind}: {len(took_ms)} recoveries, p50 {percentile(took_ms, 0.5)} ms, "
            f"p99 {percentile(took_ms, 0.99)} ms, longest {max(took_ms)} ms"
            for kind, took_ms in sorted(self.took_ms.items())
            if took_ms
        ]


def percentile(values: Sequence[int], share: float) -> int:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    assert values, "there is no percentile of nothing"
    ordered = sorted(values)
    # As in "at least 99 of 100": the rank is rounded up, so that nothing is interpolated away.
    rank = -(-len(ordered) * round(share * 1000) // 1000)
    return ordered[max(rank, 1) - 1]


def _is_write(operation: Operation) -> bool:
    return isinstance(operation.asked, Request) and isinstance(operation.answer, Reply)


def _violation(explanation: str, *indexes: int) -> Violation:
    return Violation(checker=Checker.LIVENESS, explanation=explanation, indexes=indexes)
