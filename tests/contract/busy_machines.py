"""Tell an election that a busy machine caused from one that we caused.

Owns the one excuse that a test of leadership may have, and how it is proved.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

import pytest

__all__ = ["EXCUSED_FROM_MS", "ROUNDS", "LoopWatch", "excused"]

EXCUSED_FROM_MS: Final = 50
"""The time of a heartbeat. A loop that is held up so long at one moment is held up at others too,
and a word between members, with its answer, passes half a dozen turns of that loop."""

ROUNDS: Final = 8
_BEAT_S: Final = 0.01


@runtime_checkable
class Renewable(Protocol):
    """A fixture that can begin again from nothing."""

    async def renew(self) -> None: ...


class LoopWatch:
    """How long this process's loop was held up at worst, while the block ran."""

    def __init__(self) -> None:
        self.late_ms = 0.0
        self._due_s = 0.0
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._due_s = asyncio.get_running_loop().time()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._beating is not None
        self._beating.cancel()
        self._note()
        await asyncio.gather(self._beating, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            self._due_s = asyncio.get_running_loop().time() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            self._note()

    def _note(self) -> None:
        late_s = asyncio.get_running_loop().time() - self._due_s
        self.late_ms = max(self.late_ms, late_s * 1000)


def excused(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Repeat a test on new clusters when this machine was too busy for it, and only then.

    For tests that are about one leader: that it keeps its term, or what it does within it. An
    election that no hold-up of the loop explains is a failure at once, and so is whatever goes
    wrong in each of ``ROUNDS`` rounds: a real fault does not wait for a busy machine.
    """

    @functools.wraps(test)
    async def repeated(**fixtures: Any) -> None:
        for _ in range(ROUNDS - 1):
            watch = LoopWatch()
            try:
                async with watch:
                    await test(**fixtures)
                return
            except (Exception, pytest.fail.Exception):
                if watch.late_ms < EXCUSED_FROM_MS:
                    raise
            for fixture in fixtures.values():
                if isinstance(fixture, Renewable):
                    await fixture.renew()
        await test(**fixtures)

    return repeated
