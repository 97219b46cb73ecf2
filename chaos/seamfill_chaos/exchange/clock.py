"""The exchange's clock: set to any time, it runs on from there in real time."""

from __future__ import annotations

import time
from collections.abc import Callable


def monotonic_ms() -> int:
    """Return the milliseconds of a clock that never jumps."""
    return time.monotonic_ns() // 1_000_000


class ExchangeClock:
    """Tell the exchange's time in milliseconds UTC. The wall clock has no part in it."""

    def __init__(self, now_ms: int, elapsed_ms: Callable[[], int] = monotonic_ms) -> None:
        self._elapsed_ms = elapsed_ms
        self._offset_ms = now_ms - elapsed_ms()

    def now_ms(self) -> int:
        """Return the exchange's time."""
        return self._offset_ms + self._elapsed_ms()

    def set(self, now_ms: int) -> None:
        """Continue from this time, which may lie in the past."""
        self._offset_ms = now_ms - self._elapsed_ms()
