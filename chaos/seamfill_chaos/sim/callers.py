"""Callers: who asks the cluster for leases, as the service does on behalf of its clients.

Owns the way of one operation through refusals, unknown outcomes and repetitions, and the record of
it. ``workload.py`` decides what is asked. Must not know faults.

As in the service: a node that does not lead names the leader; an operation under a session is
repeated with its identity until its outcome is known; one without is given up as unknown, because a
second try could have a second effect.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from seamfill.errors import SeamfillError
from seamfill_chaos.history import Read, Recorder, Seen
from seamfill_chaos.sim.door import Door, NoAnswer, NotReached, Work
from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_chaos.sim.node import Node
from seamfill_coordinator.machine.claims import live_overlaps, locate
from seamfill_coordinator.machine.commands import NO_CLIENT, OpenSession, Operation, Request
from seamfill_coordinator.machine.outcomes import Opened, Outcome, Rejected, RejectReason, Reply
from seamfill_coordinator.raft.replica import PysyncobjReplica
from seamfill_coordinator.replication import NotLeader, Overloaded, ProposalOutcomeUnknown

__all__ = ["Caller", "CallerLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """How patient callers are."""

    attempt_ms: int = 1_000
    """A node's time for one proposal."""
    give_up_s: float = 4.0
    """All tries of one operation."""
    pause_min_s: float = 0.02
    pause_max_s: float = 0.15


T = TypeVar("T")
_ANSWER_EXTRA_S: Final = 0.2


class Caller:
    """One client: asks one thing after the other."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        rng: random.Random,
        door: Door,
        nodes: Sequence[Node],
        recorder: Recorder,
        limits: CallerLimits,
    ) -> None:
        self.name = name
        self.rev = 0
        """The newest ``rev`` this caller has seen; no read may show it anything older."""
        self._loop = loop
        self._rng = rng
        self._door = door
        self._nodes = {node.name: node for node in nodes}
        self._recorder = recorder
        self._limits = limits
        self._target: str | None = None
        self._client = NO_CLIENT
        self._sequence = 0

    async def open_session(self) -> bool:
        """Have an identity from now on, so that operations can be repeated; return whether."""
        self._client = NO_CLIENT
        outcomes = await self.do(OpenSession(), in_session=False)
        if outcomes is not None and isinstance(outcomes[0], Opened):
            self._client, self._sequence = outcomes[0].client, 0
        return self._client != NO_CLIENT

    @property
    def has_session(self) -> bool:
        return self._client != NO_CLIENT

    async def do(
        self, *operations: Operation, in_session: bool = True
    ) -> tuple[Outcome, ...] | None:
        """Have operations take effect once; return their outcomes, None when nobody knows."""
        if in_session and self._client != NO_CLIENT:
            self._sequence += 1
            # One at a time: everything before this sequence was heard, or given up for good.
            request = Request(
                operations=operations,
                client=self._client,
                sequence=self._sequence,
                low=self._sequence,
            )
        else:
            request = Request(operations=operations)
        reply = await self._reply_to(request)
        if reply is None:
            return None
        self.rev = max(self.rev, reply.rev)
        if _is_session_unknown(reply):
            self._client = NO_CLIENT
        return reply.outcomes

    async def read(self, key: str) -> Seen | None:
        """Ask the leader who holds a key, behind a barrier; None when it did not say."""
        read = Read(key=key, floor_rev=self.rev)

        async def look(replica: PysyncobjReplica) -> Seen:
            await replica.barrier(timeout_ms=self._limits.attempt_ms)
            return _look(replica, key)

        return await self._read(read, look, self._target or self._any_node())

    async def read_nearby(self, key: str) -> Seen | None:
        """Ask any node, which must not show a state older than this caller has seen."""
        floor = self.rev
        read = Read(key=key, floor_rev=floor, behind_barrier=False)

        async def look(replica: PysyncobjReplica) -> Seen:
            if replica.machine.rev < floor:
                raise NotLeader(replica.status().leader_id)
            return _look(replica, key)

        return await self._read(read, look, self._any_node())

    async def _read(self, read: Read, look: Work[Seen], target: str) -> Seen | None:
        number = self._recorder.invoke(self.name, read, node=target)
        try:
            seen = await self._ask(target, look, may_repeat=False)
        except (NotReached, NoAnswer, SeamfillError) as exc:
            self._follow(exc)
            self._recorder.refused(number, type(exc).__name__)
            return None
        self._recorder.ok(number, seen)
        self.rev = max(self.rev, seen.rev)
        return seen

    async def _reply_to(self, request: Request) -> Reply | None:
        async def propose(replica: PysyncobjReplica) -> Reply:
            return await replica.propose(request, timeout_ms=self._limits.attempt_ms)

        may_repeat = request.client != NO_CLIENT
        target = self._target or self._any_node()
        number = self._recorder.invoke(self.name, request, node=target)
        give_up_s = self._loop.now + self._limits.give_up_s
        in_doubt = False
        while True:
            try:
                reply = await self._ask(target, propose, may_repeat=may_repeat)
            except (NotLeader, Overloaded, NotReached) as exc:
                self._follow(exc)
                why = type(exc).__name__
            except (ProposalOutcomeUnknown, NoAnswer) as exc:
                in_doubt = True
                self._follow(exc)
                why = type(exc).__name__
            else:
                self._target = target
                self._recorder.ok(number, reply)
                return reply
            if (in_doubt and not may_repeat) or self._loop.now >= give_up_s:
                if in_doubt:
                    self._recorder.unknown(number, why)
                else:
                    self._recorder.refused(number, why)
                return None
            await asyncio.sleep(
                self._rng.uniform(self._limits.pause_min_s, self._limits.pause_max_s)
            )
            target = self._target or self._any_node()
            self._recorder.retry(number, node=target, in_doubt=in_doubt)

    async def _ask(self, target: str, work: Work[T], *, may_repeat: bool) -> T:
        timeout_s = self._limits.attempt_ms / 1000 + _ANSWER_EXTRA_S
        return await self._door.ask(
            self._nodes[target], work, timeout_s=timeout_s, may_repeat=may_repeat
        )

    def _follow(self, exc: Exception) -> None:
        """Go where the node says the leader is, else anywhere."""
        leader = exc.leader_id if isinstance(exc, NotLeader) else None
        self._target = leader if leader in self._nodes else None

    def _any_node(self) -> str:
        return self._rng.choice(list(self._nodes))


def _look(replica: PysyncobjReplica, key: str) -> Seen:
    machine = replica.machine
    place = locate(key)
    rows = live_overlaps(machine.state, place)
    tokens = [str(row.fence) for row in rows if (row.start_s, row.stop_s) == place[1:]]
    return Seen(token=tokens[0] if tokens else None, rev=machine.rev)


def _is_session_unknown(reply: Reply) -> bool:
    first = reply.outcomes[0]
    return isinstance(first, Rejected) and first.reason is RejectReason.SESSION_UNKNOWN
