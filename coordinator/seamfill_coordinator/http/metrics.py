"""``/metrics``: what a node counts and measures, for Prometheus.

Owns the names (public API; listed in ``docs/reference/metrics.md``) and the bounds of their labels.

Invariants: every label's values are bounded; what the cluster did (grants, expiries) is counted by
the node that led when it was applied, so a sum over nodes counts it once and a replayed log not at
all; a series about a lease exists only while the lease lives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from seamfill import __version__
from seamfill.lease_key import OpaqueKey, RangeKey, parse_lease_key
from seamfill_coordinator.calls import Incoming
from seamfill_coordinator.http.endpoints import Node
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.outcomes import Applied, Event
from seamfill_coordinator.replication import Role
from seamfill_coordinator.service import Coordinator

__all__ = ["METRICS_CONTENT_TYPE", "Metrics", "metrics_text"]

METRICS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_LEASE_SERIES: Final = 1_000
_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0)


class Metrics:
    """The metrics of one node, in a registry of their own (two nodes may share a process)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.watchers = 0
        self._requests = Counter(
            "coordinator_http_requests",
            "Requests answered.",
            ("operation", "status"),
            registry=self.registry,
        )
        self._duration = Histogram(
            "coordinator_http_request_duration_seconds",
            "From the request's head to the answer's end; long polls included.",
            ("operation",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._granted = Counter(
            "coordinator_lease_granted",
            "Leases granted while this node led.",
            ("kind",),
            registry=self.registry,
        )
        self._expired = Counter(
            "coordinator_lease_expired",
            "Leases that ended by expiry while this node led.",
            ("reason",),
            registry=self.registry,
        )
        self._completed = Counter(
            "coordinator_lease_completed",
            "Completions accepted while this node led.",
            registry=self.registry,
        )
        self._stale = Counter(
            "coordinator_lease_stale_fence",
            "Calls refused while this node led because their lease had ended.",
            registry=self.registry,
        )

    def attach(self, service: Coordinator) -> None:
        """Start counting what this node's replica applies, and measure it when asked."""
        self.registry.register(_State(self, service))

        def count(applied: Applied) -> None:
            if applied.events and _counts(service):
                self._count(applied.events)

        service.replica.on_applied(count)

    def observe_request(self, operation: str, status: int, seconds: float) -> None:
        self._requests.labels(operation, str(status)).inc()
        self._duration.labels(operation).observe(seconds)

    def _count(self, events: Iterable[Event]) -> None:
        for event in events:
            match event.name:
                case "lease.granted":
                    self._granted.labels("native").inc()
                case "claim.granted":
                    self._granted.labels("compatibility").inc()
                case "lease.expired":
                    self._expired.labels("ttl").inc()
                case "claim.expired":
                    self._expired.labels("claim_ttl").inc()
                case "lease.completed":
                    self._completed.inc()
                case "lease.stale":
                    self._stale.inc()
                case _:
                    pass  # Events that are told in logs only.


def _counts(service: Coordinator) -> bool:
    status = service.replica.status()
    return status.role is Role.LEADER and status.ready


class _State(Collector):
    """Gauges that are read off the replica at the moment of the scrape."""

    def __init__(self, metrics: Metrics, service: Coordinator) -> None:
        self._metrics = metrics
        self._service = service

    def describe(self) -> Iterable[GaugeMetricFamily]:
        # Without this, registering would already scrape.
        return ()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily]:
        yield from self._raft()
        yield from self._machine()
        yield from self._service_state()
        yield self._completion_ratios()

    def _raft(self) -> Iterable[GaugeMetricFamily | InfoMetricFamily]:
        status = self._service.replica.status()
        build = InfoMetricFamily("coordinator_build", "Which program this is.")
        build.add_metric((), {"version": __version__, "member": status.node_id})
        yield build
        yield _gauge("coordinator_raft_term", "Current term.", status.term)
        yield _gauge("coordinator_raft_commit_index", "Committed.", status.commit_index)
        yield _gauge("coordinator_raft_applied_index", "Applied here.", status.applied_index)
        yield _gauge("coordinator_raft_last_index", "In the journal.", status.last_index)
        yield _gauge("coordinator_raft_has_quorum", "1 with a quorum.", status.has_quorum)
        yield _gauge("coordinator_ready", "1 when a barrier of this term applied.", status.ready)
        yield _gauge("coordinator_journal_bytes", "Size of the journal.", status.journal_bytes)
        role = GaugeMetricFamily(
            "coordinator_raft_role", "1 for the part this node has.", labels=("role",)
        )
        for name in Role:
            role.add_metric((name.value,), float(status.role is name))
        yield role

    def _machine(self) -> Iterable[GaugeMetricFamily]:
        machine = self._service.replica.machine
        yield _gauge("coordinator_rev", "Operations applied.", machine.rev)
        yield _gauge("coordinator_lease_clock_seconds", "Lease clock.", machine.clock_ms / 1000)
        counts = views.lease_counts(machine)
        leases = GaugeMetricFamily("coordinator_leases", "Leases by state.", labels=("state",))
        for state in ("live", "lock_delay", "waiting", "compatibility"):
            leases.add_metric((state,), getattr(counts, state))
        yield leases
        totals = views.backfill_counts(machine)
        backfills = GaugeMetricFamily(
            "coordinator_backfills", "Backfills by state.", labels=("state",)
        )
        for state in ("active", "paused", "complete", "incomplete", "cancelled"):
            backfills.add_metric((state,), getattr(totals, state))
        yield backfills
        bars = GaugeMetricFamily(
            "coordinator_backfill_bars", "Bars of unfinished backfills.", labels=("fact",)
        )
        for fact in ("wanted", "verified", "gap", "violated"):
            bars.add_metric((fact,), getattr(totals, f"bars_{fact}"))
        yield bars

    def _service_state(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        service = self._service
        yield _gauge("coordinator_http_parked_requests", "Waiting.", len(service.waiting_room))
        yield _gauge("coordinator_http_watchers", "Open streams.", self._metrics.watchers)
        yield CounterMetricFamily(
            "coordinator_abandoned_grants",
            "Grants that a client may not have heard of.",
            value=service.abandoned_total,
        )
        yield CounterMetricFamily(
            "coordinator_abandoned_grants_given_back",
            "Of those, how many were granted and given back.",
            value=service.given_back_total,
        )

    def _completion_ratios(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "backfill_completion_ratio",
            "Share of a live compatibility lease's range that is done.",
            labels=("node_id", "interval", "lease_key"),
        )
        machine = self._service.replica.machine
        for lease in views.leases(machine, limit=MAX_LEASE_SERIES).leases:
            if lease.series is not None or lease.state != "live":
                continue
            ratio = views.inspect(machine, lease.key, wall_ms=0).completion_ratio
            family.add_metric((*_node_and_interval(lease.key), lease.key), ratio or 0.0)
        return family


def _node_and_interval(key: str) -> tuple[str, str]:
    match parse_lease_key(key):
        case RangeKey(node_id=node_id, interval_s=interval_s):
            return node_id, str(interval_s)
        case OpaqueKey():
            return "", ""


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=float(value))


async def metrics_text(node: Node, incoming: Incoming, request: web.Request) -> web.StreamResponse:
    """Return this node's metrics in Prometheus' text format."""
    return metrics_response(node.metrics)


def metrics_response(metrics: Metrics) -> web.Response:
    return web.Response(
        body=generate_latest(metrics.registry), headers={"Content-Type": METRICS_CONTENT_TYPE}
    )
