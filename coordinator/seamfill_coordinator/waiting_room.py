"""Where refused requests wait until asking again makes sense.

Owns parked requests and what wakes them: events that this node applied. Must not know HTTP or what
is asked again. Every node applies the same log, so a follower's clients wake there too.

Invariants: at most ``capacity`` are parked; a wake-up between asking and parking is not lost
(``seen`` is taken before asking).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from seamfill.clock import Clock
from seamfill_coordinator.calls import Wake
from seamfill_coordinator.machine.outcomes import Event

__all__ = ["WaitingRoom"]

_WAKES: Final[dict[str, Wake]] = {
    "backfill.submitted": Wake.WORK,
    "backfill.resumed": Wake.WORK,
    "source.resumed": Wake.WORK,
    "lease.expired": Wake.WORK,
    "lease.completed": Wake.WORK,
    "lease.failed": Wake.WORK,
    "lease.released": Wake.WORK,
    "lease.snoozed": Wake.WORK,
    "lease.revoked": Wake.WORK,
    "claim.expired": Wake.CLAIM,
    "claim.completed": Wake.CLAIM,
    "claim.failed": Wake.CLAIM,
    "claim.abandoned": Wake.CLAIM,
}


class WaitingRoom:
    """Parks requests; ``notice`` events to wake them."""

    def __init__(self, *, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self._closed = False
        self._versions = dict.fromkeys(Wake, 0)
        self._parked: dict[Wake, set[asyncio.Future[None]]] = {wake: set() for wake in Wake}

    def __len__(self) -> int:
        return sum(len(parked) for parked in self._parked.values())

    def is_full(self) -> bool:
        """Return whether nobody more may park (also when the node is stopping)."""
        return self._closed or len(self) >= self._capacity

    def close(self) -> None:
        """Let everybody go, and park nobody any more."""
        self._closed = True
        for wake in Wake:
            self._wake(wake)

    def seen(self, wake: Wake) -> int:
        """Return a mark to hand to ``wait``: what has happened until now."""
        return self._versions[wake]

    def notice(self, events: Sequence[Event]) -> None:
        """Wake those whom one of the events may help."""
        for wake in {_WAKES[event.name] for event in events if event.name in _WAKES}:
            self._wake(wake)

    def _wake(self, wake: Wake) -> None:
        self._versions[wake] += 1
        for future in self._parked[wake]:
            if not future.done():
                future.set_result(None)

    async def wait(self, wake: Wake, *, seen: int, timeout_ms: int) -> None:
        """Return when something has happened since ``seen``, or when the time has passed."""
        if self._versions[wake] != seen:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parked[wake].add(future)
        timer = asyncio.ensure_future(self._clock.sleep_ms(timeout_ms))
        try:
            await asyncio.wait({future, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._parked[wake].discard(future)
            future.cancel()
            timer.cancel()
