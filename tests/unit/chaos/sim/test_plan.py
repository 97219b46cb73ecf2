"""The draw of a run: from its seed alone, and different for each."""

from __future__ import annotations

from collections import Counter

from seamfill_chaos.sim.plan import Fault, draw_plan


def test_a_plan_depends_on_its_seed_alone() -> None:
    assert draw_plan(7, 120.0) == draw_plan(7, 120.0)
    assert draw_plan(7, 120.0) != draw_plan(8, 120.0)


def test_a_shorter_run_meets_the_same_world() -> None:
    """So that a failure can be looked at again with fewer seconds."""
    long, short = draw_plan(7, 120.0), draw_plan(7, 60.0)
    assert long.faults == short.faults and long.weather == short.weather


def test_every_fault_is_missing_in_many_runs_and_there_in_many() -> None:
    """Swarm testing: a fault that is always there hides others."""
    runs = 400
    seen = Counter(fault for seed in range(runs) for fault in draw_plan(seed, 120.0).faults)
    for fault in Fault:
        assert 0.15 * runs < seen[fault] < 0.6 * runs


def test_some_runs_have_no_faults_at_all_or_nearly() -> None:
    assert min(len(draw_plan(seed, 120.0).faults) for seed in range(200)) <= 1
