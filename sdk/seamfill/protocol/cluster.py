"""Bodies of ``/v1/cluster``, ``/v1/workers``, ``/v1/sources``, ``/v1/sessions`` and the probes."""

from __future__ import annotations

from typing import Literal

from seamfill.protocol.values import Answer, Count, Part

__all__ = [
    "BackfillCounts",
    "Check",
    "ClusterAnswer",
    "HealthAnswer",
    "LeaseCounts",
    "MemberView",
    "ReadyAnswer",
    "SessionAnswer",
    "SnapshotAnswer",
    "SourceAnswer",
    "SourceView",
    "SourcesAnswer",
    "WorkerAnswer",
    "WorkerView",
    "WorkersAnswer",
]


class MemberView(Part, frozen=True):
    """One coordinator node, as itself tells; unreachable ones keep what is known of them."""

    id: str
    url: str | None
    role: Literal["leader", "follower", "candidate", "unknown"]
    healthy: bool
    term: int | None = None
    applied_index: int | None = None
    commit_index: int | None = None
    last_index: int | None = None
    state_digest: str | None = None
    digest_index: int | None = None
    digests: dict[str, str] | None = None
    """The last few digest points, index → digest, so that members are compared at a common one."""
    version: str | None = None
    disk_free_bytes: int | None = None
    journal_bytes: int | None = None
    uptime_s: float | None = None


class LeaseCounts(Part, frozen=True):
    live: Count
    lock_delay: Count
    waiting: Count
    compatibility: Count
    granted_total: Count
    expired_total: Count
    regranted_total: Count
    stale_fence_total: Count


class BackfillCounts(Part, frozen=True):
    active: Count
    paused: Count
    complete: Count
    incomplete: Count
    cancelled: Count
    bars_wanted: Count
    bars_verified: Count
    bars_gap: Count
    bars_violated: Count


class ClusterAnswer(Answer, frozen=True):
    """This node's own view of the cluster; answered without a leader too, and says so."""

    cluster_id: str
    node_id: str
    leader: str | None
    leader_url: str | None
    term: int
    rev: Count
    clock_ms: Count
    quorum: int
    ready: bool
    self_view: MemberView
    peers: tuple[MemberView, ...]
    leases: LeaseCounts
    backfills: BackfillCounts
    recovery: int = 0
    machine_version: int = 1


class WorkerView(Part, frozen=True):
    id: str
    state: Literal["alive", "idle", "dead", "draining"]
    leases: Count
    last_seen_ms: Count
    """How long ago the worker was heard, on the lease clock."""
    completed_total: Count
    failed_total: Count
    boot: str = ""


class WorkerAnswer(Answer, frozen=True):
    worker: WorkerView


class WorkersAnswer(Answer, frozen=True):
    workers: tuple[WorkerView, ...]


class SnapshotAnswer(Answer, frozen=True):
    """A snapshot that is durable on the disk of the node that answered."""

    node_id: str
    last_index: int
    last_term: int
    bytes: Count
    file: str
    """Its path on that node."""


class SourceView(Part, frozen=True):
    source: str
    paused: bool
    weight_per_minute: Count
    weight_available: Count
    breaker_remaining_ms: Count
    last_status: int | None = None


class SourceAnswer(Answer, frozen=True):
    source: SourceView


class SourcesAnswer(Answer, frozen=True):
    sources: tuple[SourceView, ...]


class SessionAnswer(Answer, frozen=True):
    client: str
    expires_after_ms: int


class Check(Part, frozen=True):
    name: str
    ok: bool
    detail: str = ""


class ReadyAnswer(Answer, frozen=True):
    status: Literal["ok", "fail"]
    checks: tuple[Check, ...] = ()


class HealthAnswer(Answer, frozen=True):
    status: Literal["ok", "fail"]
    node_id: str
