"""Many seeds on many processors.

Owns the pool and the sum of results. Must not know what a run is made of, or print.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from seamfill_chaos.sim.canaries import check_also, switched_on, tuned
from seamfill_chaos.sim.moments import missing_moments
from seamfill_chaos.sim.plan import draw_plan
from seamfill_chaos.sim.report import save_failure
from seamfill_chaos.sim.run import RunResult, run_plan

__all__ = ["Batch", "RunSettings", "run_one", "run_seeds"]

_SEEDS_PER_PROCESS = 50
"""A worker is replaced after so many: what one run leaks must not slow the thousandth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What all runs of a batch share."""

    seconds: float
    canary: str | None = None
    output: Path | None = None
    """Where a failed run leaves what is known of it."""


@dataclass(slots=True)
class Batch:
    """The sum of many runs."""

    runs: int = 0
    failed: list[RunResult] = field(default_factory=list)
    moments: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    recovered_s: list[float] = field(default_factory=list)
    virtual_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, result: RunResult) -> None:
        self.runs += 1
        self.moments += result.moments
        self.operations += result.operations
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        if result.recovered_s is not None:
            self.recovered_s.append(result.recovered_s)
        if result.violation is not None:
            self.failed.append(result)

    @property
    def missing(self) -> list[str]:
        """What the runs should have met and did not."""
        return missing_moments(self.moments, runs=self.runs)

    @property
    def speed(self) -> float:
        """Virtual seconds per second of one processor."""
        return self.virtual_s / max(self.cpu_s, 1e-9)


def run_one(seed: int, settings: RunSettings) -> RunResult:
    """Run a seed; a failure leaves its directory behind."""
    with switched_on(settings.canary):
        world, result = run_plan(tuned(settings.canary, draw_plan(seed, settings.seconds)))
    check_also(settings.canary, world, result)
    if result.violation is not None and settings.output is not None:
        save_failure(settings.output, world, result, canary=settings.canary)
    return result


def run_seeds(seeds: Iterable[int], settings: RunSettings, *, jobs: int) -> Iterator[RunResult]:
    """Run all seeds, ``jobs`` at a time, and yield results in the order of the seeds."""
    run = partial(run_one, settings=settings)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(
        jobs, maxtasksperchild=_SEEDS_PER_PROCESS
    ) as pool:
        yield from pool.imap(run, seeds)
