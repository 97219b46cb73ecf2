"""What the service needs of a replica, whatever stands behind it.

Owns the narrow interface between HTTP and consensus: propose, barrier, status, and being told what
was applied. Must not know pysyncobj (``raft/replica.py`` does) or HTTP. The stock-journal replica,
the durable one that replaces it, and the one-node replica of tests and of the SDK's local profile
all satisfy it, and pass the same contract suite.

Three kinds of "no", never merged: ``NotLeader`` and ``Overloaded`` (nothing was proposed, safe to
send elsewhere or later), ``ProposalOutcomeUnknown`` (it may still commit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from seamfill.errors import SeamfillError
from seamfill_coordinator.machine.commands import Request
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Reply

__all__ = [
    "NotLeader",
    "Overloaded",
    "PeerStatus",
    "ProposalOutcomeUnknown",
    "Replica",
    "ReplicaStatus",
    "Role",
    "SavedSnapshot",
    "SnapshotNotSaved",
]


class Role(StrEnum):
    """A member's part in its term."""

    LEADER = "leader"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"


class NotLeader(SeamfillError):
    """This node does not lead now; nothing was proposed."""

    code: ClassVar[str] = "not_leader"
    retryable: ClassVar[bool] = True

    def __init__(self, leader_id: str | None) -> None:
        super().__init__(f"not the leader; the leader is {leader_id or 'unknown'}")
        self.leader_id = leader_id


class Overloaded(SeamfillError):
    """Too many proposals are waiting; nothing was proposed. Come back a little later."""

    code: ClassVar[str] = "overloaded"
    retryable: ClassVar[bool] = True


class ProposalOutcomeUnknown(SeamfillError):
    """The proposal was handed to Raft and may still commit; ask again with the same identity."""

    code: ClassVar[str] = "outcome_unknown"
    retryable: ClassVar[bool] = True


class SnapshotNotSaved(SeamfillError):
    """This node wrote no snapshot now; the text says why. What it had is untouched."""

    code: ClassVar[str] = "snapshot_not_saved"
    retryable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSnapshot:
    """A durable snapshot on this node's disk."""

    last_index: int
    last_term: int
    size: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """What this node knows of another member."""

    node_id: str
    connected: bool
    match_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A moment of this node's replica. ``ready``: a barrier of the current term was applied here,
    so local reads are not older than that."""

    node_id: str
    cluster_id: str
    role: Role
    term: int
    leader_id: str | None
    has_quorum: bool
    ready: bool
    commit_index: int
    applied_index: int
    last_index: int
    members: int
    peers: tuple[PeerStatus, ...]
    journal_bytes: int
    digests: dict[int, str]
    """The last few digest points (multiples of 64 of the applied index) → state digest."""


class Replica(Protocol):
    """One node of the cluster. All methods belong to one event loop."""

    @property
    def machine(self) -> LeaseMachine:
        """The local copy, for reads behind a barrier; nobody but the replica changes it."""
        ...

    def status(self) -> ReplicaStatus: ...

    async def propose(self, request: Request, *, timeout_ms: int) -> Reply:
        """Commit a request and return its reply as applied here.

        Only a leader proposes. Raises ``NotLeader``, ``Overloaded`` or ``ProposalOutcomeUnknown``
        (also when ``timeout_ms`` has passed). Concurrent requests share one Raft command.
        """
        ...

    async def barrier(self, *, timeout_ms: int) -> None:
        """Return when everything acknowledged before this call is applied here (leader only).

        Concurrent callers share one barrier. Raises like ``propose``.
        """
        ...

    def on_applied(self, listener: Callable[[Applied], None]) -> None:
        """Call ``listener`` after each applied command, in order; it must not raise or block."""
        ...

    async def save_snapshot(self, *, timeout_ms: int) -> SavedSnapshot:
        """Return a snapshot of all that was applied here when this was called, or of more.

        Any node can, leader or not. Raises ``SnapshotNotSaved``.
        """
        ...

    async def wait_for_leader(self, *, timeout_ms: int) -> str | None:
        """Return the leader's id as soon as one is known, or None when the time has passed."""
        ...
