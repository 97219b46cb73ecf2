"""Says who was refused at the peer port, without letting strangers fill the log.

Owns how many lines a second that may be. Must not know why anybody is refused.
"""

from __future__ import annotations

import logging
from typing import Final

from seamfill.logs import log_event

__all__ = ["REFUSALS_PER_WINDOW", "WINDOW_S", "RefusalLog"]

WINDOW_S: Final = 10.0
REFUSALS_PER_WINDOW: Final = 10
_DETAIL_CHARACTERS: Final = 200


class RefusalLog:
    """Logs ``peer.refused``, at most ten in ten seconds; the first one after tells how many more
    there were."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._window_ends_s = float("-inf")
        self._lines = 0
        self._unsaid = 0

    def refused(self, reason: str, address: str, detail: str, *, now_s: float) -> None:
        """``detail`` may be the stranger's own words; they are quoted and cut."""
        if now_s >= self._window_ends_s:
            self._window_ends_s = now_s + WINDOW_S
            self._lines = 0
        if self._lines >= REFUSALS_PER_WINDOW:
            self._unsaid += 1
            return
        self._lines += 1
        unsaid, self._unsaid = self._unsaid, 0
        log_event(
            self._log,
            "peer.refused",
            level=logging.WARNING,
            reason=reason,
            address=address,
            detail=ascii(detail[:_DETAIL_CHARACTERS]),
            refused_unlogged=unsaid,
        )
