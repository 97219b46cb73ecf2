"""One simulated world: the loop, the network, the nodes and the callers, built from a plan.

Owns how the parts are put together, and questions about the whole of it (who leads, is it whole).
Must not know faults or checks. Each part draws from a generator of its own, so that a change in one
does not shift what another one draws.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from seamfill_chaos.history import Recorder
from seamfill_chaos.sim.callers import Caller, CallerLimits
from seamfill_chaos.sim.door import Door
from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_chaos.sim.network import Fabric
from seamfill_chaos.sim.node import DATA_DIR, Node
from seamfill_chaos.sim.observer import Observer
from seamfill_chaos.sim.plan import Plan
from seamfill_chaos.sim.process import Machine, Process
from seamfill_chaos.sim.trace import Trace, captured_logs
from seamfill_chaos.sim.workload import Claimer, Filler
from seamfill_coordinator.raft.compaction import CompactionLimits
from seamfill_coordinator.raft.replica import PysyncobjReplica, ReplicaSettings
from seamfill_coordinator.replication import Role

__all__ = ["World"]

CLUSTER_ID: Final = "sim"
_LOOK_EVERY_S: Final = 1.0
_QUIET_S: Final = 3.0
"""Callers stop so long before the end, so that every operation has ended by then."""


class World:
    """Everything of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = VirtualLoop()
        self.trace = Trace(lambda: self.loop.now)
        self.moments: Counter[str] = Counter()
        """How often each event happened; see ``moments.py``."""
        self.observer = Observer(self.loop.fail, self.count)
        self.recorder = Recorder(lambda: int(self.loop.now * 1000))
        self.fabric = Fabric(self.loop, self.rng("network"), plan.weather)
        self.door = Door(self.loop, self.rng("door"), plan.door)
        names = [f"n{number}" for number in range(1, plan.nodes + 1)]
        self.addresses = {name: f"{name}:7000" for name in names}
        rates = plan.clock_rates or (1.0,) * plan.nodes
        self.nodes = {name: self._node(name, rate) for name, rate in zip(names, rates, strict=True)}
        self._processes: list[Process] = []
        """All there ever were: what the ended ones were doing is let go of with the world."""

    def rng(self, part: str) -> random.Random:
        """Return the generator of one part of this world."""
        return random.Random(f"{part} {self.plan.seed}")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let observer and trace see what happens, and clean up behind the run."""
        with ExitStack() as stack:
            stack.callback(self._end)
            stack.enter_context(self.observer.watching())
            stack.enter_context(captured_logs(self._log))
            yield

    def start(self) -> None:
        """Start all nodes, and all callers."""
        rng = self.rng("start")
        for node in self.nodes.values():
            self.loop.call_outside(rng.uniform(0.0, 0.3), node.start)
        until_s = self.plan.seconds - _QUIET_S
        workload = self.plan.workload
        for number in range(workload.claimers + workload.fillers):
            is_claimer = number < workload.claimers
            name = f"c{number + 1}" if is_claimer else f"w{number + 1 - workload.claimers}"
            process = self.process(name)
            kind: type[Claimer | Filler] = Claimer if is_claimer else Filler
            work = kind(
                self.caller(name), loop=self.loop, rng=self.rng(f"work {name}"), plan=workload
            )
            process.spawn(work.run(until_s))

    def process(self, name: str) -> Process:
        """Return a new process on a machine of its own."""
        process = Process(self.loop, Machine(self.loop, name))
        self._processes.append(process)
        return process

    def caller(self, name: str) -> Caller:
        """Return a new caller; it must run in a process of its own."""
        return Caller(
            name,
            loop=self.loop,
            rng=self.rng(f"caller {name}"),
            door=self.door,
            nodes=tuple(self.nodes.values()),
            recorder=self.recorder,
            limits=CallerLimits(),
        )

    # Questions

    def leader(self) -> Node | None:
        """Return the node that leads, by its own word; of several the one with the newest term."""
        best: tuple[int, Node] | None = None
        for node in self.nodes.values():
            if node.replica is not None:
                status = node.replica.status()
                if status.role is Role.LEADER and (best is None or status.term > best[0]):
                    best = (status.term, node)
        return None if best is None else best[1]

    def is_whole(self) -> bool:
        """Whether all nodes serve as voters, and have applied what their leader has committed."""
        leader = self.leader()
        if leader is None or leader.replica is None or not leader.replica.status().ready:
            return False
        committed = leader.replica.status().commit_index
        configuration = leader.replica.committed_configuration
        assert configuration is not None
        for node in self.nodes.values():
            if node.replica is None or not configuration.is_voter(node.name, node.incarnation):
                return False
            status = node.replica.status()
            if not status.ready or status.applied_index < committed:
                return False
        return True

    # Events

    def look(self, *, digests: bool = False) -> None:
        """Let the observer see what all nodes are now."""
        self.observer.look_at(self.nodes.values(), int(self.loop.now * 1000), digests=digests)

    async def look_again_and_again(self) -> None:
        """Do so at fixed times, as long as the run lasts."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.look(digests=True)

    def count(self, event: str) -> None:
        self.moments[event] += 1

    def _begins(self, node: Node, process: Process) -> None:
        self._processes.append(process)
        self.observer.begins(node, process)

    def note(self, event: str, **facts: Any) -> None:
        """Note what the world itself did, in the trace and in the history."""
        self.trace.add("world", event, **facts)
        self.recorder.note(event, **facts)
        self.count(event)

    def _log(self, who: str, event: str, facts: dict[str, Any]) -> None:
        self.trace.add(who, event, **facts)
        self.count(event)
        if event == "replica.reign_began":
            self.look()

    # Building

    def _node(self, name: str, rate: float) -> Node:
        rng = self.rng(f"node {name}")
        machine = Machine(self.loop, name, rate=rate, booted_ms=rng.randrange(10**7))
        node = Node(
            name,
            loop=self.loop,
            rng=rng,
            trace=self.trace,
            machine=machine,
            make_replica=self._replica,
            on_event=self.count,
            on_life=self._begins,
        )
        node.slow_syncs, node.stall_s = self.plan.slow_syncs, self.plan.stall_s
        return node

    def _replica(self, node: Node, process: Process) -> PysyncobjReplica:
        plan = self.plan
        return PysyncobjReplica(
            ReplicaSettings(
                cluster_id=CLUSTER_ID,
                node_id=node.name,
                incarnation=node.incarnation,
                url=f"http://{node.name}",
                peer_listen=self.addresses[node.name],
                peers={n: address for n, address in self.addresses.items() if n != node.name},
                data_dir=DATA_DIR,
                journal_must_exist=node.had_journal,
                compaction=CompactionLimits(
                    every_entries=plan.snapshot_every, keep_entries=plan.keep_entries
                ),
                segment_bytes=plan.segment_bytes,
            ),
            network=self.fabric.network_of(process),
            files=node.disk,
            clock=node.machine,
            rng=self.rng(f"replica {node.name} {node.lives}"),
            on_fatal=node.fatal,
        )

    def _end(self) -> None:
        for process in self._processes:
            process.end()
        for process in self._processes:
            process.bury()
        self.loop.close()
