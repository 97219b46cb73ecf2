"""Collect cyclic garbage where nobody waits for it.

Owns what a collection of this process walks. Must not know what the objects are.

Reference counting frees nearly everything at once. What it can not free Python's collector finds,
by walking every container that is alive: a full collection takes 0.1 to 0.4 s over 100,000 leases,
in one go, and after 0.3 s without a word of the leader its followers may elect another one. So what
a full collection has found alive, once it is much, is set apart (``gc.freeze``), and the next one
walks only what has come since.

What becomes cyclic garbage after it was set apart stays until a *thorough* collection, which walks
everything. A node that follows has one when a full one is due anyway, at most once a minute; one
that leads, or elects, puts it off until it follows, for a day at most. The machine makes no such
garbage while it lives (``tests/machine/test_golden.py``). It becomes some as a whole when a
snapshot of the leader takes its place, which happens to followers only. A connection leaves some
when it ends, 2 kB or, when its client hung up before the answer, 10 kB. That is why little is never
set apart: each connection that is open at that moment is kept, for a day.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal

from seamfill.clock import Clock

__all__ = ["GarbageCollection"]

_APART_MS: Final = 60_000
_PUT_OFF_MS: Final = 24 * 3_600_000
_OLDEST: Final = 2
"""The generation whose collection is a full one: of all that is not set apart."""
_MUCH: Final = 50_000
"""So many containers are walked in some 15 ms. As many may come until the next full collection."""


class GarbageCollection:
    """This process's collections, while the block runs. A process has one collector."""

    def __init__(self, *, is_following: Callable[[], bool], clock: Clock) -> None:
        """``is_following`` is asked in the middle of anything: it may only look."""
        self._is_following = is_following
        self._clock = clock
        self._thorough_ms = clock.monotonic_ms()

    def __enter__(self) -> None:
        gc.freeze()
        gc.callbacks.append(self._about)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gc.callbacks.remove(self._about)
        gc.unfreeze()

    def _about(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        """Hear of the beginning and the end of each collection."""
        if info["generation"] != _OLDEST:
            return
        if phase == "stop":
            if len(gc.get_objects()) > _MUCH:
                gc.freeze()
        elif self._is_thorough_due():
            self._thorough_ms = self._clock.monotonic_ms()
            gc.unfreeze()

    def _is_thorough_due(self) -> bool:
        apart_ms = _APART_MS if self._is_following() else _PUT_OFF_MS
        return self._clock.monotonic_ms() - self._thorough_ms >= apart_ms
