"""Traffic whose every outcome is known in the end: the clients of the runs that kill and cut.

Owns the clients, what they ask, how often, and what they may conclude at once from their answers.
Must not know what is done to the cluster meanwhile.

Each client has sessions, asks one operation at a time, and repeats it under the same identity, at
the next node, until it knows the outcome. It keeps what was acknowledged, so that everything can be
asked again: the same identity must give the same outcome (``ask_again``).

``rev`` grows by one with each applied operation, so that it orders them all. Checked with every
answer, against all clients of this traffic:

* an operation's rev is above the rev of everything that was acknowledged before it was asked. For a
  read this says that it was not stale, for a change that nothing acknowledged was forgotten;
* no two operations have the same rev: none was written over another.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from seamfill.errors import SeamfillError
from seamfill.protocol.values import WorkerIdentity
from seamfill_chaos.history import Read, Recorder, Seen
from seamfill_chaos.live.caller import InDoubt, NotDone, ask, read, submit
from seamfill_chaos.live.clients import Client, Session
from seamfill_chaos.live.habits import BACKFILL, claim_and_finish, fill_windows
from seamfill_coordinator.machine.commands import OpenSession, Operation, Request
from seamfill_coordinator.machine.outcomes import Opened, Outcome, Reply

__all__ = ["Counts", "Traffic", "TrafficFailed", "TrafficPlan"]

CALL_TIMEOUT_S: Final = 2.0
CHECK_TIMEOUT_S: Final = 10.0
"""For asking again, when the cluster is well: giving up early would only double its work."""
PATIENCE_S: Final = 60.0
"""How long one operation is repeated before its outcome counts as unknown."""
PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 1.0
"""Between two tries of one operation; each pause is twice the one before."""
RATE_WINDOW_S: Final = 1.0
ASKED_AGAIN_AT_ONCE: Final = 24


class TrafficFailed(SeamfillError):
    """The cluster did not answer for so long that the run can not go on."""

    code = "traffic_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPlan:
    """How much is asked, and of what."""

    claimers: int = 14
    """Clients that claim, read, complete and fail compatibility keys."""
    fillers: int = 6
    """Clients that acquire, renew and complete windows of a backfill."""
    rate: float = 170.0
    """Operations per second, of all clients together: so many and not more while the cluster keeps
    up, which leaves the machine to the nodes."""
    shared_keys: int = 24
    """Keys that all claimers want, so that they are refused now and then."""
    keep_share: float = 0.1
    """Of the own keys that were granted, how many stay claimed: they make the state grow."""


@dataclass(slots=True)
class Counts:
    """What the clients were told, for the account of a run."""

    acknowledged: int = 0
    reads: int = 0
    retried: int = 0
    in_doubt: int = 0
    """Operations that were in doubt at least once."""
    settled: int = 0
    """Of those, the ones whose outcome was found out."""
    asked_again: int = 0
    slowest_s: float = 0.0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)


class Traffic:
    """All clients of one run against the nodes at ``urls``."""

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        recorder: Recorder,
        rng: random.Random,
        plan: TrafficPlan | None = None,
        connector: Callable[[], aiohttp.BaseConnector | None] = lambda: None,
        address: str = "127.0.0.1",
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``connector`` makes what talks to the nodes; ``address`` is ours as the nodes see it."""
        self.urls = dict(urls)
        self.address = address
        self.plan = plan or TrafficPlan()
        self.recorder = recorder
        self.counts = Counts()
        self.violations: list[str] = []
        self.acknowledged_at: list[float] = []
        """When each change was acknowledged, by ``now_s``."""
        self._newest_rev = 0
        self._revs: dict[int, str] = {}
        self._rng = rng
        self._now_s = now_s
        self._connector = connector
        self._http: aiohttp.ClientSession | None = None
        self._stop = asyncio.Event()
        self._clients: list[Client] = []

    async def __aenter__(self) -> Traffic:
        self._http = aiohttp.ClientSession(connector=self._connector())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._http is not None
        await self._http.close()

    async def run(self) -> None:
        """Submit the backfill, then let all clients ask until ``stop``.

        Raises ``TrafficFailed`` when one of them got no answer for ``PATIENCE_S``.
        """
        await self._submit()
        habits = [claim_and_finish] * self.plan.claimers + [fill_windows] * self.plan.fillers
        self._clients = [
            Client(
                self,
                f"c{number}",
                random.Random(self._rng.getrandbits(64)),
                habit,
                home=number % len(self.urls),
            )
            for number, habit in enumerate(habits)
        ]
        async with asyncio.TaskGroup() as tasks:
            for client in self._clients:
                tasks.create_task(client.run(self._stop))

    def stop(self) -> None:
        """Let every client finish its operation and end."""
        self._stop.set()

    def rate(self) -> float:
        """Return the changes acknowledged per second, over the last second."""
        since_s = self._now_s() - RATE_WINDOW_S
        count = 0
        for at_s in reversed(self.acknowledged_at):
            if at_s < since_s:
                break
            count += 1
        return count / RATE_WINDOW_S

    def longest_silence_s(self, since_s: float, until_s: float) -> float:
        """Return the longest time within a span in which no change was acknowledged."""
        times = [at_s for at_s in self.acknowledged_at if since_s < at_s < until_s]
        edges = [since_s, *times, until_s]
        return max(later - earlier for earlier, later in itertools.pairwise(edges))

    async def ask_again(self, node_id: str) -> int:
        """Ask a node first for every outcome acknowledged since the last time; return how many.

        One that differs, or that the cluster forgot, becomes a violation. Ask the leader: a
        follower only sends everything on to it.
        """
        home = list(self.urls).index(node_id)
        sessions = [session for client in self._clients for session in client.sessions]
        known = [
            (session, request, reply)
            for session in sessions
            for request, reply in session.acknowledged.values()
        ]
        gate = asyncio.Semaphore(ASKED_AGAIN_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for session, request, reply in known:
                tasks.create_task(self._ask_one_again(gate, session, request, reply, home))
        for client in self._clients:
            client.forget_checked()
        self.counts.asked_again += len(known)
        return len(known)

    async def _ask_one_again(
        self, gate: asyncio.Semaphore, session: Session, request: Request, reply: Reply, home: int
    ) -> None:
        async with gate:
            again = await self.until_known(
                request, worker=_NOBODY, home=home, timeout_s=CHECK_TIMEOUT_S
            )
        del session.acknowledged[request.sequence]
        if again != reply:
            self.violations.append(
                f"{request.client}:{request.sequence} {request.operations[0]!r} was answered "
                f"{reply!r}, and later {again!r}"
            )

    async def until_known(
        self,
        request: Request,
        *,
        worker: WorkerIdentity,
        number: int | None = None,
        home: int = 0,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Reply:
        """Ask until the outcome is known, at one node after the other.

        ``number`` is the operation's in the history. Raises ``TrafficFailed``.
        """
        assert self._http is not None
        urls = list(self.urls.items())
        give_up_s = self._now_s() + PATIENCE_S
        was_in_doubt, attempt = False, 0
        while True:
            url = urls[(home + attempt) % len(urls)][1]
            attempt += 1
            following = urls[(home + attempt) % len(urls)][0]
            try:
                reply = await ask(self._http, url, request, worker=worker, timeout_s=timeout_s)
                break
            except NotDone as exc:
                in_doubt, why = False, exc.message
            except InDoubt as exc:
                in_doubt, why = True, exc.message
            self.counts.retried += 1
            self.counts.in_doubt += in_doubt and not was_in_doubt
            was_in_doubt = was_in_doubt or in_doubt
            if self._now_s() > give_up_s:
                if number is not None:
                    self.recorder.unknown(number, why)
                raise TrafficFailed(f"no outcome after {PATIENCE_S:g} s: {why}")
            await asyncio.sleep(_pause_s(attempt))
            if number is not None:
                self.recorder.retry(number, node=following, in_doubt=in_doubt)
        self.counts.settled += was_in_doubt
        return reply

    async def change(self, client: Client, operation: Operation) -> Outcome:
        """Have one operation take effect once; record and check what was answered."""
        session = await client.session()
        session.asked += 1
        request = Request(
            operations=(operation,),
            client=session.client,
            sequence=session.asked,
            low=session.low,
        )
        floor, began_s = self._newest_rev, self._now_s()
        number = self.recorder.invoke(client.name, request, node=client.node)
        reply = await self.until_known(
            request, worker=client.worker, number=number, home=client.home
        )
        self.recorder.ok(number, reply)
        session.acknowledged[request.sequence] = (request, reply)
        session.answered = request.sequence
        self._check_change(f"{client.name}: {operation!r}", reply, floor)
        (outcome,) = reply.outcomes
        self.counts.acknowledged += 1
        self.counts.outcomes[type(outcome).__name__] += 1
        now_s = self._now_s()
        self.counts.slowest_s = max(self.counts.slowest_s, now_s - began_s)
        self.acknowledged_at.append(now_s)
        return outcome

    async def look(self, client: Client, key: str) -> Seen:
        """Read who holds a key, at the client's own node first; check that it is not stale."""
        assert self._http is not None
        urls = list(self.urls.items())
        give_up_s = self._now_s() + PATIENCE_S
        floor, attempt = self._newest_rev, 0
        asked = Read(key=key)
        number = self.recorder.invoke(client.name, asked, node=client.node)
        while True:
            name, url = urls[(client.home + attempt) % len(urls)]
            attempt += 1
            following = urls[(client.home + attempt) % len(urls)][0]
            try:
                seen = await read(self._http, url, asked, timeout_s=CALL_TIMEOUT_S)
                break
            except NotDone as exc:
                if self._now_s() > give_up_s:
                    self.recorder.refused(number, exc.message)
                    raise TrafficFailed(f"nothing read for {PATIENCE_S:g} s: {exc}") from exc
            await asyncio.sleep(_pause_s(attempt))
            self.recorder.retry(number, node=following, in_doubt=False)
        self.recorder.ok(number, seen)
        if seen.rev < floor:
            self.violations.append(
                f"{client.name}: stale read of {key} at {name}: rev {seen.rev}, "
                f"but {floor} was acknowledged before it was asked"
            )
        self.counts.reads += 1
        return seen

    async def open_session(self, name: str) -> Session:
        """Open a session. A try in doubt may leave one behind that nobody uses."""
        request = Request(operations=(OpenSession(),))
        reply = await self.until_known(request, worker=_NOBODY)
        (opened,) = reply.outcomes
        if not isinstance(opened, Opened):
            raise TrafficFailed(f"{name} was given no session: {opened!r}")
        return Session(client=opened.client)

    def _check_change(self, what: str, reply: Reply, floor: int) -> None:
        if reply.rev <= floor:
            self.violations.append(
                f"{what} has rev {reply.rev}, but {floor} was acknowledged before it was asked"
            )
        other = self._revs.setdefault(reply.rev, what)
        if other is not what:
            self.violations.append(f"rev {reply.rev} belongs to {other} and to {what}")
        self._newest_rev = max(self._newest_rev, reply.rev)

    async def _submit(self) -> None:
        """Ask for the bars that the fillers fill; a repetition with the same id is the same."""
        assert self._http is not None
        give_up_s = self._now_s() + PATIENCE_S
        while self._now_s() < give_up_s:
            for url in self.urls.values():
                if await submit(self._http, url, BACKFILL, timeout_s=CALL_TIMEOUT_S):
                    return
                await asyncio.sleep(PAUSE_S)
        raise TrafficFailed("no node accepted the backfill")


def _pause_s(attempt: int) -> float:
    """Return how long to wait after so many tries: a cluster in trouble is not helped by more."""
    return min(LONGEST_PAUSE_S, PAUSE_S * float(1 << min(attempt - 1, 10)))


_NOBODY: Final = WorkerIdentity(id="nobody", boot="-")
