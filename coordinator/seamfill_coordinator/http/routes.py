"""The route table: every address of the API, once.

Owns which call stands behind which address. Routing, decoding, OpenAPI and the metrics' labels are
all made from it.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from seamfill.protocol import backfills as backfill_bodies
from seamfill.protocol import cluster as cluster_bodies
from seamfill.protocol import compat as compat_bodies
from seamfill.protocol import leases as lease_bodies
from seamfill_coordinator.calls import Mutation, Read
from seamfill_coordinator.http import (
    backfills,
    compatibility,
    lookups,
    native_leases,
)
from seamfill_coordinator.http import cluster as this_node
from seamfill_coordinator.http.endpoints import Alternative, Endpoint, Local, Nothing, Streamed
from seamfill_coordinator.http.metrics import METRICS_CONTENT_TYPE, metrics_text
from seamfill_coordinator.http.watch import watch
from seamfill_coordinator.service import OPEN_SESSION

__all__ = ["ALIAS_PREFIX", "ENDPOINTS"]

ALIAS_PREFIX: Final = "/v1"
"""``/v1/v1/leases/…``: a runbook in the field writes the version twice."""


def _post(
    path: str,
    name: str,
    summary: str,
    *alternatives: Alternative,
    has_ratio: bool = False,
) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        name=name,
        tag=path.split("/")[2],
        summary=summary,
        alternatives=alternatives,
        has_ratio=has_ratio,
    )


def _get(
    path: str,
    name: str,
    summary: str,
    call: Read | Local | Streamed,
    answer: type[Struct] | None,
    *,
    query: type[Struct] = Nothing,
    probe: bool = False,
) -> Endpoint:
    return Endpoint(
        method="GET",
        path=path,
        name=name,
        tag=path.split("/")[2] if path.startswith("/v1/") else "node",
        summary=summary,
        alternatives=(Alternative(body=Nothing, call=call, answer=answer),),
        query=query,
        is_probe=probe,
    )


def _takes(body: type[Struct], call: Mutation | Read, answer: type[Struct]) -> Alternative:
    return Alternative(body=body, call=call, answer=answer)


_LEASES: Final = (
    _post(
        "/v1/leases/acquire",
        "acquireLeases",
        "Be granted up to max_windows windows; waits up to wait_ms when there is nothing to do.",
        _takes(lease_bodies.AcquireRequest, native_leases.ACQUIRE, lease_bodies.AcquireAnswer),
    ),
    _post(
        "/v1/leases/renew",
        "renewLeases",
        "Extend leases and leave cursors for the next holders.",
        _takes(lease_bodies.RenewRequest, native_leases.RENEW, lease_bodies.ResultsAnswer),
    ),
    _post(
        "/v1/leases/complete",
        "completeLeases",
        "Report what was fetched, written and read back. With {key, token}: finish a "
        "compatibility claim.",
        _takes(lease_bodies.CompleteRequest, native_leases.COMPLETE, lease_bodies.ResultsAnswer),
        _takes(
            compat_bodies.FinishRequest,
            compatibility.COMPLETE_CLAIM,
            compat_bodies.FinishAnswer,
        ),
        has_ratio=True,
    ),
    _post(
        "/v1/leases/fail",
        "failLeases",
        "Give leases up with a reason. With {key, token}: give a compatibility claim up.",
        _takes(lease_bodies.FailRequest, native_leases.FAIL, lease_bodies.ResultsAnswer),
        _takes(
            compat_bodies.FailClaimRequest, compatibility.FAIL_CLAIM, compat_bodies.FinishAnswer
        ),
        has_ratio=True,
    ),
    _post(
        "/v1/leases/release",
        "releaseLeases",
        "Give leases back without using an attempt.",
        _takes(lease_bodies.ReleaseRequest, native_leases.RELEASE, lease_bodies.ResultsAnswer),
    ),
    _post(
        "/v1/leases/snooze",
        "snoozeLeases",
        "Give leases back until later.",
        _takes(lease_bodies.SnoozeRequest, native_leases.SNOOZE, lease_bodies.ResultsAnswer),
    ),
    _post(
        "/v1/leases/revoke",
        "revokeLeases",
        "Operator: end leases now.",
        _takes(lease_bodies.RevokeRequest, native_leases.REVOKE, lease_bodies.ResultsAnswer),
    ),
    _post(
        "/v1/leases/claim",
        "claimLease",
        "Claim a compatibility key.",
        _takes(compat_bodies.ClaimRequest, compatibility.CLAIM, compat_bodies.ClaimAnswer),
        has_ratio=True,
    ),
    _post(
        "/v1/leases/inspect",
        "inspectLeaseByPost",
        "Say what is known about a key.",
        _takes(compatibility.InspectRequest, compatibility.INSPECT, compat_bodies.InspectAnswer),
    ),
    _get(
        "/v1/leases/inspect",
        "inspectLease",
        "Say what is known about a key.",
        compatibility.INSPECT,
        compat_bodies.InspectAnswer,
        query=compatibility.InspectRequest,
    ),
    _get(
        "/v1/leases/explain",
        "explainBar",
        "Say why a bar is not being worked on, or who is working on it.",
        lookups.EXPLAIN,
        lease_bodies.LeaseExplanation,
        query=lookups.ExplainQuery,
    ),
    _get(
        "/v1/leases",
        "listLeases",
        "List leases, native and compatibility.",
        lookups.LIST_LEASES,
        lease_bodies.LeasesAnswer,
        query=lookups.LeasesQuery,
    ),
)

_BACKFILLS: Final = (
    _post(
        "/v1/backfills",
        "submitBackfill",
        "Ask for ranges of a dataset to be filled; safe to repeat with the same id.",
        _takes(backfill_bodies.BackfillRequest, backfills.SUBMIT, backfill_bodies.BackfillPlan),
    ),
    _get(
        "/v1/backfills",
        "listBackfills",
        "List backfills with their progress.",
        backfills.LIST_BACKFILLS,
        backfill_bodies.BackfillsAnswer,
        query=backfills.BackfillsQuery,
    ),
    _get(
        "/v1/backfills/{id}",
        "getBackfill",
        "Show one backfill's progress.",
        backfills.GET_BACKFILL,
        backfill_bodies.BackfillAnswer,
    ),
    _get(
        "/v1/backfills/{id}/watch",
        "watchBackfill",
        "Server-sent events: progress whenever it changes, then finished.",
        Streamed(handle=watch, content_type="text/event-stream"),
        None,
    ),
    *(
        _post(
            f"/v1/backfills/{{id}}/{verb}",
            f"{verb}Backfill",
            summary,
            _takes(Nothing, call, backfill_bodies.BackfillAnswer),
        )
        for verb, summary, call in (
            ("pause", "Grant nothing more of this backfill until it is resumed.", backfills.PAUSE),
            ("resume", "Go on with a paused backfill.", backfills.RESUME),
            ("cancel", "End a backfill; work that nobody else wants stops.", backfills.CANCEL),
        )
    ),
    _post(
        "/v1/backfills/{id}/retry",
        "retryBackfill",
        "Submit the same ranges again, redoing what could not be filled.",
        _takes(backfill_bodies.RetryRequest, backfills.RETRY, backfill_bodies.BackfillPlan),
    ),
)

_FACTS: Final = (
    _get(
        "/v1/coverage",
        "getCoverage",
        "What is covered, what is proved absent and why, what failed, what is in flight.",
        lookups.COVERAGE,
        backfill_bodies.CoverageAnswer,
        query=lookups.CoverageQuery,
    ),
    _get(
        "/v1/violations",
        "listViolations",
        "Bars that could be neither filled nor proved absent.",
        lookups.LIST_VIOLATIONS,
        backfill_bodies.ViolationsAnswer,
        query=lookups.ViolationsQuery,
    ),
    _get(
        "/v1/workers",
        "listWorkers",
        "Workers the cluster has heard of.",
        lookups.LIST_WORKERS,
        cluster_bodies.WorkersAnswer,
    ),
    _post(
        "/v1/workers/{id}/drain",
        "drainWorker",
        "Grant a worker nothing more, and tell it to finish.",
        _takes(Nothing, lookups.DRAIN_WORKER, cluster_bodies.WorkerAnswer),
    ),
    _get(
        "/v1/sources",
        "listSources",
        "Sources with their budgets and breakers.",
        lookups.LIST_SOURCES,
        cluster_bodies.SourcesAnswer,
    ),
    _post(
        "/v1/sources/{id}/pause",
        "pauseSource",
        "Grant nothing that is fetched from this source.",
        _takes(Nothing, lookups.PAUSE_SOURCE, cluster_bodies.SourceAnswer),
    ),
    _post(
        "/v1/sources/{id}/resume",
        "resumeSource",
        "Grant again what is fetched from this source.",
        _takes(Nothing, lookups.RESUME_SOURCE, cluster_bodies.SourceAnswer),
    ),
)

_NODE: Final = (
    _get(
        "/v1/cluster",
        "getCluster",
        "This node's view of the cluster, and how its peers see themselves; needs no leader.",
        Local(handle=this_node.cluster),
        cluster_bodies.ClusterAnswer,
        query=this_node.ClusterQuery,
    ),
    _post(
        "/v1/cluster/snapshot",
        "saveSnapshot",
        "Have this node write a snapshot of all that it has applied; needs no leader.",
        Alternative(
            body=Nothing,
            call=Local(handle=this_node.save_snapshot),
            answer=cluster_bodies.SnapshotAnswer,
        ),
    ),
    _post(
        "/v1/sessions",
        "openSession",
        "Open a session, under which requests may be repeated safely.",
        _takes(Nothing, OPEN_SESSION, cluster_bodies.SessionAnswer),
    ),
    _get(
        "/livez",
        "livez",
        "The process turns.",
        Local(handle=this_node.livez),
        cluster_bodies.HealthAnswer,
    ),
    _get(
        "/readyz",
        "readyz",
        "The node serves requests.",
        Local(handle=this_node.readyz),
        cluster_bodies.ReadyAnswer,
        query=this_node.ReadyQuery,
        probe=True,
    ),
    *(
        _get(
            path,
            path.removeprefix("/"),
            "The node serves requests (for existing clients).",
            Local(handle=this_node.health),
            cluster_bodies.HealthAnswer,
            probe=True,
        )
        for path in ("/healthz", "/health")
    ),
    _get(
        "/metrics",
        "metrics",
        "Prometheus metrics of this node.",
        Streamed(handle=metrics_text, content_type=METRICS_CONTENT_TYPE.split(";")[0]),
        None,
    ),
)

ENDPOINTS: Final[tuple[Endpoint, ...]] = (*_LEASES, *_BACKFILLS, *_FACTS, *_NODE)
