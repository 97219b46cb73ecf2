"""Flapping links: directions between nodes are cut and healed every 0.2 to 2 s, under traffic.

Owns which directions are cut when, the calm moments in between, and what makes a run fail. Must not
know how the account is printed. After each stretch all is healed, and it is measured how long the
nodes need to agree; then every operation acknowledged so far is asked for again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from seamfill_chaos.live.journals import judge_journals
from seamfill_chaos.live.namespaces import Direction, Wires
from seamfill_chaos.live.scene import NODES, Scene, Totals, a_scene
from seamfill_chaos.live.traffic import TrafficPlan

__all__ = ["CONVERGENCE_S", "Account", "FlapPlan", "Stretch", "run_flapping"]

CONVERGENCE_S: Final = 5.0
LEAST_RATE: Final = 20.0
"""Changes acknowledged per second before a stretch begins."""
SHORTEST_S: Final = 0.2
LONGEST_S: Final = 2.0
BOTH_WAYS_SHARE: Final = 0.5
LEADER_SHARE: Final = 0.5
WHOLE_LOG: Final = ("--snapshot-every", "100000000")
"""No snapshot, so that in the end the log can be replayed from its first entry on."""
TRAFFIC: Final = TrafficPlan(rate=70.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlapPlan:
    """How long links flap in all, and how long between two calm moments."""

    directory: Path
    seed: int
    lasting_s: float = 600.0
    stretch_s: float = 10.0

    @property
    def stretches(self) -> int:
        return max(1, round(self.lasting_s / self.stretch_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A time of flapping and the calm after it."""

    flaps: int
    convergence_s: float
    silence_s: float
    """The longest time without an acknowledged change, from the first cut until all agreed."""


@dataclass(slots=True)
class Account:
    """What a run did and found."""

    plan: FlapPlan
    stretches: list[Stretch] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)

    @property
    def flaps(self) -> int:
        return sum(stretch.flaps for stretch in self.stretches)

    def failures(self) -> list[str]:
        """Return why the run does not count as a success: nothing when it does."""
        failures = [
            f"stretch {number} took {stretch.convergence_s:.2f} s to heal"
            for number, stretch in enumerate(self.stretches, start=1)
            if stretch.convergence_s > CONVERGENCE_S
        ]
        if self.totals.terms < 2:
            failures.append("no leader ever changed: the flapping was none")
        return failures + self.violations


async def run_flapping(
    plan: FlapPlan, wires: Wires, *, on_stretch: Callable[[Stretch], None] = lambda stretch: None
) -> Account:
    """Carry out a plan; return the account, successful or not.

    Raises ``SeamfillError`` when the cluster does not come back at all.
    """
    rng, account = random.Random(plan.seed), Account(plan)
    async with a_scene(
        plan.directory, seed=plan.seed, plan=TRAFFIC, wires=wires, options=WHOLE_LOG
    ) as scene:
        for _ in range(plan.stretches):
            stretch = await _one_stretch(scene, wires, rng, lasting_s=plan.stretch_s)
            account.stretches.append(stretch)
            on_stretch(stretch)
            await scene.traffic.ask_again(await scene.watch.leader())
        account.violations = await scene.settle()
        account.totals = scene.totals()
    account.violations += await asyncio.to_thread(
        judge_journals, scene.world.data_dirs, scene.recorder.history(), scene.watch.digests
    )
    return account


async def _one_stretch(
    scene: Scene, wires: Wires, rng: random.Random, *, lasting_s: float
) -> Stretch:
    await scene.until_rate(LEAST_RATE)
    began_s, flaps = time.monotonic(), 0
    while True:
        await wires.cut(_directions(rng, scene.watch.last_leader))
        await asyncio.sleep(rng.uniform(SHORTEST_S, LONGEST_S))
        await wires.heal()
        flaps += 1
        if time.monotonic() - began_s >= lasting_s:
            break
        await asyncio.sleep(rng.uniform(SHORTEST_S, LONGEST_S))
    _, convergence_s = await scene.watch.until_converged()
    return Stretch(
        flaps=flaps,
        convergence_s=convergence_s,
        silence_s=scene.traffic.longest_silence_s(began_s, time.monotonic()),
    )


def _directions(rng: random.Random, leader: str) -> list[Direction]:
    """Draw what is cut: one link or all of a node, both ways or one; often the leader's."""
    node = leader if rng.random() < LEADER_SHARE else rng.choice(NODES)
    others = [name for name in NODES if name != node]
    ends = [rng.choice(others)] if rng.random() < 0.5 else others
    out, back = [(node, end) for end in ends], [(end, node) for end in ends]
    if rng.random() < BOTH_WAYS_SHARE:
        return [*out, *back]
    return rng.choice((out, back))
