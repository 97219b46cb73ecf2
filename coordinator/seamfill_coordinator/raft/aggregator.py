"""Many requests, few Raft entries.

Owns the queue between callers and the log: requests that arrive while commands are in flight leave
together as the next command. Must not know pysyncobj: it hands bytes to ``launch`` and is told what
became of them.

Invariants: at most ``in_flight`` commands are outstanding; the queue never exceeds ``queued``; a
caller hears exactly one of reply, ``NotLeader``/``Overloaded`` (its request was never launched) and
``ProposalOutcomeUnknown`` (it was).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from seamfill.errors import InvalidInput
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import Command, Request, Stamp
from seamfill_coordinator.machine.outcomes import Applied, Reply
from seamfill_coordinator.replication import NotLeader, Overloaded, ProposalOutcomeUnknown

__all__ = ["Aggregator", "AggregatorLimits", "Launch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorLimits:
    """Caps of one node's proposals."""

    in_flight: int = 2
    """One command travels while the next one gathers; more would only make smaller commands."""
    requests_per_command: int = 1_024
    command_bytes: int = 1 << 20
    """A quarter of what one append message may carry (``core.py``)."""
    queued: int = 16_384


class Launch(Protocol):
    """Append one encoded command to the log, now; raise ``NotLeader`` if that is impossible.

    ``done`` is called once with what the command did here, or with None when its outcome is
    unknown; it may also never be called.
    """

    def __call__(self, command: bytes, done: Callable[[Applied | None], None]) -> None: ...


@dataclass(slots=True, eq=False)
class _Waiter:
    """One caller: with a request, or None for a barrier, which any later command satisfies."""

    request: Request | None
    answer: asyncio.Future[Reply | None]
    launched: bool = False


@dataclass(slots=True, eq=False)
class _Flight:
    """One command in the log whose fate is not known yet."""

    waiters: list[_Waiter]


class Aggregator:
    """The proposals of one node; open only while it leads."""

    def __init__(
        self,
        *,
        launch: Launch,
        stamp: Callable[[], Stamp],
        machine_version: Callable[[], int],
        leader_id: Callable[[], str | None],
        limits: AggregatorLimits | None = None,
    ) -> None:
        self._launch = launch
        self._stamp = stamp
        self._machine_version = machine_version
        self._leader_id = leader_id
        self._limits = limits or AggregatorLimits()
        self._queue: deque[_Waiter] = deque()
        self._flights: dict[_Flight, None] = {}
        """In the order of their launch: a set would tell its callers in the order of addresses."""
        self._is_open = False
        self._pump_scheduled = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued and nothing is in flight."""
        return not self._queue and not self._flights

    def open(self, first: Request, on_applied: Callable[[Reply], None]) -> None:
        """Begin a reign: launch ``first`` before everything else; then hand on its reply."""
        self._is_open = True
        waiter = _Waiter(first, asyncio.get_running_loop().create_future())

        def report(answer: asyncio.Future[Reply | None]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                return  # the reign ended before
            reply = answer.result()
            assert reply is not None
            on_applied(reply)

        waiter.answer.add_done_callback(report)
        self._send([waiter])

    def close(self) -> None:
        """End the reign: what was not launched can be refused, what was launched is unknown."""
        self._is_open = False
        flights, self._flights = self._flights, {}
        for flight in flights:
            _fail(flight.waiters, ProposalOutcomeUnknown)
        queued, self._queue = self._queue, deque()
        _fail(queued, lambda: NotLeader(self._leader_id()))

    def tick(self) -> None:
        """Launch an empty command, if nothing else is on its way."""
        if self._is_open and self.is_idle:
            self._send([])

    async def submit(self, request: Request | None, *, timeout_ms: int) -> Reply | None:
        """Return the reply to ``request``; None when it was None, a barrier.

        Raises ``NotLeader``, ``Overloaded``, ``InvalidInput`` (larger than a command may be),
        ``ProposalOutcomeUnknown``.
        """
        if not self._is_open:
            raise NotLeader(self._leader_id())
        if len(self._queue) >= self._limits.queued:
            raise Overloaded(f"{self._limits.queued} requests are waiting on this node")
        waiter = _Waiter(request, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        self._schedule_pump()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await waiter.answer
        except TimeoutError:
            if waiter.launched:
                raise ProposalOutcomeUnknown(
                    f"not committed within {timeout_ms} ms; it may still be"
                ) from None
            # The pump skips it: its future is cancelled.
            raise Overloaded(f"still waiting behind others after {timeout_ms} ms") from None

    def _schedule_pump(self) -> None:
        # One turn of the loop later, so that all requests of this turn share a command.
        if not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        while self._is_open and self._queue and len(self._flights) < self._limits.in_flight:
            waiters = self._take()
            if waiters:
                self._send(waiters)

    def _take(self) -> list[_Waiter]:
        taken: list[_Waiter] = []
        while self._queue and len(taken) < self._limits.requests_per_command:
            waiter = self._queue.popleft()
            if not waiter.answer.done():
                taken.append(waiter)
        return taken

    def _send(self, waiters: list[_Waiter]) -> None:
        requests = tuple(w.request for w in waiters if w.request is not None)
        command = encode_command(
            Command(version=self._machine_version(), stamp=self._stamp(), requests=requests)
        )
        if len(command) > self._limits.command_bytes:
            self._send_smaller(waiters, len(command))
            return
        flight = _Flight(waiters)
        self._flights[flight] = None
        for waiter in waiters:
            waiter.launched = True
        try:
            self._launch(command, lambda applied: self._land(flight, applied))
        except NotLeader as refusal:
            self._flights.pop(flight, None)
            leader_id = refusal.leader_id
            _fail(waiters, lambda: NotLeader(leader_id))

    def _send_smaller(self, waiters: list[_Waiter], size: int) -> None:
        if len(waiters) == 1:
            text = f"{size} bytes; at most {self._limits.command_bytes} fit a command"
            _fail(waiters, lambda: InvalidInput("request", text))
            return
        half = len(waiters) // 2
        self._queue.extendleft(reversed(waiters[half:]))
        self._send(waiters[:half])

    def _land(self, flight: _Flight, applied: Applied | None) -> None:
        if flight not in self._flights:
            return  # its reign is over, and its callers have been told that nothing is known
        del self._flights[flight]
        if applied is None:
            _fail(flight.waiters, ProposalOutcomeUnknown)
        else:
            _answer(flight.waiters, applied)
        if self._queue:
            self._schedule_pump()


def _answer(waiters: list[_Waiter], applied: Applied) -> None:
    replies = iter(applied.replies)
    for waiter in waiters:
        reply = None if waiter.request is None else next(replies)
        if not waiter.answer.done():
            waiter.answer.set_result(reply)


def _fail(waiters: Iterable[_Waiter], reason: Callable[[], Exception]) -> None:
    # One exception per caller: a shared one would gather the tracebacks of all of them.
    for waiter in waiters:
        if not waiter.answer.done():
            waiter.answer.set_exception(reason())
