"""One stay in leadership: its stamps, and the announcement it begins with.

Owns what a leader puts into the log of its own accord. Must not know how anything is committed.

Invariant: within one reign stamps carry one term, and their ``reign_ms`` never goes back.
"""

from __future__ import annotations

from typing import Final

from seamfill.clock import Clock
from seamfill_coordinator.machine.commands import Announce, Request, Stamp
from seamfill_coordinator.machine.outcomes import Done, Reply
from seamfill_coordinator.machine.steering import NEWEST_VERSION

__all__ = ["Reign", "announcement", "announcement_refused"]

_OLDEST_VERSION: Final = 1


class Reign:
    """Begins when it is built."""

    def __init__(self, *, term: int, clock: Clock) -> None:
        self.term = term
        self.is_announced = False
        self._clock = clock
        self._began_ms = clock.monotonic_ms()

    def stamp(self) -> Stamp:
        """Return the stamp of a command that is appended now."""
        return Stamp(
            term=self.term,
            reign_ms=max(self._clock.monotonic_ms() - self._began_ms, 0),
            wall_ms=self._clock.wall_ms(),
        )


def announcement(*, member: str, url: str, cluster_id: str) -> Request:
    """Return a reign's first request: who leads, where, and which versions it supports."""
    announce = Announce(
        member=member,
        url=url,
        cluster_id=cluster_id,
        version_min=_OLDEST_VERSION,
        version_max=NEWEST_VERSION,
    )
    return Request(operations=(announce,))


def announcement_refused(reply: Reply) -> str | None:
    """Return why the machine refused the announcement, None when it accepted."""
    (outcome,) = reply.outcomes
    return None if isinstance(outcome, Done) else str(outcome)
