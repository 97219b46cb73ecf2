"""Time as a thing that is handed in, so that tests own it.

Owns the ``Clock`` protocol and the real clock. Must not know who waits for what.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Monotonic and wall time in ms, and sleeping."""

    def monotonic_ms(self) -> int:
        """Return milliseconds that never go back and also count while the machine sleeps."""
        ...

    def wall_ms(self) -> int:
        """Return epoch milliseconds UTC; may jump."""
        ...

    async def sleep_ms(self, delay_ms: float) -> None: ...


class SystemClock:
    """The machine's clocks. ``CLOCK_BOOTTIME`` where there is one: monotonic stops in suspend."""

    _SOURCE = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic_ms(self) -> int:
        return time.clock_gettime_ns(self._SOURCE) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep_ms(self, delay_ms: float) -> None:
        await asyncio.sleep(delay_ms / 1000)
