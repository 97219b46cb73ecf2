"""What a node says of itself and of the cluster: ``/v1/cluster`` and the probes.

Owns these answers. They work without a leader: they are this node's own view, and say so.

Invariants: ``/livez`` depends on nothing but the event loop; a node is ready only when a barrier of
the current term was applied here and a quorum is there; asking peers takes half a second at most.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import Final

from seamfill import __version__
from seamfill.protocol.cluster import (
    Check,
    ClusterAnswer,
    HealthAnswer,
    MemberView,
    ReadyAnswer,
    SnapshotAnswer,
)
from seamfill.protocol.values import Body
from seamfill_coordinator.calls import Answer, Incoming
from seamfill_coordinator.http.endpoints import Node
from seamfill_coordinator.machine import views
from seamfill_coordinator.problems import Refused, problem
from seamfill_coordinator.replication import ReplicaStatus, Role, SnapshotNotSaved

__all__ = ["ClusterQuery", "ReadyQuery", "cluster", "health", "livez", "readyz", "save_snapshot"]

LEAST_FREE_BYTES: Final = 64 << 20
SNAPSHOT_TIMEOUT_MS: Final = 60_000
"""Writing the largest state takes a few seconds, between the turns of a busy node."""


class ClusterQuery(Body, frozen=True):
    """``peers=false`` leaves out asking the other members."""

    peers: bool = True


class ReadyQuery(Body, frozen=True):
    """``?verbose`` lists the checks (a failed one is always listed)."""

    verbose: str | None = None


async def cluster(node: Node, incoming: Incoming) -> Answer:
    """Return this node's view, and how each peer it can reach sees itself."""
    service, status = node.service, node.service.replica.status()
    peers = await _peers(node, status) if incoming.query_as(ClusterQuery).peers else ()
    machine = service.replica.machine
    leader = status.leader_id
    leader_url = None if leader is None else service.url_of(leader)
    body = ClusterAnswer(
        cluster_id=status.cluster_id,
        node_id=status.node_id,
        leader=leader,
        leader_url=leader_url,
        term=status.term,
        rev=machine.rev,
        clock_ms=machine.clock_ms,
        quorum=status.members // 2 + 1,
        ready=_is_ready(status),
        self_view=_self_view(node, status),
        peers=peers,
        leases=views.lease_counts(machine),
        backfills=views.backfill_counts(machine),
    )
    return Answer(status=200, body=body)


async def save_snapshot(node: Node, incoming: Incoming) -> Answer:
    """Have this node, leader or not, write a snapshot of all that it has applied."""
    try:
        saved = await node.service.replica.save_snapshot(timeout_ms=SNAPSHOT_TIMEOUT_MS)
    except SnapshotNotSaved as exc:
        raise Refused(problem("snapshot_not_saved", exc.message)) from exc
    body = SnapshotAnswer(
        node_id=node.facts.node_id,
        last_index=saved.last_index,
        last_term=saved.last_term,
        bytes=saved.size,
        file=str(saved.path),
    )
    return Answer(status=200, body=body)


async def _peers(node: Node, status: ReplicaStatus) -> tuple[MemberView, ...]:
    others = sorted(peer.node_id for peer in status.peers)
    asked = [node.peers.view_of(peer, node.service.url_of(peer)) for peer in others]
    return tuple(await asyncio.gather(*asked))


def _self_view(node: Node, status: ReplicaStatus) -> MemberView:
    digests = {str(index): digest for index, digest in sorted(status.digests.items())}
    digest_index = max(status.digests, default=None)
    return MemberView(
        id=status.node_id,
        url=node.public_url,
        role=status.role.value,
        healthy=_is_ready(status),
        term=status.term,
        applied_index=status.applied_index,
        commit_index=status.commit_index,
        last_index=status.last_index,
        state_digest=None if digest_index is None else status.digests[digest_index],
        digest_index=digest_index,
        digests=digests,
        version=__version__,
        disk_free_bytes=_free_bytes(node),
        journal_bytes=status.journal_bytes,
        uptime_s=(node.clock.monotonic_ms() - node.started_ms) / 1000,
    )


def _is_ready(status: ReplicaStatus) -> bool:
    return status.ready and status.has_quorum and status.leader_id is not None


def _free_bytes(node: Node) -> int | None:
    try:
        return shutil.disk_usage(node.facts.data_dir).free
    except OSError:
        return None


# ── Probes ───────────────────────────────────────────────────────────────────────────────────────


async def livez(node: Node, incoming: Incoming) -> Answer:
    """Return 200: whoever reads this knows that the loop turns."""
    return Answer(status=200, body=HealthAnswer(status="ok", node_id=node.facts.node_id))


async def readyz(node: Node, incoming: Incoming) -> Answer:
    """Return 200 when this node serves requests, else 503 with the checks that failed."""
    checks = _checks(node)
    ok = all(check.ok for check in checks)
    verbose = incoming.query_as(ReadyQuery).verbose
    shown = checks if verbose not in (None, "false", "0") else _failed(checks)
    body = ReadyAnswer(status="ok" if ok else "fail", checks=shown)
    return Answer(status=200 if ok else 503, body=body)


async def health(node: Node, incoming: Incoming) -> Answer:
    """Return what ``/readyz`` says, in the one word that existing clients look for."""
    ok = not _failed(_checks(node))
    body = HealthAnswer(status="ok" if ok else "fail", node_id=node.facts.node_id)
    return Answer(status=200 if ok else 503, body=body)


def _failed(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    return tuple(check for check in checks if not check.ok)


def _checks(node: Node) -> tuple[Check, ...]:
    status = node.service.replica.status()
    free_bytes = _free_bytes(node)
    connected = sum(peer.connected for peer in status.peers)
    return (
        Check(
            name="leader",
            ok=status.leader_id is not None,
            detail=status.leader_id or "no leader is known",
        ),
        Check(
            name="quorum",
            # A follower knows of the quorum through its leader; what it sees of other followers
            # says nothing.
            ok=status.has_quorum,
            detail=f"{status.members} members",
        ),
        Check(
            name="barrier",
            ok=status.ready,
            detail=f"term {status.term}, applied {status.applied_index} of {status.commit_index}",
        ),
        Check(
            name="disk",
            ok=free_bytes is not None and free_bytes >= LEAST_FREE_BYTES,
            detail="unknown" if free_bytes is None else f"{free_bytes >> 20} MiB free",
        ),
        Check(
            name="peers",
            ok=status.role is not Role.LEADER or connected + 1 > status.members // 2,
            detail=f"{connected} of {len(status.peers)} connected",
        ),
        Check(name="draining", ok=not node.closing.is_set(), detail=""),
    )
