"""How fast the Raft shell beats: one frozen value, the same on all nodes of a cluster.

Owns the timing settings and their relations. Must not know who uses them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RaftTiming"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftTiming:
    """The defaults are those that met the recovery targets in simulation: the first commit after a
    killed leader within 1.2 s. Longer elections (0.8-1.6 s) missed it in a third of the kills."""

    election_min_ms: int = 300
    election_max_ms: int = 600
    lost_leader_min_ms: int = 150
    lost_leader_max_ms: int = 450
    """A follower whose connection to the leader broke calls an election so soon. A leader that
    lives is connected again (``reconnect_ms``) and heard (``heartbeat_ms``) before that."""
    heartbeat_ms: int = 50
    leader_fallback_ms: int = 600
    """A leader that heard no quorum for so long steps down."""
    idle_tick_ms: int = 250
    """After so much silence a leader commits an empty command, which moves the lease clock."""
    reconnect_ms: int = 100
    connection_timeout_ms: int = 2_000
    keepalive_ms: int = 500
    """Followers say nothing to each other between elections. Without a word now and then their
    connection counts as dead, and the first vote request of an election is lost with it."""
    slow_turn_ms: int = 100
    """A turn of the node, disk included, that took longer is logged."""
