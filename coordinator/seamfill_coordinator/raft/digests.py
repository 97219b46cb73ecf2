"""State digests at agreed points of the log, so that members can be compared.

Owns which digests are kept. Must not know Raft: it is told indexes.

Invariant: a kept digest belongs to the state after exactly its index was applied, on every node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["DIGEST_EVERY", "DigestPoints"]

DIGEST_EVERY: Final = 64
"""Applied indexes between two digest points; part of what members agree on."""
_KEPT: Final = 16


class DigestPoints:
    """The last few digest points of one node."""

    def __init__(self, digest: Callable[[], str]) -> None:
        self._digest = digest
        self._points: dict[int, str] = {}
        self._newest = 0

    def reached(self, applied_index: int) -> None:
        """Note that the state is now the one after ``applied_index``.

        Entries that do not touch the machine (a new leader's first one) pass without a call: the
        point that lies behind them is taken before the state changes again, hence is the same.
        """
        point = applied_index - applied_index % DIGEST_EVERY
        if point <= self._newest:
            return
        self._newest = point
        self._points[point] = self._digest()
        if len(self._points) > _KEPT:
            del self._points[next(iter(self._points))]

    def restart_from(self, digest: Callable[[], str], index: int) -> None:
        """Go on with another state, the one after ``index``; older points stay true."""
        self._digest = digest
        self._newest = index - index % DIGEST_EVERY
        if index == self._newest:
            self._newest -= 1
            self.reached(index)

    def points(self) -> dict[int, str]:
        """Return index → digest, oldest first."""
        return dict(self._points)
