"""The simulation beside real time: three nodes, 20 operations a second, all checkers.

The same seeds run one after the other, then on all processors at once; what a row says is virtual
seconds a second, of one processor and of the wall clock. Three rounds alternate between the two;
the best of each is printed with the spread, since a shared machine only ever makes a run slower.
Beside it the same cluster with callers who ask nothing, which is what its heartbeats cost.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.environment import describe
from seamfill_chaos.sim.cli import fix_hash_seed
from seamfill_chaos.sim.plan import Plan, draw_plan
from seamfill_chaos.sim.run import RunResult, run_plan

SECONDS = 60.0
SEEDS = range(1, 41)
ROUNDS = 3


def main() -> None:
    fix_hash_seed()
    processors = os.cpu_count() or 1
    print(describe("seamfill", "pysyncobj"))
    print(f"{len(SEEDS)} seeds of {SECONDS:g} virtual seconds\n")
    print("| callers | processors | operations/s | × real time of one | × real time in all |")
    print("|---|---|---|---|---|")
    for name, plans in (
        ("as in a run, and two", [_three(seed) for seed in SEEDS]),
        ("none", [_idle(_three(seed)) for seed in SEEDS]),
    ):
        rows: dict[int, list[tuple[float, float, float]]] = {1: [], processors: []}
        for _ in range(ROUNDS):
            for jobs, measured in rows.items():
                measured.append(_measure(plans, jobs))
        for jobs, measured in rows.items():
            rate, alone, together = ([row[column] for row in measured] for column in range(3))
            print(f"| {name} | {jobs} | {rate[0]:.1f} | {_best(alone)} | {_best(together)} |")


def _measure(plans: Sequence[Plan], jobs: int) -> tuple[float, float, float]:
    """Return operations per virtual second, and virtual seconds per processor and wall second."""
    began_s = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        results = pool.map(_run, plans, chunksize=1)
    took_s = time.perf_counter() - began_s
    failed = [result.seed for result in results if result.violation is not None]
    assert not failed, f"seeds {failed} broke a promise; see seamfill-chaos sim --seed"
    virtual_s = sum(result.virtual_s for result in results)
    operations = sum(result.operations.total() for result in results)
    cpu_s = sum(result.cpu_s for result in results)
    return operations / virtual_s, virtual_s / cpu_s, virtual_s / took_s


def _run(plan: Plan) -> RunResult:
    return run_plan(plan)[1]


def _three(seed: int) -> Plan:
    plan = draw_plan(seed, SECONDS)
    # Callers wait while nobody leads. With two more there are 20 operations a second all the same.
    workload = replace(plan.workload, claimers=plan.workload.claimers + 2)
    return replace(plan, nodes=3, clock_rates=(), workload=workload)


def _idle(plan: Plan) -> Plan:
    return replace(plan, workload=replace(plan.workload, claimers=0, fillers=0))


def _best(values: Sequence[float]) -> str:
    return f"{max(values):.0f} (from {min(values):.0f})"


if __name__ == "__main__":
    main()
