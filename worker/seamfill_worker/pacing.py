"""When the next request to a venue may go out.

Owns the local share of a venue's budget. Must not know HTTP or who asks. Pure: time comes in as
monotonic milliseconds, the answer is how long to wait.

The cluster hands out weight with each lease; that part was paid for before the request, so it goes
out at once. What a window needs beyond its grant (probes of a hole, repeated pages) is taken from a
small local reserve. Above both stands the venue's own counter: it sees every client behind our
address, also those that are not ours.

Invariant: while ``held_until_ms`` lies ahead nothing is admitted, granted or not.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Pacer"]

_MINUTE_MS: Final = 60_000
# Beyond this share of the venue's limit its counter is believed rather than our arithmetic.
_FULL_PERCENT: Final = 95
# What one process may use beyond its grants: a twentieth of the venue's budget.
_RESERVE_SHARE: Final = 20


class Pacer:
    """Admit requests of one venue in one process. ``weight_per_minute`` 0 means no budget."""

    def __init__(self, *, weight_per_minute: int, page_weight: int) -> None:
        self._limit = weight_per_minute
        # At least two pages, else one probe could never be admitted on a small budget.
        self._reserve_max = float(max(weight_per_minute // _RESERVE_SHARE, 2 * page_weight))
        self._reserve = self._reserve_max
        self._refilled_at_ms: int | None = None
        self._held_until_ms = 0

    def wait_ms(self, *, weight: int, granted: bool, now_ms: int) -> int:
        """Return 0 and book the weight, or return how long to wait before asking again."""
        if now_ms < self._held_until_ms:
            return self._held_until_ms - now_ms
        if self._limit == 0 or granted:
            return 0
        self._refill(now_ms)
        # A request heavier than the whole reserve is admitted when the reserve is full.
        needed = min(float(weight), self._reserve_max)
        if self._reserve >= needed:
            self._reserve -= needed
            return 0
        return max(1, int((needed - self._reserve) / self._refill_per_ms()) + 1)

    def observed(self, *, used_weight: int, server_time_ms: int, now_ms: int) -> None:
        """Believe the venue's counter of the current minute, which turns with the venue's clock."""
        if self._limit and used_weight * 100 >= self._limit * _FULL_PERCENT:
            self.hold(_MINUTE_MS - server_time_ms % _MINUTE_MS, now_ms=now_ms)

    def hold(self, delay_ms: int, *, now_ms: int) -> None:
        """Let nothing out for ``delay_ms``: the venue said so. Holds never shorten each other."""
        self._held_until_ms = max(self._held_until_ms, now_ms + delay_ms)

    def _refill_per_ms(self) -> float:
        return self._reserve_max / _MINUTE_MS

    def _refill(self, now_ms: int) -> None:
        if self._refilled_at_ms is not None:
            gained = (now_ms - self._refilled_at_ms) * self._refill_per_ms()
            self._reserve = min(self._reserve_max, self._reserve + gained)
        self._refilled_at_ms = now_ms
