"""Kill cycles: real nodes, SIGKILL under traffic, and an account of every operation.

Owns whom a cycle kills and when, and what makes a run fail. Must not know how the account is
printed. Three kinds of kill: one member at random, all members at once, and one member while it
writes a snapshot. After each, the dead are started again; all three have to agree under one leader,
and every operation that was ever acknowledged is asked for again by its identity.

A run proves nothing, and fails, if a kind of kill it was to have did not happen, or if a kill came
when less than ``LEAST_RATE`` changes per second were being acknowledged. A kill that was aimed at a
snapshot and came too late is counted apart and repeated.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from seamfill.errors import SeamfillError
from seamfill_chaos.live.directory_trap import spring_when_made
from seamfill_chaos.live.journals import compare_states
from seamfill_chaos.live.scene import NODES, Scene, Totals, a_scene

__all__ = ["LEAST_RATE", "Account", "Cycle", "KillPlan", "KillsFailed", "Target", "run_kills"]

LEAST_RATE: Final = 100.0
"""Changes acknowledged per second at the moment of a kill."""
WANTED_RATE: Final = 115.0
"""A kill is aimed only when there is so much traffic: it may ebb until the kill comes."""
SNAPSHOTS: Final = "snapshots"
UNFINISHED: Final = ".partial"
SEGMENT_BYTES: Final = 256 << 10
"""Small, so that segments of the journal begin and go while nodes are killed."""
SNAPSHOT_TIMEOUT_S: Final = 20.0
MISSES_PER_HIT: Final = 3
LONGEST_DOWN_S: Final = 0.5


class KillsFailed(SeamfillError):
    """The run could not be carried out as planned, so that it proves nothing."""

    code = "kills_failed"


class Target(StrEnum):
    """Whom a cycle kills."""

    MEMBER = "one member"
    ALL = "all members at once"
    SNAPSHOT = "a member inside a snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class KillPlan:
    """How many kills of which kind; ``seed`` decides order, victims and moments."""

    directory: Path
    seed: int
    members: int = 30
    all_at_once: int = 10
    in_snapshots: int = 20
    snapshot_every: int = 64

    @property
    def cycles(self) -> int:
        return self.members + self.all_at_once + self.in_snapshots

    def order(self, rng: random.Random) -> list[Target]:
        """Return the kinds of all kills, shuffled."""
        targets = (
            [Target.MEMBER] * self.members
            + [Target.ALL] * self.all_at_once
            + [Target.SNAPSHOT] * self.in_snapshots
        )
        rng.shuffle(targets)
        return targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One kill and what followed."""

    number: int
    target: Target
    victims: tuple[str, ...]
    is_hit: bool
    """For a snapshot: it was unfinished when the member died, and clients busy. Else always."""
    had_leader: bool
    """Whether the leader was among the victims."""
    rate: float
    """Changes acknowledged per second just before the kill."""
    silence_s: float
    """The longest time without an acknowledged change, from the kill until all were back."""
    recovery_s: float
    """From the first start until all members agreed again."""
    asked_again: int


@dataclass(slots=True)
class Account:
    """What a run did and found."""

    plan: KillPlan
    cycles: list[Cycle] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    snapshots_written: int = 0
    disks_compared: int = 0
    """Indexes at which the states on two nodes' disks were compared, after all were killed."""
    duration_s: float = 0.0

    def hits(self, target: Target) -> list[Cycle]:
        """Return the kills of this kind that came when they should."""
        return [cycle for cycle in self.cycles if cycle.target is target and cycle.is_hit]

    def failures(self) -> list[str]:
        """Return why the run does not count as a success: nothing when it does."""
        wanted = {
            Target.MEMBER: self.plan.members,
            Target.ALL: self.plan.all_at_once,
            Target.SNAPSHOT: self.plan.in_snapshots,
        }
        failures = [
            f"{len(self.hits(target))} of {count} kills of {target}"
            for target, count in wanted.items()
            if len(self.hits(target)) < count
        ]
        failures += [
            f"cycle {cycle.number}: only {cycle.rate:g} changes/s at the kill"
            for cycle in self.cycles
            if cycle.is_hit and cycle.rate < LEAST_RATE
        ]
        if not self.disks_compared:
            failures.append("the nodes' disks had no index in common")
        return failures + self.violations


async def run_kills(
    plan: KillPlan, *, on_cycle: Callable[[Cycle], None] = lambda cycle: None
) -> Account:
    """Carry out a plan; return the account, successful or not.

    Raises ``SeamfillError`` when the cluster did not come back at all.
    """
    began_s = time.monotonic()
    rng = random.Random(plan.seed)
    account = Account(plan)
    options = ["--snapshot-every", str(plan.snapshot_every)]
    options += ["--journal-segment-bytes", str(SEGMENT_BYTES)]
    async with a_scene(plan.directory, seed=plan.seed, options=options) as scene:
        misses = 0
        for target in plan.order(rng):
            while True:
                cycle = await _one_cycle(scene, target, rng, number=len(account.cycles) + 1)
                account.cycles.append(cycle)
                on_cycle(cycle)
                if cycle.is_hit:
                    break
                misses += 1
                if misses > MISSES_PER_HIT * plan.in_snapshots:
                    raise KillsFailed(f"{misses} kills missed the snapshot, or its traffic")
        account.violations = await scene.settle()
        account.totals = scene.totals()
        await _kill(scene, NODES)
        account.disks_compared, differences = await asyncio.to_thread(
            compare_states, scene.world.data_dirs
        )
        account.violations += differences
    account.snapshots_written = sum(
        log.read_text(errors="replace").count('"snapshot.written"')
        for log in (plan.directory / "logs").glob("*.log")
    )
    account.duration_s = time.monotonic() - began_s
    return account


async def _one_cycle(scene: Scene, target: Target, rng: random.Random, *, number: int) -> Cycle:
    leader, _ = await scene.watch.until_converged()
    await asyncio.sleep(rng.uniform(0.0, 0.3))
    await scene.until_rate(WANTED_RATE)
    victims = NODES if target is Target.ALL else (rng.choice(NODES),)
    if target is Target.SNAPSHOT:
        killed_s, rate, is_hit = await _kill_in_snapshot(scene, victims[0], rng)
    else:
        killed_s, rate, is_hit = time.monotonic(), scene.traffic.rate(), True
        await _kill(scene, victims)
    scene.recorder.note("killed", target=target, victims=", ".join(victims), rate=rate)
    await asyncio.sleep(rng.uniform(0.0, LONGEST_DOWN_S))
    started_s = time.monotonic()
    await asyncio.gather(*(scene.world.restart_node(victim) for victim in victims))
    new_leader, _ = await scene.watch.until_converged()
    back_s = time.monotonic()
    silence_s = scene.traffic.longest_silence_s(killed_s, back_s)
    asked_again = await scene.traffic.ask_again(new_leader)
    return Cycle(
        number=number,
        target=target,
        victims=tuple(victims),
        is_hit=is_hit,
        had_leader=leader in victims,
        rate=rate,
        silence_s=silence_s,
        recovery_s=back_s - started_s,
        asked_again=asked_again,
    )


async def _kill(scene: Scene, victims: Sequence[str]) -> None:
    # All are sent the signal before any is waited for.
    for victim in victims:
        scene.world.nodes[victim].signal(signal.SIGKILL)
    for victim in victims:
        await scene.world.nodes[victim].process.wait()


async def _kill_in_snapshot(
    scene: Scene, victim: str, rng: random.Random
) -> tuple[float, float, bool]:
    """Kill a member when it begins a snapshot; return when, the rate then, and whether it hit.

    It was hit if what it was writing is still there, unfinished, and traffic had not broken off
    while the snapshot was waited for; a moment drawn at random lets some of the file be written.
    """
    directory = scene.world.data_dirs[victim] / SNAPSHOTS
    pid, wait_s = scene.world.nodes[victim].pid, rng.choice((0.0, rng.uniform(0.0, 0.003)))
    struck: list[tuple[float, float]] = []

    def strike() -> None:
        time.sleep(wait_s)
        os.kill(pid, signal.SIGKILL)
        struck.append((time.monotonic(), scene.traffic.rate()))

    sprung = await spring_when_made(directory, UNFINISHED, strike, timeout_s=SNAPSHOT_TIMEOUT_S)
    if not sprung:
        raise KillsFailed(f"{victim} began no snapshot within {SNAPSHOT_TIMEOUT_S:g} s")
    await scene.world.nodes[victim].process.wait()
    killed_s, rate = struck[0]
    left = await asyncio.to_thread(lambda: list(directory.glob(f"*{UNFINISHED}")))
    return killed_s, rate, bool(left) and rate >= LEAST_RATE
