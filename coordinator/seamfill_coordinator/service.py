"""Turns one client call into one effect, whoever leads.

Owns the way of a call: propose here when this node leads, otherwise ask the leader once and relay
its answer; ride out an election inside the request; hold a refusal that is about to end; give back
a grant nobody heard of. Must not know aiohttp (``LeaderGateway`` hides it) or pysyncobj
(``Replica`` does).

Invariants:

* Every mutation carries an identity, the client's or one of this node's own, so whatever this node
  repeats has one effect.
* A call is answered within ``ride_out_ms`` (plus what the client asked to wait); nothing is queued.
* "Nothing was done" (503) and "nobody knows" (504) are never merged. A grant without a client's
  identity is answered 503 although its outcome is unknown, because this node finds the outcome out
  and gives the grant back: the client holds nothing.
* A proxied call is tried once, here, and never sent on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol, assert_never

import msgspec

from seamfill.clock import Clock
from seamfill.logs import log_event
from seamfill.protocol import headers
from seamfill.protocol.cluster import SessionAnswer
from seamfill.protocol.problem import Problem
from seamfill_coordinator.calls import (
    Answer,
    Identity,
    Incoming,
    Mutation,
    Read,
    StateStamp,
    Undo,
    Wake,
)
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import NO_CLIENT, Announce, OpenSession, Request
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Opened, RejectReason, Reply
from seamfill_coordinator.node_sessions import NodeSessions
from seamfill_coordinator.problems import Refused, problem, unexpected
from seamfill_coordinator.replication import (
    NotLeader,
    Overloaded,
    ProposalOutcomeUnknown,
    Replica,
    Role,
)
from seamfill_coordinator.waiting_room import WaitingRoom

__all__ = ["OPEN_SESSION", "Coordinator", "LeaderGateway", "ServiceLimits"]

MAX_URL: Final = 500
MACHINE_VERSION: Final = 1
RECOVERY: Final = 0
"""Recovering a lost quorum is not built yet, so there never was one."""

_log = logging.getLogger("seamfill.coordinator.service")


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


class LeaderGateway(Protocol):
    """Sends a call to the leader as this node received it."""

    async def forward(
        self, incoming: Incoming, url: str, *, identity: Identity | None, timeout_ms: int
    ) -> Answer:
        """Return the leader's answer. Raises ``NotLeader`` when nothing can have been done there
        (not reachable, not the leader), ``ProposalOutcomeUnknown`` when something may have."""
        ...


class _NoAnswer(Exception):
    """The time is over. ``in_doubt``: an attempt may have taken effect."""

    def __init__(self, *, in_doubt: bool, problem: Problem) -> None:
        super().__init__(problem.code)
        self.in_doubt = in_doubt
        self.problem = problem


def _open_session_answer(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
    match reply.outcomes[0]:
        case Opened() as opened:
            body = SessionAnswer(
                client=str(opened.client), expires_after_ms=opened.expires_after_ms
            )
            return Answer(status=200, body=body)
        case other:
            return unexpected(other)


OPEN_SESSION: Final = Mutation(
    operations=lambda incoming, machine: (OpenSession(),),
    answer=_open_session_answer,
    needs_session=False,
)


class Coordinator:
    """The service of one node: ``mutate`` and ``read`` on behalf of clients."""

    def __init__(
        self,
        *,
        replica: Replica,
        clock: Clock,
        gateway: LeaderGateway,
        limits: ServiceLimits | None = None,
    ) -> None:
        self.replica = replica
        self.clock = clock
        self.limits = limits or ServiceLimits()
        self.waiting_room = WaitingRoom(clock=clock, capacity=self.limits.parked_requests)
        self.abandoned_total = 0
        self.given_back_total = 0
        self.unsettled = 0
        self._gateway = gateway
        self._sessions = NodeSessions()
        self._opening = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        replica.on_applied(self._notice)

    def _notice(self, applied: Applied) -> None:
        self.waiting_room.notice(applied.events)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the background work: sessions opened ahead of need, grants being given back."""
        self._spawn(self._keep_a_session())
        try:
            yield
        finally:
            tasks = list(self._background)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ── Calls ────────────────────────────────────────────────────────────────────────────────

    async def mutate(self, mutation: Mutation, incoming: Incoming) -> Answer:
        """Have a call take effect once, and return what the cluster says to it.

        A refusal that ``mutation.hold`` finds worth waiting for is asked again, under a new
        identity. Calls with the client's own identity are not: a second attempt under the same one
        would only repeat the stored refusal, so those wait, if at all, before the only attempt.
        """
        started_ms = self.clock.monotonic_ms()
        if incoming.identity and not incoming.proxied_by and mutation.wake is not None:
            await self._wait_until_ripe(mutation, incoming, mutation.wake)
        while True:
            asked_ms = self.clock.monotonic_ms()
            seen = 0 if mutation.wake is None else self.waiting_room.seen(mutation.wake)
            answer = await self._mutate_once(mutation, incoming)
            if mutation.wake is None or incoming.identity or incoming.proxied_by:
                return answer
            waited_ms = self.clock.monotonic_ms() - started_ms
            wait_ms = mutation.hold(incoming, answer, waited_ms)
            if wait_ms is None or self.waiting_room.is_full():
                return answer
            await self.waiting_room.wait(mutation.wake, seen=seen, timeout_ms=wait_ms)
            early_ms = asked_ms + self.limits.ask_again_ms - self.clock.monotonic_ms()
            if early_ms > 0:
                await self.clock.sleep_ms(min(early_ms, wait_ms))
            if incoming.is_client_gone():
                return answer

    async def _wait_until_ripe(self, mutation: Mutation, incoming: Incoming, wake: Wake) -> None:
        started_ms = self.clock.monotonic_ms()
        while not self.waiting_room.is_full() and not incoming.is_client_gone():
            seen = self.waiting_room.seen(wake)
            waited_ms = self.clock.monotonic_ms() - started_ms
            wait_ms = mutation.ripe(incoming, self.replica.machine, waited_ms)
            if wait_ms is None:
                return
            await self.waiting_room.wait(wake, seen=seen, timeout_ms=wait_ms)

    async def read(self, read: Read, incoming: Incoming) -> Answer:
        """Return a view of everything that was acknowledged before this call."""
        try:
            answer, _ = await self._ride_out(read, incoming, None)
        except _NoAnswer as none:
            # A read leaves nothing behind, so that it may or may not have run does not matter.
            code = "not_committed" if none.problem.code == "outcome_unknown" else none.problem.code
            raise Refused(problem(code, none.problem.detail)) from none
        return answer

    def give_back(self, mutation: Mutation, incoming: Incoming, answer: Answer) -> None:
        """Give a grant back whose client has gone before it could be told."""
        if mutation.undo is None or incoming.identity or incoming.proxied_by:
            # Whoever gave the identity can ask again for the outcome, and may yet be told.
            return
        undo = mutation.undo(incoming, answer)
        if undo is not None:
            self._spawn_bounded(self._undo(undo, incoming))

    def stamp(self, *, rev: int | None = None) -> StateStamp:
        """Return what this node knows of the state's place."""
        status = self.replica.status()
        return StateStamp(
            rev=self.replica.machine.rev if rev is None else rev,
            term=status.term,
            leader=status.leader_id,
            leader_url=None if status.leader_id is None else self.url_of(status.leader_id),
            recovery=RECOVERY,
        )

    def url_of(self, member: str) -> str | None:
        """Return a member's URL, once the cluster has been told of it."""
        return views.announced_url(self.replica.machine, member)

    def note_member(self, member: str, url: str) -> None:
        """Let the cluster know where a follower is reached, when that is news.

        Leaders announce themselves. A follower tells its address with the calls it sends on (it
        opens a session when it starts, so there is one); the leader commits it for everybody.
        """
        status = self.replica.status()
        known = any(peer.node_id == member for peer in status.peers)
        is_usable = len(url) <= MAX_URL and url.startswith(("http://", "https://"))
        if known and is_usable and status.role is Role.LEADER and url != self.url_of(member):
            self._spawn(self._announce(member, url))

    async def _announce(self, member: str, url: str) -> None:
        announce = Announce(
            member=member,
            url=url,
            cluster_id=self.replica.status().cluster_id,
            version_min=MACHINE_VERSION,
            version_max=MACHINE_VERSION,
        )
        try:
            await self.replica.propose(
                Request(operations=(announce,)), timeout_ms=self.limits.attempt_ms
            )
        except (NotLeader, Overloaded, ProposalOutcomeUnknown):
            # It tells again with its next call.
            log_event(_log, "member.not_announced", member=member, url=url)

    # ── One effect ───────────────────────────────────────────────────────────────────────────

    async def _mutate_once(self, mutation: Mutation, incoming: Incoming) -> Answer:
        if incoming.identity or not mutation.needs_session:
            try:
                return (await self._ride_out(mutation, incoming, incoming.identity))[0]
            except _NoAnswer as none:
                raise Refused(none.problem) from none
        deadline_ms = self.clock.monotonic_ms() + self.limits.ride_out_ms
        while True:
            identity = await self._identity(deadline_ms)
            answer, in_doubt = await self._mutate_as(mutation, incoming, identity, deadline_ms)
            if not _is_session_unknown(answer):
                return answer
            self._sessions.forget(identity.client)
            if in_doubt or self.clock.monotonic_ms() >= deadline_ms:
                return answer
            # This sequence was never used before, so the refusal is certain: nothing was done.

    async def _mutate_as(
        self, mutation: Mutation, incoming: Incoming, identity: Identity, deadline_ms: int
    ) -> tuple[Answer, bool]:
        try:
            result = await self._ride_out(mutation, incoming, identity, deadline_ms)
        except (_NoAnswer, asyncio.CancelledError) as none:
            in_doubt = not isinstance(none, _NoAnswer) or none.in_doubt
            if mutation.undo is not None and in_doubt:
                self._spawn_bounded(self._find_out(mutation, incoming, identity))
                if isinstance(none, _NoAnswer):
                    detail = "no answer in time; what may have been granted is given back"
                    raise Refused(problem("not_committed", detail)) from none
                raise
            # Given up for good: from the next request on `low` is beyond this sequence, and a copy
            # of it that is still on its way will be refused.
            self._sessions.settle(identity)
            if isinstance(none, _NoAnswer):
                raise Refused(none.problem) from none
            raise
        except BaseException:
            self._sessions.settle(identity)
            raise
        self._sessions.settle(identity)
        return result

    async def _ride_out(
        self,
        call: Mutation | Read,
        incoming: Incoming,
        identity: Identity | None,
        deadline_ms: int | None = None,
    ) -> tuple[Answer, bool]:
        """Attempt a call until it is answered or the time is over.

        Returns the answer and whether an earlier attempt was left in doubt. Raises ``_NoAnswer``.
        """
        if deadline_ms is None:
            deadline_ms = self.clock.monotonic_ms() + self.limits.ride_out_ms
        in_doubt = False
        while True:
            left_ms = deadline_ms - self.clock.monotonic_ms()
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
            left_ms = deadline_ms - self.clock.monotonic_ms()
            if left_ms <= self.limits.pause_ms or incoming.proxied_by:
                if in_doubt:
                    last = problem("outcome_unknown", last.detail)
                raise _NoAnswer(in_doubt=in_doubt, problem=last)
            await self._pause(left_ms)

    async def _pause(self, left_ms: int) -> None:
        if self.replica.status().leader_id is None:
            await self.replica.wait_for_leader(timeout_ms=left_ms)
        await self.clock.sleep_ms(self.limits.pause_ms)

    async def _attempt(
        self, call: Mutation | Read, incoming: Incoming, identity: Identity | None, left_ms: int
    ) -> Answer:
        status = self.replica.status()
        if status.role is Role.LEADER and status.has_quorum:
            timeout_ms = max(1, min(left_ms, self.limits.attempt_ms))
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
        machine = self.replica.machine
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
        reply = await self.replica.propose(request, timeout_ms=timeout_ms)
        return mutation.answer(incoming, reply, machine).stamped(self.stamp(rev=reply.rev))

    async def _view(self, read: Read, incoming: Incoming, timeout_ms: int) -> Answer:
        await self._barrier(timeout_ms)
        machine = self.replica.machine
        if incoming.rev_floor:
            _check_floor(incoming, machine.rev)
        return read.view(incoming, machine).stamped(self.stamp())

    async def _barrier(self, timeout_ms: int) -> None:
        try:
            await self.replica.barrier(timeout_ms=timeout_ms)
        except ProposalOutcomeUnknown as exc:
            # A barrier has no effect: not done, whatever became of it.
            raise NotLeader(self.replica.status().leader_id) from exc

    async def _forward(
        self, incoming: Incoming, url: str, identity: Identity | None, left_ms: int
    ) -> Answer:
        """Ask the leader, but look up when another one takes over: it can be asked at once."""
        before = self.replica.status()
        asking = asyncio.ensure_future(
            self._gateway.forward(incoming, url, identity=identity, timeout_ms=left_ms)
        )
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=self.limits.watch_ms / 1000)
                now = self.replica.status()
                # A changed term alone says nothing yet; without a leader there is nobody to ask.
                if not asking.done() and now.leader_id not in (None, before.leader_id):
                    raise ProposalOutcomeUnknown("the leader changed while it was being asked")
            return asking.result()
        finally:
            asking.cancel()

    # ── Sessions of this node ────────────────────────────────────────────────────────────────

    async def _identity(self, deadline_ms: int) -> Identity:
        identity = self._sessions.take()
        while identity is None:
            if not self._sessions.can_grow():
                raise Refused(problem("overloaded", "too many outcomes are being found out"))
            await self._open_session(deadline_ms)
            identity = self._sessions.take()
        return identity

    async def _open_session(self, deadline_ms: int) -> None:
        before = len(self._sessions)
        async with self._opening:
            if len(self._sessions) > before:
                return
            if self.clock.monotonic_ms() >= deadline_ms:
                raise Refused(problem("no_leader", "no session could be opened in time"))
            incoming = Incoming(method="POST", target="/v1/sessions", raw=b"")
            try:
                answer, _ = await self._ride_out(OPEN_SESSION, incoming, None, deadline_ms)
            except _NoAnswer as none:
                # Only the opening is in doubt; what the client asked for was not even proposed.
                raise Refused(problem("no_leader", none.problem.detail)) from none
            opened = answer.peek(SessionAnswer) if answer.status == 200 else None
            if opened is None:
                raise Refused(answer.peek(Problem) or problem("overloaded", "no session"))
            self._sessions.add(int(opened.client))

    async def _keep_a_session(self) -> None:
        """Open the first session ahead of need, so that a claim does not wait for it."""
        while len(self._sessions) == 0:
            try:
                await self._open_session(self.clock.monotonic_ms() + self.limits.ride_out_ms)
            except Refused:
                await self.clock.sleep_ms(self.limits.find_out_pause_ms)

    # ── Grants nobody heard of ───────────────────────────────────────────────────────────────

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._reap)

    def _spawn_bounded(self, work: Coroutine[None, None, None]) -> None:
        if self.unsettled >= self.limits.abandoned_grants:
            # Not ideal, but bounded: this grant lives until its ttl ends it.
            work.close()
            log_event(_log, "grant.orphaned", level=logging.WARNING)
            return
        self.abandoned_total += 1
        self._spawn(self._settling(work))

    async def _settling(self, work: Coroutine[None, None, None]) -> None:
        self.unsettled += 1
        try:
            await work
        finally:
            self.unsettled -= 1

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_event(_log, "service.background_failed", level=logging.ERROR, exc=error)

    async def _find_out(self, mutation: Mutation, incoming: Incoming, identity: Identity) -> None:
        """Ask for an outcome until it is known; give a grant back; then settle the identity."""
        until_ms = self.clock.monotonic_ms() + self.limits.find_out_ms
        try:
            while self.clock.monotonic_ms() < until_ms:
                try:
                    answer, _ = await self._ride_out(mutation, incoming, identity)
                except _NoAnswer:
                    await self.clock.sleep_ms(self.limits.find_out_pause_ms)
                    continue
                undo = None if mutation.undo is None else mutation.undo(incoming, answer)
                if undo is not None:
                    await self._undo(undo, incoming)
                return
        finally:
            self._sessions.settle(identity)

    async def _undo(self, undo: Undo, granted: Incoming) -> None:
        incoming = replace(
            granted,
            target=undo.target,
            body=undo.body,
            raw=msgspec.json.encode(undo.body),
            is_abandoned=True,
        )
        until_ms = self.clock.monotonic_ms() + self.limits.find_out_ms
        while self.clock.monotonic_ms() < until_ms:
            try:
                await self._mutate_once(undo.mutation, incoming)
            except Refused:
                await self.clock.sleep_ms(self.limits.find_out_pause_ms)
            else:
                self.given_back_total += 1
                return


def _check_floor(incoming: Incoming, rev: int) -> None:
    if incoming.recovery not in (None, RECOVERY):
        detail = f"the floor is of recovery {incoming.recovery}, the cluster is at {RECOVERY}"
        raise Refused(problem("recovered", detail, field=headers.RECOVERY))
    if incoming.rev_floor > rev:
        # Behind a barrier this can not be a slow node: the state that the client saw is gone.
        detail = f"rev {incoming.rev_floor} was asked for, the newest is {rev}"
        raise Refused(problem("recovered", detail, field=headers.REV))


def _is_session_unknown(answer: Answer) -> bool:
    if answer.status != 409:
        return False
    body = answer.peek(Problem)
    return body is not None and body.code == RejectReason.SESSION_UNKNOWN
