"""What changes in a state when it begins another life than the one it was saved in.

Owns the numbers that must never be given out twice. Must not know files or members.

A restored state is older than what the world has seen: after the snapshot the old cluster granted
leases and opened sessions, whose numbers the restored one would give out again. So it counts on
from far beyond: a holder of a fence it does not know is answered StaleFence, and never meets a
younger lease with the same number.
"""

from __future__ import annotations

from typing import Final

from seamfill_coordinator.machine.model import State
from seamfill_coordinator.machine.tables import forget

__all__ = ["FENCE_JUMP", "begin_new_life"]

FENCE_JUMP: Final = 1 << 32
"""Further than any cluster comes between two snapshots: 136 years at one grant a second, and four
days at ten thousand."""


def begin_new_life(state: State, *, cluster_id: str) -> None:
    """Make ``state`` the beginning of another cluster.

    Live leases stay live: the lease clock stood still since the snapshot, and their holders may
    complete them. Members announce themselves anew.
    """
    state.cluster_id = cluster_id
    state.fence += FENCE_JUMP
    state.clients_issued += FENCE_JUMP
    for member in state.members.values():
        forget(state, member)
    state.members.clear()
