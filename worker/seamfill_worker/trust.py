"""How long a worker may believe in a lease, by its own clock.

Owns the arithmetic of trust. Must not know coordinators, stores or what is done with a lease. Pure:
time comes in as monotonic milliseconds.

Invariants: trust never reaches past ``sent_at_ms + ttl_ms − margin_ms`` of the newest renewal that
was granted; a write that starts while trust holds has landed or died before ``deadline + lock
delay``, because its timeout is shorter than the lock delay (lease-machine.md, Time).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

__all__ = ["MARGIN_MS_MIN", "Trust"]

MARGIN_MS_MIN: Final = 500
# Two clocks that are both "monotonic" still drift apart; 1/20 of the ttl is far beyond any crystal
# and also pays for the moment between the check and the first byte of the write.
_MARGIN_SHARE: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Belief in one lease: writes may start before ``until_ms``; renew at ``renew_at_ms``."""

    until_ms: int
    renew_at_ms: int

    @classmethod
    def granted(cls, *, sent_at_ms: int, ttl_ms: int, renew_after_ms: int) -> Trust:
        """Count from when we *sent* the request, not from when the answer came.

        A slow reply must shorten our trust, never stretch it past the coordinator's deadline.
        """
        margin_ms = max(MARGIN_MS_MIN, ttl_ms // _MARGIN_SHARE)
        return cls(
            until_ms=sent_at_ms + ttl_ms - margin_ms, renew_at_ms=sent_at_ms + renew_after_ms
        )

    def holds(self, now_ms: int) -> bool:
        """Return whether a write may start now."""
        return now_ms < self.until_ms

    def remaining_ms(self, now_ms: int) -> int:
        """Return how long writes may still start; zero when trust has ended."""
        return max(0, self.until_ms - now_ms)

    def renewed(self, *, sent_at_ms: int, ttl_ms: int, renew_after_ms: int) -> Trust:
        """Extend by a granted renewal; answers that overtake each other never shorten trust."""
        newer = Trust.granted(sent_at_ms=sent_at_ms, ttl_ms=ttl_ms, renew_after_ms=renew_after_ms)
        return newer if newer.until_ms >= self.until_ms else replace(self)
