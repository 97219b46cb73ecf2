"""One world at a time: every kind of fault by itself, and what callers hear of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from seamfill_chaos.disk import Fate
from seamfill_chaos.sim.door import NoAnswer, NotReached
from seamfill_chaos.sim.plan import Fault, Plan
from seamfill_chaos.sim.run import run_plan
from seamfill_chaos.sim.workload import WorkloadPlan
from seamfill_chaos.sim.world import World
from seamfill_coordinator.raft.replica import PysyncobjReplica

COMPACTING = Plan(seed=5, seconds=40, snapshot_every=40, keep_entries=5, segment_bytes=1 << 12)


def test_a_cluster_without_faults_answers_everything() -> None:
    _, result = run_plan(Plan(seed=1, seconds=30))
    assert result.violation is None
    assert result.operations["answered"] > 300
    assert result.operations["unknown"] == 0
    assert result.moments["replica.reign_began"] == 1


@pytest.mark.parametrize("fault", Fault)
def test_a_cluster_survives_each_kind_of_fault(fault: Fault) -> None:
    """The kinds by themselves: when something breaks here, it is clear what broke it."""
    faults = {fault: 2.5}
    if fault is Fault.CRASH_VOTER:
        faults[Fault.KILL] = 5.0  # nobody votes while a leader lives
    _, result = run_plan(replace(COMPACTING, faults=faults))
    assert result.violation is None
    assert result.moments[f"fault.{fault.value}"] > 0
    assert result.operations["answered"] > 150


def test_a_damaged_node_refuses_to_start_and_comes_back_as_another() -> None:
    _, result = run_plan(replace(COMPACTING, seconds=60, faults={Fault.FLIP: 3.0}))
    assert result.violation is None
    assert result.moments["node.start_refused"] > 0
    assert result.moments["node.wiped"] > 0
    assert result.moments["operator.brought_back"] > 0


class Asking:
    """A quiet world with one caller, who asks ``n1`` for something that takes a while."""

    def __init__(self) -> None:
        self.world = World(Plan(seed=3, seconds=60, workload=WorkloadPlan(claimers=0, fillers=0)))
        self.heard: list[tuple[float, str]] = []

    def ask(self, *, takes_s: float, timeout_s: float) -> None:
        async def work(replica: PysyncobjReplica) -> str:
            await asyncio.sleep(takes_s)
            return "done"

        async def asking() -> None:
            node = self.world.nodes["n1"]
            try:
                said = await self.world.door.ask(node, work, timeout_s=timeout_s)
            except (NoAnswer, NotReached) as exc:
                said = type(exc).__name__
            self.heard.append((round(self.world.loop.now, 1), said))

        self.world.process("c1").spawn(asking())


def test_a_caller_hears_what_the_node_says() -> None:
    asking = Asking()
    with asking.world.watched():
        asking.world.start()
        asking.world.loop.run_until(1.0)
        asking.ask(takes_s=1.0, timeout_s=5.0)
        asking.world.loop.run_until(10.0)
    assert asking.heard == [(2.0, "done")]


def test_a_caller_of_a_node_that_is_killed_learns_that_nobody_knows() -> None:
    asking = Asking()
    with asking.world.watched():
        asking.world.start()
        asking.world.loop.run_until(1.0)
        asking.ask(takes_s=3.0, timeout_s=5.0)
        asking.world.loop.run_until(2.0)
        asking.world.nodes["n1"].kill()
        asking.world.loop.run_until(2.5)
        asking.ask(takes_s=3.0, timeout_s=5.0)
        asking.world.loop.run_until(10.0)
    assert asking.heard == [(2.0, "NoAnswer"), (2.5, "NotReached")]


def test_a_machine_without_power_lets_its_callers_wait() -> None:
    asking = Asking()
    with asking.world.watched():
        asking.world.start()
        asking.world.loop.run_until(1.0)
        asking.ask(takes_s=3.0, timeout_s=5.0)
        asking.world.loop.run_until(2.0)
        asking.world.nodes["n1"].lose_power(Fate.DROPPED)
        asking.world.loop.run_until(10.0)
    assert asking.heard == [(6.0, "NoAnswer")]


def test_a_paused_node_answers_when_it_goes_on() -> None:
    asking = Asking()
    with asking.world.watched():
        asking.world.start()
        asking.world.loop.run_until(1.0)
        process = asking.world.nodes["n1"].process
        assert process is not None
        process.pause()
        asking.ask(takes_s=0.0, timeout_s=5.0)
        asking.world.loop.run_until(3.0)
        process.resume()
        asking.world.loop.run_until(10.0)
    assert asking.heard == [(3.0, "done")]
