"""How simulated callers reach a node: a request there, an answer back, and what gets lost between.

Owns the way between callers and nodes, which stands for HTTP. Must not know what is asked.

The three ends of a call are never mixed: the node's own word (an answer, or one of its refusals),
``NotReached`` (nobody was asked), ``NoAnswer`` (it may have been done, or still will).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from seamfill.errors import SeamfillError
from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_chaos.sim.node import Node
from seamfill_chaos.sim.process import Process, current_process
from seamfill_coordinator.raft.replica import PysyncobjReplica

__all__ = ["Door", "DoorWeather", "NoAnswer", "NotReached", "Work"]

T = TypeVar("T")
Work = Callable[[PysyncobjReplica], Awaitable[T]]
_LATE_MAX_S: Final = 2.0


class NotReached(Exception):
    """Nobody listens there; nothing was done."""


class NoAnswer(Exception):
    """The connection broke, or the time has passed: nobody knows what was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorWeather:
    """What the way is like all the time."""

    delay_min_s: float = 0.0003
    delay_max_s: float = 0.002
    lost_requests: float = 0.0
    lost_answers: float = 0.0
    repeated: float = 0.0
    """How often a request that may be repeated arrives once more, up to two seconds later."""


class Door:
    """The way of all callers to all nodes."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, weather: DoorWeather) -> None:
        self._loop = loop
        self._rng = rng
        self._weather = weather
        self._waiting: dict[Process, dict[asyncio.Future[Any], Process]] = {}

    def calm(self) -> None:
        """Lose nothing any more."""
        self._weather = replace(self._weather, lost_requests=0.0, lost_answers=0.0)

    async def ask(
        self, node: Node, work: Work[T], *, timeout_s: float, may_repeat: bool = False
    ) -> T:
        """Have ``work`` done with the replica of ``node``, in its process; return what it returns.

        Raises what ``work`` raises, ``NotReached``, ``NoAnswer``.
        """
        caller = current_process()
        assert caller is not None, "a caller is a process"
        loop, rng, weather = self._loop, self._rng, self._weather
        answer: asyncio.Future[T] = loop.create_future()
        if rng.random() >= weather.lost_requests:
            loop.call_outside(self._delay(), self._arrive, node, work, answer, caller)
        is_repeated = may_repeat and rng.random() < weather.repeated
        if is_repeated:
            late_s = rng.uniform(0, _LATE_MAX_S)
            loop.call_outside(late_s, self._arrive, node, work, answer, caller)
        impatience = loop.call_later(timeout_s, _settle, answer, NoAnswer())
        try:
            return await answer
        except (NotReached, SeamfillError) as exc:
            if is_repeated:
                # The other one is still on its way: this refusal is not the last word.
                raise NoAnswer from exc
            raise
        finally:
            impatience.cancel()

    def _delay(self) -> float:
        return self._rng.uniform(self._weather.delay_min_s, self._weather.delay_max_s)

    def _arrive(
        self, node: Node, work: Work[T], answer: asyncio.Future[T], caller: Process
    ) -> None:
        process = node.process
        if process is None or process.has_ended:
            if node.machine.has_power:
                self._tell(caller, answer, NotReached())
            return  # a dark machine says nothing; the caller's time runs out
        waiting = self._waiting.get(process)
        if waiting is None:
            waiting = self._waiting[process] = {}
            process.at_end(lambda: self._hang_up(node, process))
        waiting[answer] = caller
        process.spawn(self._serve(node, process, work, answer, caller))

    async def _serve(
        self,
        node: Node,
        process: Process,
        work: Work[T],
        answer: asyncio.Future[T],
        caller: Process,
    ) -> None:
        replica = node.replica
        outcome: T | Exception
        if replica is None:
            outcome = NotReached()
        else:
            try:
                outcome = await work(replica)
            except SeamfillError as exc:
                outcome = exc
        self._waiting[process].pop(answer, None)
        if self._rng.random() >= self._weather.lost_answers:
            self._tell(caller, answer, outcome)

    def _hang_up(self, node: Node, process: Process) -> None:
        """The process has ended: who waits for its answer hears that, if its machine is there."""
        for answer, caller in self._waiting.pop(process).items():
            if node.machine.has_power:
                self._tell(caller, answer, NoAnswer())

    def _tell(self, caller: Process, answer: asyncio.Future[T], outcome: T | Exception) -> None:
        context = caller.context
        self._loop.call_later(self._delay(), _settle, answer, outcome, context=context)


def _settle(answer: asyncio.Future[T], outcome: T | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
