"""Time that passes only when everybody waits for it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")
_TURNS = 60


class FakeTime:
    """A ``Clock``. ``run`` moves it to the next sleeper whenever nothing else can happen."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic_ms(self) -> int:
        return int(self.now_ms)

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.now_ms)

    async def sleep_ms(self, delay_ms: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_ms + max(0.0, delay_ms), next(self._order), wake))
        await wake

    async def run(self, coroutine: Coroutine[Any, Any, T], *, limit_ms: int = 3_600_000) -> T:
        """Run a coroutine to its end in fake time; fail when it takes longer than the limit."""
        task = asyncio.ensure_future(coroutine)
        end_ms = self.now_ms + limit_ms
        while not task.done():
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if task.done():
                break
            if not self._step() or self.now_ms > end_ms:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise AssertionError("nothing happens any more, or it takes too long")
        return task.result()

    def _step(self) -> bool:
        """Wake the next sleeper; False when nobody sleeps."""
        while self._sleepers:
            at_ms, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                self.now_ms = max(self.now_ms, at_ms)
                wake.set_result(None)
                return True
        return False
