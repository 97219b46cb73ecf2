"""One client of live traffic: its sessions, its node, its pace.

Owns under which identity a client asks next, and when. Must not know how a request travels or what
is concluded from its answer (``traffic``), nor what is asked (``habits``).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seamfill.protocol.values import WorkerIdentity
from seamfill_chaos.history import Seen
from seamfill_coordinator.machine.commands import Operation, Request
from seamfill_coordinator.machine.outcomes import Outcome, Reply
from seamfill_coordinator.machine.sessions import WINDOW

if TYPE_CHECKING:
    from seamfill_chaos.live.traffic import Traffic

__all__ = ["Client", "Habit", "Session"]


@dataclass(slots=True)
class Session:
    """One session: its identity, and what was acknowledged under it."""

    client: int
    low: int = 1
    """Below it the cluster may forget."""
    asked: int = 0
    answered: int = 0
    acknowledged: dict[int, tuple[Request, Reply]] = field(default_factory=dict)
    """By sequence, what was not asked again yet."""

    @property
    def is_full(self) -> bool:
        return self.asked + 1 >= self.low + WINDOW


class Client:
    """One client: its sessions, its node, its pace. What it asks is its habit's business."""

    def __init__(
        self, traffic: Traffic, name: str, rng: random.Random, habit: Habit, *, home: int
    ) -> None:
        """``home``: which node it asks first. A client that wandered would be stuck at a node that
        is cut off or paused sooner or later, and all of them at once."""
        self.name = name
        self.rng = rng
        self.plan = traffic.plan
        self.address = traffic.address
        self.worker = WorkerIdentity(id=name, boot=f"{rng.getrandbits(32):08x}")
        self.home = home
        self.sessions: list[Session] = []
        self._traffic = traffic
        self._habit = habit
        self._due_s = 0.0

    @property
    def node(self) -> str:
        return list(self._traffic.urls)[self.home]

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the habit until told to stop."""
        while not stop.is_set():
            await self._habit(self)

    async def session(self) -> Session:
        """Return a session with room. A full one is kept until all of it was asked again."""
        if not self.sessions or self.sessions[-1].is_full:
            self.sessions.append(await self._traffic.open_session(self.name))
        return self.sessions[-1]

    def forget_checked(self) -> None:
        """Let go of what was asked again; the next request tells the cluster."""
        for session in self.sessions:
            session.low = min(session.acknowledged, default=session.answered + 1)
        self.sessions = [
            session
            for session in self.sessions
            if session.acknowledged or session is self.sessions[-1]
        ]

    async def change(self, operation: Operation) -> Outcome:
        """Have an operation take effect once, then rest."""
        outcome = await self._traffic.change(self, operation)
        await self._rest()
        return outcome

    async def look(self, key: str) -> Seen:
        """Read who holds a key, then rest."""
        seen = await self._traffic.look(self, key)
        await self._rest()
        return seen

    async def _rest(self) -> None:
        """Wait for this client's next turn; not at all when it is late already."""
        mean_s = (self.plan.claimers + self.plan.fillers) / self.plan.rate
        now_s = time.monotonic()
        self._due_s = max(self._due_s + mean_s * self.rng.uniform(0.5, 1.5), now_s - mean_s)
        await asyncio.sleep(max(0.0, self._due_s - now_s))


Habit = Callable[[Client], Awaitable[None]]
"""What a client does again and again: a few operations that belong together."""
