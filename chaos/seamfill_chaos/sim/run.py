"""One run: build the world of a seed, let it live, and judge it.

Owns the order of a run and its verdict. Must not know faults one by one, or how checks are made.

A run fails when consensus breaks (``observer.py``, at once), when an exception escapes, when the
cluster is not whole again and serving soon after the last fault, when nodes differ at the end, or
when a checker finds that the callers were told something that can not be true.
"""

from __future__ import annotations

import asyncio
import gc
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from seamfill_chaos.checkers.judge import judge
from seamfill_chaos.history import Ending, History
from seamfill_chaos.sim.nemesis import Nemesis
from seamfill_chaos.sim.operator import Operator
from seamfill_chaos.sim.plan import Plan, draw_plan
from seamfill_chaos.sim.world import World
from seamfill_coordinator.machine.commands import Barrier
from seamfill_coordinator.machine.outcomes import Done

__all__ = ["LIVENESS_S", "RunResult", "Unlively", "run_plan", "run_seed"]

LIVENESS_S: Final = 10.0
"""After the last fault the cluster must be whole, and answer, within this time."""
_LOOK_EVERY_S: Final = 0.05


class Unlively(Exception):
    """The cluster was given time without faults, and did not recover in it."""


@dataclass(slots=True, kw_only=True)
class RunResult:
    """What one run showed."""

    seed: int
    violation: str | None = None
    """The first broken promise; None when all held."""
    moments: Counter[str] = field(default_factory=Counter)
    trace_digest: str = ""
    operations: Counter[str] = field(default_factory=Counter)
    recovered_s: float | None = None
    """From the last fault until the cluster was whole again."""
    virtual_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def speed(self) -> float:
        """Virtual seconds per second of processor time."""
        return self.virtual_s / max(self.cpu_s, 1e-9)


def run_seed(seed: int, *, seconds: float) -> RunResult:
    """Run a seed to its end, and say what it showed."""
    _, result = run_plan(draw_plan(seed, seconds))
    return result


def run_plan(plan: Plan) -> tuple[World, RunResult]:
    """Run a plan; the world is returned for whoever wants to look at what is left of it.

    Only with PYTHONHASHSEED=0 is it the same run every time: sets of strings have an order of
    their own in each process else.
    """
    began = time.process_time()
    world = World(plan)
    result = RunResult(seed=plan.seed)
    with _without_collection():
        try:
            _live(world, result)
        except Exception as exc:
            result.violation = _text_of(exc)
        history = world.recorder.history()
        if result.violation is None:
            result.violation = _judge(world, history)
        result.moments = world.moments
        result.trace_digest = world.trace.digest()
        result.operations = Counter(o.ending.value for o in history.operations)
        result.moments["operation.unknown"] = result.operations[Ending.UNKNOWN]
    result.virtual_s = world.loop.now
    result.cpu_s = time.process_time() - began
    return world, result


def _live(world: World, result: RunResult) -> None:
    plan = world.plan
    with world.watched():
        operator = Operator(world)
        nemesis = Nemesis(world, operator)
        world.start()
        nemesis.start()
        world.loop.spawn_outside(operator.watch())
        world.loop.spawn_outside(world.look_again_and_again())
        world.loop.run_until(plan.faults_until_s)
        nemesis.end()
        world.process("probe").spawn(_recover(world, result))
        world.loop.run_until(plan.seconds)
        if result.recovered_s is None:
            raise Unlively("not whole again until the end of the run")
        world.look(digests=True)


async def _recover(world: World, result: RunResult) -> None:
    """Wait until the cluster is whole, and answers."""
    loop, prober = world.loop, world.caller("probe")
    began_s = loop.now
    while result.recovered_s is None:
        if world.is_whole() and await prober.do(Barrier(), in_session=False) == (Done(),):
            result.recovered_s = loop.now - began_s
        elif loop.now - began_s > LIVENESS_S:
            loop.fail(Unlively(f"not whole, or without an answer, {LIVENESS_S:g} s after faults"))
        await asyncio.sleep(_LOOK_EVERY_S)
    world.note("world.recovered", after_s=result.recovered_s)


def _judge(world: World, history: History) -> str | None:
    """Let all checkers compare what callers heard with what was committed; say what they found."""
    agreement = world.observer.agreement
    judgement = judge(history, agreement.commands, agreement.digests, terms=agreement.terms)
    moments = judgement.moments
    world.moments["operation.repeated"] += moments.repeated
    world.moments["operation.stale_refused"] += moments.stale_refused
    world.moments["network.superseded"] += world.fabric.superseded
    world.moments["network.swallowed"] += world.fabric.swallowed
    return "\n".join(map(str, judgement.violations[:10])) or None


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the cyclic garbage of a run until nobody looks at its world any more.

    When a collection happens depends on everything this interpreter did before, and it may run
    code; besides, it takes a tenth of the time. What a run leaves is collected before the next one:
    at its end all of it is still alive, and would be walked through for nothing.
    """
    _set_apart_what_stays()
    was_enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@cache
def _set_apart_what_stays() -> None:
    """Let no collection look at what was there before this process's first run.

    Those are the modules, ten times as much as a run leaves: the collection before each run would
    take as long as all of the last one's checks of durability and linearizability.
    """
    gc.freeze()


def _text_of(exc: BaseException) -> str:
    """Say what went wrong in one line, then where."""
    cause = exc.__cause__ or exc
    where = "".join(traceback.format_exception(cause)[-8:])
    return f"{type(exc).__name__}: {exc}\n{where}"
