"""Turns one client call into one effect, whoever leads.

Owns the way of a call around its attempts (``attempts``): the identity it is made under, holding a
refusal that is about to end, giving back a grant nobody heard of. Must not know aiohttp or
pysyncobj.

Invariants:

* Every mutation carries an identity, the client's or one of this node's own, so whatever this node
  repeats has one effect.
* A call is answered within ``ride_out_ms`` (plus what the client asked to wait); nothing is queued.
* "Nothing was done" (503) and "nobody knows" (504) are never merged. A grant without a client's
  identity is answered 503 although its outcome is unknown, because this node finds the outcome out
  and gives the grant back: the client holds nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import msgspec

from seamfill.clock import Clock
from seamfill.logs import log_event
from seamfill.protocol.cluster import SessionAnswer
from seamfill.protocol.problem import Problem
from seamfill_coordinator.attempts import Attempts, LeaderGateway, NoAnswer, ServiceLimits
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
from seamfill_coordinator.machine.commands import Announce, OpenSession, Request
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
_log = logging.getLogger("seamfill.coordinator.service")


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
        self._attempts = Attempts(replica=replica, clock=clock, gateway=gateway, limits=self.limits)
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
            await self._settle_before_leaving()
            tasks = list(self._background)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle_before_leaving(self) -> None:
        until_ms = self.clock.monotonic_ms() + self.limits.leaving_ms
        while self.unsettled and self.clock.monotonic_ms() < until_ms:
            await self.clock.sleep_ms(self.limits.pause_ms)

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
            answer, _ = await self._attempts.until_answered(read, incoming, None)
        except NoAnswer as none:
            # A read leaves nothing behind, so that it may or may not have run does not matter.
            raise Refused(_certain(none.problem)) from none
        return answer

    def give_back(self, mutation: Mutation, incoming: Incoming, answer: Answer) -> None:
        """Give a grant back whose client has gone before it could be told."""
        if mutation.undo is None or incoming.identity or incoming.proxied_by:
            # Whoever gave the identity can ask again for the outcome, and may yet be told.
            return
        undo = mutation.undo(incoming, answer)
        if undo is not None:
            self._spawn_bounded(self._undo(undo, incoming))

    def stamp(self) -> StateStamp:
        """Return what this node knows of the state's place."""
        return self._attempts.stamp()

    def url_of(self, member: str) -> str | None:
        """Return a member's URL, once the cluster has been told of it."""
        return self._attempts.url_of(member)

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
                return (await self._attempts.until_answered(mutation, incoming, incoming.identity))[
                    0
                ]
            except NoAnswer as none:
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
            result = await self._attempts.until_answered(mutation, incoming, identity, deadline_ms)
        except (NoAnswer, asyncio.CancelledError) as none:
            in_doubt = not isinstance(none, NoAnswer) or none.in_doubt
            if mutation.undo is not None and in_doubt:
                self._spawn_bounded(self._find_out(mutation, incoming, identity))
                if isinstance(none, NoAnswer):
                    detail = "no answer in time; what may have been granted is given back"
                    raise Refused(problem("not_committed", detail)) from none
                raise
            # Given up for good: from the next request on `low` is beyond this sequence, and a copy
            # of it that is still on its way will be refused.
            self._sessions.settle(identity)
            if isinstance(none, NoAnswer):
                raise Refused(none.problem) from none
            raise
        except BaseException:
            self._sessions.settle(identity)
            raise
        self._sessions.settle(identity)
        return result

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
                answer, _ = await self._attempts.until_answered(
                    OPEN_SESSION, incoming, None, deadline_ms
                )
            except NoAnswer as none:
                # Only the opening is in doubt; what the client asked for was not even proposed.
                raise Refused(_certain(none.problem)) from none
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
                    answer, _ = await self._attempts.until_answered(mutation, incoming, identity)
                except NoAnswer:
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


def _certain(doubt: Problem) -> Problem:
    """Return the problem of a call that had no effect, whether or not an attempt got through."""
    return problem("not_committed", doubt.detail) if doubt.in_doubt else doubt


def _is_session_unknown(answer: Answer) -> bool:
    if answer.status != 409:
        return False
    body = answer.peek(Problem)
    return body is not None and body.code == RejectReason.SESSION_UNKNOWN
