"""A cluster of three real nodes under traffic and under watch: what every fault is done to.

Owns how processes, traffic, watch and history are joined, and the last account: that nothing was
lost, nothing happened twice, and all nodes agree. Must not know which faults there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seamfill_chaos.checkers.claim_key import check_linearizability
from seamfill_chaos.history import Recorder
from seamfill_chaos.live.namespaces import Wires
from seamfill_chaos.live.processes import Processes, ProcessFailed
from seamfill_chaos.live.traffic import Traffic, TrafficPlan
from seamfill_chaos.live.watch import Watch
from seamfill_chaos.live.world import Home, World

__all__ = ["NODES", "Scene", "Totals", "a_scene"]

NODES: Final = ("n1", "n2", "n3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What clients were told and nodes said, over a whole run."""

    acknowledged: int = 0
    reads: int = 0
    asked_again: int = 0
    in_doubt: int = 0
    settled: int = 0
    """Of those in doubt, the ones whose outcome was found out."""
    terms: int = 0
    """Terms in which a leader was ready."""
    digests_agreed: int = 0
    """Indexes at which at least two nodes showed the same state digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a run acts on. Use ``a_scene`` to make one."""

    world: World
    traffic: Traffic
    watch: Watch
    recorder: Recorder
    running: asyncio.Task[None]

    @property
    def violations(self) -> list[str]:
        """Everything that broke a promise so far."""
        return [*self.traffic.violations, *self.watch.violations]

    def totals(self) -> Totals:
        counts = self.traffic.counts
        return Totals(
            acknowledged=counts.acknowledged,
            reads=counts.reads,
            asked_again=counts.asked_again,
            in_doubt=counts.in_doubt,
            settled=counts.settled,
            terms=self.watch.terms,
            digests_agreed=len(self.watch.agreed),
        )

    def others(self, node_id: str) -> list[str]:
        """Return the other nodes."""
        return [name for name in self.world.nodes if name != node_id]

    async def until_rate(self, least: float, timeout_s: float = 30.0) -> float:
        """Wait until the clients have so many changes acknowledged per second; return how many.

        Raises ``ProcessFailed`` after ``timeout_s``: a fault without traffic proves nothing.
        """
        give_up_s = time.monotonic() + timeout_s
        while (rate := self.traffic.rate()) < least:
            if time.monotonic() > give_up_s:
                raise ProcessFailed(f"{rate:g} changes/s after {timeout_s:g} s, {least:g} wanted")
            await asyncio.sleep(0.02)
        return rate

    async def settle(self) -> list[str]:
        """End the traffic, ask for every outcome again, wait until all nodes agree.

        Return every violation of the run, those that the history shows included.
        """
        self.traffic.stop()
        await self.running
        leader, _ = await self.watch.until_converged()
        await self.traffic.ask_again(leader)
        await self.watch.until_converged()
        found = [
            f"{name} ended by itself:\n{node.tail()}"
            for name, node in self.world.nodes.items()
            if not node.running
        ]
        counts = self.traffic.counts
        if counts.settled < counts.in_doubt:
            found.append(f"{counts.in_doubt - counts.settled} outcomes were never found out")
        history = self.recorder.history()
        found += map(str, await asyncio.to_thread(check_linearizability, history))
        return [*self.violations, *found]


@contextlib.asynccontextmanager
async def a_scene(
    directory: Path,
    *,
    seed: int,
    plan: TrafficPlan | None = None,
    wires: Wires | None = None,
    options: Sequence[str | Path] = (),
    programs: Mapping[str, Sequence[str | Path]] | None = None,
) -> AsyncIterator[Scene]:
    """Start a cluster in ``directory`` and traffic against it; end both, whatever happens.

    With ``wires``, each node lives at the end of its own. ``options`` and ``programs`` as in
    ``World.start_cluster``. What clients asked and heard is in ``directory/history.jsonl``.
    """
    async with contextlib.AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes(directory / "logs"))
        world, homes = World(processes), {}
        if wires is not None:
            world.connector = wires.connector
            homes = {
                name: Home(host=wires.address(name), enter=wires.enter(name)) for name in NODES
            }
        await world.start_cluster(
            directory / "cluster", nodes=len(NODES), options=options, homes=homes, programs=programs
        )
        sink = stack.enter_context((directory / "history.jsonl").open("ab", buffering=0))
        recorder = Recorder(lambda: time.monotonic_ns() // 1_000_000, sink=sink)
        traffic = Traffic(
            world.urls,
            recorder=recorder,
            rng=random.Random(seed),
            plan=plan,
            connector=world.connector,
            address="127.0.0.1" if wires is None else wires.outside,
        )
        await stack.enter_async_context(traffic)
        watch = Watch(world.urls, connector=world.connector)
        await stack.enter_async_context(watch)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(traffic.run())
        stack.callback(traffic.stop)
        yield Scene(world=world, traffic=traffic, watch=watch, recorder=recorder, running=running)
