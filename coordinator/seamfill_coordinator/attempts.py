"""Has one call answered: here when this node leads, at the leader otherwise, again until it is.

Owns the attempts of a call and what each failure means. Must not know sessions, what is waited for
or what is given back (``service`` does), nor aiohttp (``LeaderGateway`` hides it).

Invariants: a call is attempted until it is answered or its time is over, never queued; every
attempt carries the same identity; "nothing was done" and "may have been done" are told apart; a
proxied call is tried once, here, and never sent on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from seamfill.clock import Clock
from seamfill.protocol import headers
from seamfill.protocol.problem import Problem
from seamfill_coordinator.calls import Answer, Identity, Incoming, Mutation, Read, StateStamp
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import NO_CLIENT, Request
from seamfill_coordinator.problems import Refused, problem
from seamfill_coordinator.replication import (
    NotLeader,
    Overloaded,
    ProposalOutcomeUnknown,
    Replica,
    Role,
)

__all__ = ["Attempts", "LeaderGateway", "NoAnswer", "ServiceLimits"]

RECOVERY: Final = 0
"""Recovering a lost quorum is not built yet, so there never was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Bounds of one node's service. The defaults fit a client that hangs up after 1.5 s."""

    ride_out_ms: int = 1_200
    """How long an election is ridden out inside a request."""
    attempt_ms: int = 400
    """How long one proposal is waited for before looking again who leads."""
    pause_ms: int = 25
    """Between attempts that failed at once."""
    watch_ms: int = 50
    """How often a call that is on its way to the leader looks whether there is a new one."""
    parked_requests: int = 1_024
    ask_again_ms: int = 100
    """The least time between two attempts of a parked request, however many events arrive."""
    abandoned_grants: int = 1_024
    find_out_ms: int = 600_000
    """As long as the longest lease: afterwards a forgotten grant has ended by itself."""
    find_out_pause_ms: int = 250
    leaving_ms: int = 1_000
    """How long a node that stops still gives grants back."""


class LeaderGateway(Protocol):
    """Sends a call to the leader as this node received it."""

    async def forward(
        self, incoming: Incoming, url: str, *, identity: Identity | None, timeout_ms: int
    ) -> Answer:
        """Return the leader's answer. Raises ``NotLeader`` when nothing can have been done there
        (not reachable, not the leader), ``ProposalOutcomeUnknown`` when something may have."""
        ...


class NoAnswer(Exception):
    """The time is over. ``in_doubt``: an attempt may have taken effect."""

    def __init__(self, *, in_doubt: bool, problem: Problem) -> None:
        super().__init__(problem.code)
        self.in_doubt = in_doubt
        self.problem = problem


class Attempts:
    """Attempts calls on behalf of one node."""

    def __init__(
        self, *, replica: Replica, clock: Clock, gateway: LeaderGateway, limits: ServiceLimits
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._gateway = gateway
        self._limits = limits

    def stamp(self, *, rev: int | None = None) -> StateStamp:
        """Return what this node knows of the state's place."""
        status = self._replica.status()
        return StateStamp(
            rev=self._replica.machine.rev if rev is None else rev,
            term=status.term,
            leader=status.leader_id,
            leader_url=None if status.leader_id is None else self.url_of(status.leader_id),
            recovery=RECOVERY,
        )

    def url_of(self, member: str) -> str | None:
        """Return a member's URL, once the cluster has been told of it."""
        return views.announced_url(self._replica.machine, member)

    async def until_answered(
        self,
        call: Mutation | Read,
        incoming: Incoming,
        identity: Identity | None,
        deadline_ms: int | None = None,
    ) -> tuple[Answer, bool]:
        """Attempt a call until it is answered or the time is over.

        Returns the answer and whether an earlier attempt was left in doubt. Raises ``NoAnswer``.
        """
        if deadline_ms is None:
            deadline_ms = self._clock.monotonic_ms() + self._limits.ride_out_ms
        in_doubt = False
        while True:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            try:
                return await self._attempt(call, incoming, identity, left_ms), in_doubt
            except NotLeader as exc:
                last = problem("no_leader" if exc.leader_id is None else "not_leader", exc.message)
            except Overloaded as exc:
                # Holding requests while too many are waiting would add to the heap.
                last = problem("overloaded", exc.message, retry_after_ms=1_000)
                deadline_ms = 0
            except ProposalOutcomeUnknown as exc:
                in_doubt = True
                last = problem("outcome_unknown", exc.message)
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= self._limits.pause_ms or incoming.proxied_by:
                if in_doubt:
                    last = problem("outcome_unknown", last.detail)
                raise NoAnswer(in_doubt=in_doubt, problem=last)
            await self._pause(left_ms)

    async def _pause(self, left_ms: int) -> None:
        if self._replica.status().leader_id is None:
            await self._replica.wait_for_leader(timeout_ms=left_ms)
        await self._clock.sleep_ms(self._limits.pause_ms)

    async def _attempt(
        self, call: Mutation | Read, incoming: Incoming, identity: Identity | None, left_ms: int
    ) -> Answer:
        status = self._replica.status()
        if status.role is Role.LEADER and status.has_quorum:
            timeout_ms = max(1, min(left_ms, self._limits.attempt_ms))
            match call:
                case Mutation():
                    return await self._commit(call, incoming, identity, timeout_ms)
                case Read():
                    return await self._view(call, incoming, timeout_ms)
                case _:
                    assert_never(call)
        leader_id = None if status.leader_id == status.node_id else status.leader_id
        url = None if leader_id is None else self.url_of(leader_id)
        if incoming.proxied_by or url is None:
            raise NotLeader(leader_id)
        return await self._forward(incoming, url, identity, left_ms)

    async def _commit(
        self, mutation: Mutation, incoming: Incoming, identity: Identity | None, timeout_ms: int
    ) -> Answer:
        machine = self._replica.machine
        if mutation.reads_state:
            await self._barrier(timeout_ms)
        operations = mutation.operations(incoming, machine)
        request = (
            Request(operations=operations, client=NO_CLIENT)
            if identity is None
            else Request(
                operations=operations,
                client=identity.client,
                sequence=identity.sequence,
                low=identity.low,
            )
        )
        reply = await self._replica.propose(request, timeout_ms=timeout_ms)
        return mutation.answer(incoming, reply, machine).stamped(self.stamp(rev=reply.rev))

    async def _view(self, read: Read, incoming: Incoming, timeout_ms: int) -> Answer:
        await self._barrier(timeout_ms)
        machine = self._replica.machine
        if incoming.rev_floor:
            _check_floor(incoming, machine.rev)
        return read.view(incoming, machine).stamped(self.stamp())

    async def _barrier(self, timeout_ms: int) -> None:
        try:
            await self._replica.barrier(timeout_ms=timeout_ms)
        except ProposalOutcomeUnknown as exc:
            # A barrier has no effect: not done, whatever became of it.
            raise NotLeader(self._replica.status().leader_id) from exc

    async def _forward(
        self, incoming: Incoming, url: str, identity: Identity | None, left_ms: int
    ) -> Answer:
        """Ask the leader, but look up when another one takes over: it can be asked at once."""
        before = self._replica.status()
        asking = asyncio.ensure_future(
            self._gateway.forward(incoming, url, identity=identity, timeout_ms=left_ms)
        )
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=self._limits.watch_ms / 1000)
                now = self._replica.status()
                # A changed term alone says nothing yet; without a leader there is nobody to ask.
                if not asking.done() and now.leader_id not in (None, before.leader_id):
                    raise ProposalOutcomeUnknown("the leader changed while it was being asked")
            return asking.result()
        finally:
            asking.cancel()


def _check_floor(incoming: Incoming, rev: int) -> None:
    if incoming.recovery not in (None, RECOVERY):
        detail = f"the floor is of recovery {incoming.recovery}, the cluster is at {RECOVERY}"
        raise Refused(problem("recovered", detail, field=headers.RECOVERY))
    if incoming.rev_floor > rev:
        # Behind a barrier this can not be a slow node: the state that the client saw is gone.
        detail = f"rev {incoming.rev_floor} was asked for, the newest is {rev}"
        raise Refused(problem("recovered", detail, field=headers.REV))
