"""One worker process, put together: the only place that builds its adapters.

Owns the wiring and the process's life: metrics endpoint, ready line, signals. Must not decide
anything about leases or bars.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import start_http_server

from seamfill.client import CoordinatorClient
from seamfill.clock import Clock, SystemClock
from seamfill.connectors import Source, Store, Venue
from seamfill.errors import InvalidInput
from seamfill.logs import log_event
from seamfill.presets import cautious_venue, load_presets, load_venues
from seamfill.protocol.values import SourceOffer
from seamfill_worker.config import WorkerConfig
from seamfill_worker.runner import Runner, RunnerConfig
from seamfill_worker.sources.registry import ENTRY_POINTS, is_built, open_source
from seamfill_worker.stores.registry import open_store
from seamfill_worker.telemetry import WorkerMetrics

__all__ = ["run_worker"]

_LOG: Final = logging.getLogger("seamfill.worker")
_OFFERS_MAX: Final = 64


async def run_worker(config: WorkerConfig, on_ready: Callable[[int | None], None]) -> None:
    """Work until told to stop; ``on_ready`` gets the port of the metrics, if they are served.

    Everything that can be wrong with the configuration is found before ``on_ready``. Raises
    ``InvalidInput`` naming the field, or ``WorkerReplaced``.
    """
    clock, metrics = SystemClock(), WorkerMetrics()
    venues = _venues(config)
    opened = _Opened(config, venues, clock)
    opened.check()
    runner_config = RunnerConfig(
        identity=config.identity,
        offers=tuple(_offer(venue) for venue in venues.values()),
        stores=_stores(config),
        leases_max=config.leases_max,
        flush_windows=config.flush_windows,
        ttl_ms=config.ttl_ms,
    )
    async with CoordinatorClient(config.coordinators) as coordinator:
        runner = Runner(
            runner_config,
            coordinator,
            open_source=opened.source,
            open_store=opened.store,
            clock=clock,
            metrics=metrics,
        )
        with _serving_metrics(config, metrics) as port, _signals(runner):
            on_ready(port)
            await runner.run()
    log_event(_LOG, "worker.stopped", worker=config.worker_id)


class _Opened:
    """Sources and stores, opened once each."""

    def __init__(self, config: WorkerConfig, venues: Mapping[str, Venue], clock: Clock) -> None:
        self._config = config
        self._venues = venues
        self._clock = clock
        self._sources: dict[str, Source] = {}
        self._first_store: Store | None = None

    def check(self) -> None:
        """Open what is certain to be needed, so that a mistake is found at the start.

        Also pays for ccxt's import before the worker holds a lease that is running out.
        """
        for name in self._config.ccxt_urls:
            self._sources[f"ccxt:{name}"] = self._open_source(f"ccxt:{name}")
        if self._config.store is not None:
            self._first_store = open_store(self._config.store, environment=self._config.environment)

    def source(self, name: str) -> Source:
        return self._sources.pop(name, None) or self._open_source(name)

    def store(self, spec: str) -> Store:
        first, self._first_store = self._first_store, None
        if first is not None and spec == self._config.store:
            return first
        return open_store(spec, environment=self._config.environment)

    def _open_source(self, name: str) -> Source:
        return open_source(
            name, venues=self._venues, urls=self._config.ccxt_urls, clock=self._clock
        )


def _venues(config: WorkerConfig) -> dict[str, Venue]:
    """Return every venue this worker can fetch from: listed, in a preset, or given an address."""
    listed = load_venues(config.venues_file)
    presets = load_presets(config.presets_file)
    names = dict.fromkeys(
        (
            *(f"ccxt:{exchange}" for exchange in config.ccxt_urls),
            *(preset.backfill.source for preset in presets.values()),
            *listed,
        )
    )
    venues: dict[str, Venue] = {}
    for name in names:
        if not is_built(name):
            continue
        if name not in listed:
            log_event(
                _LOG,
                "venue.unlisted",
                level=logging.WARNING,
                source=name,
                message="not in exchanges.yaml: the most cautious values are used",
            )
        venues[name] = listed.get(name) or cautious_venue(name)
    if not venues:
        raise InvalidInput("presets", f"no source that this worker can open ({ENTRY_POINTS})")
    if len(venues) > _OFFERS_MAX:
        raise InvalidInput("venues", f"{len(venues)} sources, at most {_OFFERS_MAX} are offered")
    return venues


def _offer(venue: Venue) -> SourceOffer:
    return SourceOffer(
        source=venue.name,
        weight_per_minute=venue.weight_per_minute,
        page_bars=venue.page_bars,
        page_weight=venue.page_weight,
    )


def _stores(config: WorkerConfig) -> tuple[str, ...]:
    """Return the stores to offer: the given one, or all that this process could open."""
    if config.store is not None:
        return (config.store,)
    if config.environment.get("QUESTDB_DSN"):
        return ("questdb:*", "parquet:*")
    return ("parquet:*",)


@contextmanager
def _serving_metrics(config: WorkerConfig, metrics: WorkerMetrics) -> Iterator[int | None]:
    if config.metrics_listen is None:
        yield None
        return
    host, port = config.metrics_listen
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as exc:
        raise InvalidInput("metrics-listen", f"can not listen on {host}:{port}: {exc}") from exc
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=1)


@contextmanager
def _signals(runner: Runner) -> Iterator[None]:
    """SIGTERM and SIGINT drain; a second one stops at once, whatever is under way."""
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            # A store's thread may be in the middle of a write; waiting for it is what the person
            # who signals twice does not want. A half-done write is harmless: rows are idempotent.
            os._exit(1)
        asked = True
        runner.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
