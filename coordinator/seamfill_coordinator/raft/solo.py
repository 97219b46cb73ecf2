"""A cluster of one, in this process, without disk or consensus.

Owns nothing but a machine and a loop's turn. It satisfies ``Replica`` and its contract suite, so
that HTTP tests and the SDK's local profile drive the same machine in the same way; it forgets
everything when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from seamfill.clock import Clock, SystemClock
from seamfill_coordinator.machine.commands import Request
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Reply
from seamfill_coordinator.raft.aggregator import Aggregator, AggregatorLimits
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.reign import Reign, announcement
from seamfill_coordinator.replication import ReplicaStatus, Role, SavedSnapshot, SnapshotNotSaved

__all__ = ["SoloReplica"]

_TERM: Final = 1
_IDLE_TICK_MS: Final = 250


class SoloReplica:
    """The leader of itself; see ``Replica``."""

    def __init__(
        self,
        *,
        cluster_id: str = "solo",
        node_id: str = "n1",
        url: str = "http://127.0.0.1:0",
        machine: LeaseMachine | None = None,
        clock: Clock | None = None,
        limits: AggregatorLimits | None = None,
    ) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._url = url
        self._applier = Applier(machine if machine is not None else LeaseMachine())
        self._clock = clock or SystemClock()
        reign = Reign(term=_TERM, clock=self._clock)
        self._applied_index = 0
        self._ready = False
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._aggregator = Aggregator(
            launch=self._launch,
            stamp=reign.stamp,
            machine_version=lambda: self.machine.state.version,
            leader_id=lambda: None,
            limits=limits,
        )

    async def start(self) -> None:
        """Announce itself; it is ready when this returns."""
        first = announcement(member=self._node_id, url=self._url, cluster_id=self._cluster_id)
        self._running = True
        announced = asyncio.Event()
        self._aggregator.open(first, lambda _reply: announced.set())
        await announced.wait()
        self._ready = True
        self._beat()

    async def stop(self) -> None:
        """Refuse everything from now on. Safe to repeat."""
        self._running = self._ready = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._aggregator.close()

    @property
    def machine(self) -> LeaseMachine:
        return self._applier.machine

    async def propose(self, request: Request, *, timeout_ms: int) -> Reply:
        reply = await self._aggregator.submit(request, timeout_ms=timeout_ms)
        assert reply is not None
        return reply

    async def barrier(self, *, timeout_ms: int) -> None:
        await self._aggregator.submit(None, timeout_ms=timeout_ms)

    def on_applied(self, listener: Callable[[Applied], None]) -> None:
        self._applier.add_listener(listener)

    async def save_snapshot(self, *, timeout_ms: int) -> SavedSnapshot:
        raise SnapshotNotSaved("this node lives in memory alone; there is nothing to save it to")

    async def wait_for_leader(self, *, timeout_ms: int) -> str | None:
        """Return this node's id, or None once it was stopped; there is nothing to wait for."""
        return self._node_id if self._ready else None

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            node_id=self._node_id,
            cluster_id=self._cluster_id,
            role=Role.LEADER,
            term=_TERM,
            leader_id=self._node_id if self._ready else None,
            has_quorum=self._ready,
            ready=self._ready,
            commit_index=self._applied_index,
            applied_index=self._applied_index,
            last_index=self._applied_index,
            members=1,
            peers=(),
            journal_bytes=0,
            digests=self._applier.digests.points(),
        )

    def _beat(self) -> None:
        self._aggregator.tick()
        self._timer = asyncio.get_running_loop().call_later(_IDLE_TICK_MS / 1000, self._beat)

    def _launch(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        # Applied one turn later, as in a cluster: what arrives meanwhile shares the next command.
        asyncio.get_running_loop().call_soon(self._apply, command, done)

    def _apply(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        if not self._running:
            return
        applied = self._applier.apply(self._applied_index + 1, command)
        self._applied_index += 1
        self._applier.digests.reached(self._applied_index)
        done(applied)
