"""The worker's metrics; every name is public (docs/reference/metrics.md).

Owns the metric objects of one process, registered in a registry that is handed in. Must not know
what the numbers mean to anybody.

Invariant: label sets are bounded. ``node_id`` names a series, so after ``SERIES_MAX`` of them the
rest share the label ``other``.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["SERIES_MAX", "WorkerMetrics"]

SERIES_MAX: Final = 1_000
_LATENCY_MS: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000)


class WorkerMetrics:
    """Counts what one worker does."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._series: set[str] = set()
        self._latency = Histogram(
            "gap_repair_latency_ms",
            "From the grant of a window to its accepted completion.",
            buckets=_LATENCY_MS,
            registry=self.registry,
        )
        self._held = Gauge(
            "backfill_jobs_in_progress", "Leases this worker holds.", registry=self.registry
        )
        self._last = Gauge(
            "backfill_last_timestamp",
            "End of the last completed window of a series, epoch ms.",
            ["node_id", "interval"],
            registry=self.registry,
        )
        self._failures = Counter(
            "backfill_failure_total",
            "Windows given up, by the code that says why.",
            ["code"],
            registry=self.registry,
        )
        self._retries = Counter(
            "backfill_retry_total",
            "Windows handed back to wait, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._source_errors = Counter(
            "backfill_source_error_total",
            "Answers of a source that could not be used, by error code.",
            ["code"],
            registry=self.registry,
        )
        self._rows = Counter(
            "backfill_rows_total", "Rows written, read back and completed.", registry=self.registry
        )
        self._gaps = Counter(
            "backfill_gap_bars_total", "Bars proved absent, by reason.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self._flushes = Counter(
            "backfill_flush_total", "Flushes into a store, by outcome.", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._lost = Counter(
            "backfill_lease_lost_total",
            "Leases lost while they were held, by reason.",
            ["reason"],
            registry=self.registry,
        )

    def holding(self, leases: int) -> None:
        self._held.set(leases)

    def completed(self, node_id: str, *, interval_s: int, end_ms: int, rows: int) -> None:
        self._rows.inc(rows)
        self._last.labels(node_id=self._bounded(node_id), interval=str(interval_s)).set(end_ms)

    def repaired(self, latency_ms: int) -> None:
        self._latency.observe(latency_ms)

    def gap(self, reason: str, bars: int) -> None:
        self._gaps.labels(reason=reason).inc(bars)

    def failed(self, code: str) -> None:
        self._failures.labels(code=code).inc()

    def handed_back(self, reason: str) -> None:
        self._retries.labels(reason=reason).inc()

    def source_error(self, code: str) -> None:
        self._source_errors.labels(code=code).inc()

    def flushed(self, outcome: str) -> None:
        self._flushes.labels(outcome=outcome).inc()

    def lost(self, reason: str) -> None:
        self._lost.labels(reason=reason).inc()

    def _bounded(self, node_id: str) -> str:
        if node_id not in self._series and len(self._series) >= SERIES_MAX:
            return "other"
        self._series.add(node_id)
        return node_id
