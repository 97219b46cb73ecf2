"""When to ask for an election, and whom to let have one.

Owns the election timer and the pre-vote (Ongaro's thesis, 9.6). Pure: time and chance are handed
in. Must not know the log, or how a vote is cast (pysyncobj's core does that).

pysyncobj calls an election whenever its own deadline has passed, with a new term: one node that
hears nobody burns a term every half second, and deposes a healthy leader the moment it is heard
again. Here its deadline never comes. A node first asks whether it *would* be elected, which changes
no term anywhere, and campaigns only when a majority says yes. Who hears a leader says no.

Invariants: nobody campaigns without the pre-vote of a majority for exactly the term it will use;
no leader that a majority hears loses its term to an election.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from seamfill_coordinator.raft.timing import RaftTiming

__all__ = ["Elections"]

_NEVER_MS: Final = -(1 << 62)


class Elections:
    """The election timer of one node."""

    def __init__(
        self, timing: RaftTiming, *, now_ms: int, draw: Callable[[float, float], float]
    ) -> None:
        """``draw(low, high)`` returns a number between, by chance."""
        self._timing = timing
        self._draw = draw
        self._heard_ms = _NEVER_MS
        self._asked_term: int | None = None
        self._granted: set[str] = set()
        self._timeout_ms = 0
        self.deadline_ms = 0
        """When the node should ask for an election, unless it hears a leader before."""
        self._wind_up(now_ms)

    # The timer

    def heard_leader(self, now_ms: int) -> bool:
        """Note a word of the present leader; return whether one was followed before."""
        was_following = now_ms - self._heard_ms < self._timing.election_max_ms
        self._heard_ms = now_ms
        self._asked_term = None
        # The timeout was left to chance when the one before was used up, which is as good as now.
        self.deadline_ms = now_ms + self._timeout_ms
        return was_following

    def lost_leader(self, now_ms: int, *, place: int, followers: int) -> None:
        """Note that the connection to the leader broke: it is more likely dead than slow.

        All followers hear of it in the same millisecond. Each has a slot of its own, by its
        ``place`` among them, half of it left to chance: drawn from one range, two of thirty
        elections were split.
        """
        timing = self._timing
        self._heard_ms = _NEVER_MS
        share = (place + self._draw(0, 0.5)) / followers
        slots_ms = timing.lost_leader_max_ms - timing.lost_leader_min_ms
        soon_ms = now_ms + timing.lost_leader_min_ms + round(share * slots_ms)
        self.deadline_ms = min(self.deadline_ms, soon_ms)

    def voted(self, now_ms: int) -> None:
        """Note a vote for somebody else: that election deserves its time."""
        self._asked_term = None
        self._wind_up(now_ms)

    def hears_leader(self, now_ms: int) -> bool:
        """Whether a leader spoke within the shortest election timeout."""
        return now_ms - self._heard_ms < self._timing.election_min_ms

    def is_following(self, now_ms: int) -> bool:
        """Whether a leader spoke within the longest election timeout."""
        return now_ms - self._heard_ms < self._timing.election_max_ms

    def is_due(self, now_ms: int) -> bool:
        return now_ms >= self.deadline_ms

    # The pre-vote

    def ask(self, now_ms: int, *, term: int, me: str) -> None:
        """Begin a pre-vote for ``term``; ask again when it has not succeeded in time."""
        self._asked_term = term
        self._granted = {me}
        self._wind_up(now_ms)

    def count(self, node_id: str, term: int) -> None:
        """Count one granted pre-vote."""
        if term == self._asked_term:
            self._granted.add(node_id)

    def has_majority(self, voters: Collection[str], term: int) -> bool:
        """Whether the pre-vote for ``term`` succeeded among these voters."""
        if self._asked_term != term:
            return False
        return len(self._granted.intersection(voters)) > len(voters) // 2

    def campaigned(self) -> None:
        """Note that the pre-vote was used; it counts once."""
        self._asked_term = None

    def _wind_up(self, now_ms: int) -> None:
        timing = self._timing
        self._timeout_ms = round(self._draw(timing.election_min_ms, timing.election_max_ms))
        self.deadline_ms = now_ms + self._timeout_ms
