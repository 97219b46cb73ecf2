"""What one run is made of, drawn from its seed: the cluster, the weather, the faults.

Owns the draw. Pure: a seed and a duration give a plan, and nothing else does. Must not know how any
of it is carried out.

Swarm testing: each run has some kinds of faults only, each with a frequency of its own. When every
run has everything, common faults hide what rare ones do to a cluster that is otherwise well; a
pause of ten seconds is interesting exactly when nothing else happens meanwhile.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from seamfill_chaos.sim.door import DoorWeather
from seamfill_chaos.sim.network import Weather
from seamfill_chaos.sim.workload import WorkloadPlan

__all__ = ["CALM_S", "Fault", "Plan", "draw_plan"]

CALM_S: Final = 15.0
"""The last part of every run has no faults: the cluster must be whole again by then."""


class Fault(Enum):
    """The kinds of faults; ``nemesis.py`` says what each does."""

    KILL = "kill"
    POWER = "power"
    POWER_ALL = "power_all"
    CRASH_AT_STEP = "crash_at_step"
    PAUSE = "pause"
    STALL = "stall"
    ISOLATE = "isolate"
    ONE_WAY = "one_way"
    FLAP = "flap"
    RESET = "reset"
    SLOW_LINK = "slow_link"
    REFUSE = "refuse"
    WALL_JUMP = "wall_jump"
    DISK_FULL = "disk_full"
    SYNC_FAILS = "sync_fails"
    FLIP = "flip"
    WIPE = "wipe"
    MEMBERS = "members"


_MEAN_EVERY_S: Final = {
    Fault.KILL: 12.0,
    Fault.POWER: 15.0,
    Fault.POWER_ALL: 40.0,
    Fault.CRASH_AT_STEP: 12.0,
    Fault.PAUSE: 15.0,
    Fault.STALL: 8.0,
    Fault.ISOLATE: 20.0,
    Fault.ONE_WAY: 15.0,
    Fault.FLAP: 30.0,
    Fault.RESET: 6.0,
    Fault.SLOW_LINK: 25.0,
    Fault.REFUSE: 20.0,
    Fault.WALL_JUMP: 20.0,
    Fault.DISK_FULL: 40.0,
    Fault.SYNC_FAILS: 40.0,
    Fault.FLIP: 40.0,
    Fault.WIPE: 40.0,
    Fault.MEMBERS: 30.0,
}
"""How often a kind strikes, in runs that have it; a run's own mean lies within a factor of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run."""

    seed: int
    seconds: float
    nodes: int = 3
    faults: dict[Fault, float] = field(default_factory=dict)
    """Kind → mean seconds between two of them."""
    faults_from_s: float = 2.0
    weather: Weather = field(default_factory=Weather)
    door: DoorWeather = field(default_factory=DoorWeather)
    workload: WorkloadPlan = field(default_factory=WorkloadPlan)
    snapshot_every: int = 20_000
    """Entries between two snapshots."""
    keep_entries: int = 2_000
    segment_bytes: int = 1 << 16
    slow_syncs: float = 0.0
    stall_s: float = 0.0
    clock_rates: tuple[float, ...] = ()
    """Per node; empty when all clocks run alike."""

    @property
    def faults_until_s(self) -> float:
        return max(0.0, self.seconds - CALM_S)


def draw_plan(seed: int, seconds: float) -> Plan:
    """Return the plan of a seed."""
    rng = random.Random(f"plan {seed}")
    nodes = rng.choices((3, 5), weights=(9, 1))[0]
    compacts = rng.random() < 0.6
    return Plan(
        seed=seed,
        seconds=seconds,
        nodes=nodes,
        faults=_draw_faults(rng),
        faults_from_s=rng.choice((0.0, 2.0, 2.0, 2.0)),
        weather=_draw_weather(rng),
        door=_draw_door(rng),
        workload=WorkloadPlan(without_session=rng.choice((0.0, 0.2, 0.5))),
        snapshot_every=rng.randint(20, 150) if compacts else 20_000,
        keep_entries=rng.choice((0, 5, 50)) if compacts else 2_000,
        segment_bytes=rng.choice((1 << 12, 1 << 14, 1 << 16)),
        slow_syncs=rng.choice((0.0, 0.0, 0.002, 0.01)),
        stall_s=rng.choice((0.02, 0.1, 0.5)),
        clock_rates=_draw_rates(rng, nodes),
    )


def _draw_faults(rng: random.Random) -> dict[Fault, float]:
    share = rng.uniform(0.1, 0.6)
    return {
        fault: mean_s * rng.uniform(0.5, 2.0)
        for fault, mean_s in _MEAN_EVERY_S.items()
        if rng.random() < share
    }


def _draw_weather(rng: random.Random) -> Weather:
    return Weather(
        delay_max_s=rng.choice((0.001, 0.001, 0.005, 0.02)),
        spike_probability=rng.choice((0.0, 0.0, 0.001, 0.01)),
        spike_max_s=rng.choice((0.05, 0.3)),
        split_probability=rng.choice((0.0, 0.0, 0.05)),
        ghost_probability=rng.choice((0.0, 0.1)),
    )


def _draw_door(rng: random.Random) -> DoorWeather:
    return DoorWeather(
        lost_requests=rng.choice((0.0, 0.0, 0.01)),
        lost_answers=rng.choice((0.0, 0.01, 0.05)),
        repeated=rng.choice((0.0, 0.05)),
    )


def _draw_rates(rng: random.Random, nodes: int) -> tuple[float, ...]:
    if rng.random() < 0.7:
        return ()
    return tuple(rng.uniform(0.998, 1.002) for _ in range(nodes))
