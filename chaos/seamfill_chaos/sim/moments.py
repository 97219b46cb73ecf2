"""What a set of runs must have met before it proves anything.

Owns the list. Pure. Must not know how a moment comes about: every event of a run's trace is
counted under its name, and so is every event of the lease machine, once per index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["REQUIRED", "SEEDS_FOR_ALL", "missing_moments"]

SEEDS_FOR_ALL: Final = 300
"""A set of so many runs must have met all of them; fewer may miss the rare ones."""

REQUIRED: Final = {
    "replica.reign_began": "a leader was elected",
    "replica.reign_ended": "a leader that lived lost its term",
    "log.truncated": "a follower's entries were truncated",
    "journal.torn_group_cut": "a torn group was cut off a journal",
    "snapshot.written": "a snapshot was written",
    "snapshot.installed": "a node was brought up by a snapshot",
    "claim.expired": "a claim expired",
    "lease.expired": "a lease expired",
    "operation.repeated": "an outcome in doubt was found in its session",
    "operation.stale_refused": "a stale token was refused",
    "operation.unknown": "a caller gave up without knowing",
    "network.superseded": "a newer connection met an older one",
    "network.swallowed": "bytes were lost in a cut and came later",
    "peer.silent": "a silent connection was given up",
    "node.killed": "a process was killed",
    "node.lost_power": "a machine lost its power",
    "node.ends_itself": "a node ended itself because of its disk",
    "node.start_refused": "a damaged node refused to start",
    "node.wiped": "a node lost all its data",
    "disk.killed": "a process ended between two changes of its disk",
    "disk.power_lost": "the power went between two changes of a disk",
    "fault.crash_voter": "a node ended right after it had voted",
    "fault.pause": "a process was paused",
    "fault.one_way": "a link was cut in one direction",
    "fault.flap": "a link broke and mended again and again",
    "fault.slow_link": "a follower was slow",
    "fault.wall_jump": "a wall clock jumped",
    "operator.brought_back": "a member's new life became a voter",
}
"""Event → what it means."""


def missing_moments(moments: Mapping[str, int], *, runs: int) -> list[str]:
    """Return what that many runs should have met and did not. Few runs may miss any."""
    if runs < SEEDS_FOR_ALL:
        return []
    return [f"{name} ({what})" for name, what in REQUIRED.items() if not moments.get(name)]
