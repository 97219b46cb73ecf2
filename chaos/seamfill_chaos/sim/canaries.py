"""Switching one deliberate bug on, for the runs that must find it.

Owns how a bug gets into a run: its patch around real classes while the run lasts, its tuning of the
plan, its own check at the end. The program itself carries no flags for bugs. Must not know the bugs
(``canary_bugs.py``), or how they are found.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from seamfill_chaos.sim.canary_bugs import CANARIES, Canary
from seamfill_chaos.sim.plan import Plan
from seamfill_chaos.sim.run import RunResult
from seamfill_chaos.sim.world import World

__all__ = ["CANARIES", "Canary", "check_also", "switched_on", "tuned"]


def switched_on(name: str | None) -> AbstractContextManager[None]:
    """Put a bug in while the block lasts; None puts in nothing. Raises ``KeyError``."""
    return nullcontext() if name is None else CANARIES[name].patch()


def tuned(name: str | None, plan: Plan) -> Plan:
    """Return the plan with the faults that give a bug its occasion."""
    return plan if name is None else CANARIES[name].tune(plan)


def check_also(name: str | None, world: World, result: RunResult) -> None:
    """Judge a run, in which nothing was found, by what holds for tuned plans only."""
    also = None if name is None else CANARIES[name].also
    if also is not None and result.violation is None:
        result.violation = "\n".join(map(str, also(world))) or None
