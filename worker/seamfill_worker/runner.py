"""The worker's main loop: acquire windows, fetch them side by side, flush, complete, drain.

Owns which task does what, and how much is under way at once. Every part it joins is handed in.

Flow of a lease: ``_acquire`` → ``_fetch`` (a task of its own) → a queue → ``_flush_ready`` (a few
tasks) → reported. The heartbeat renews beside all of it. Leases are fetched on while earlier
flushes become visible.

Invariants: at most ``leases_max`` leases are held; after ``drain`` nothing is acquired, what is
still being fetched is released, and what was fetched is finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from seamfill.clock import Clock
from seamfill.connectors import Source, Store
from seamfill.errors import (
    CoordinatorUnavailable,
    InvalidInput,
    OutcomeUnknown,
    RequestRefused,
    StoreError,
)
from seamfill.logs import log_event
from seamfill.protocol.leases import AcquireRequest, GrantedLease
from seamfill.protocol.values import DatasetSpec, SourceOffer, WorkerIdentity
from seamfill_worker.fill import Venued
from seamfill_worker.flush import Fetched, Flusher
from seamfill_worker.heartbeat import Heartbeat
from seamfill_worker.held import Coordinator, Held, HeldLeases, Stage, WorkerReplaced
from seamfill_worker.questions import Filled, Inconsistent
from seamfill_worker.reports import Reports
from seamfill_worker.retry import GiveBack, GiveUp, after_store_error
from seamfill_worker.telemetry import WorkerMetrics
from seamfill_worker.trust import Trust

__all__ = ["Runner", "RunnerConfig"]

_LOG: Final = logging.getLogger("seamless.backfill")
_PAUSE_MS: Final = 250
_PAUSE_MS_MAX: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """What one worker process chose for itself."""

    identity: WorkerIdentity
    offers: tuple[SourceOffer, ...]
    stores: tuple[str, ...]
    leases_max: int = 24
    flush_windows: int = 8
    flushes: int = 2
    linger_ms: int = 50
    """How long a flush waits for more windows while others are still being fetched."""
    ttl_ms: int = 30_000
    wait_ms: int = 2_000
    """The long poll of an acquire; a drain waits for it, so that no grant is lost on the way."""


class Runner:
    """One worker. ``run`` returns after ``drain``, or raises ``WorkerReplaced``."""

    def __init__(
        self,
        config: RunnerConfig,
        coordinator: Coordinator,
        *,
        open_source: Callable[[str], Source],
        open_store: Callable[[str], Store],
        clock: Clock,
        metrics: WorkerMetrics,
    ) -> None:
        self._config = config
        self._coordinator = coordinator
        self._open_source = open_source
        self._open_store = open_store
        self._clock = clock
        self._metrics = metrics
        self._held = HeldLeases()
        self._venues: dict[str, Venued] = {}
        self._stores: dict[str, Store] = {}
        self._prepared: dict[tuple[str, DatasetSpec], asyncio.Lock | None] = {}
        self._ready: asyncio.Queue[Fetched] = asyncio.Queue()
        self._draining = asyncio.Event()
        self._changed = asyncio.Event()
        self._reports = Reports(
            coordinator, config.identity, self._held, clock=clock, metrics=metrics
        )
        self._heartbeat = Heartbeat(
            coordinator,
            config.identity,
            self._held,
            self._reports,
            ttl_ms=config.ttl_ms,
            clock=clock,
            on_drain=self.drain,
        )
        self._flusher = Flusher(self._reports, self._heartbeat, clock=clock, metrics=metrics)

    @property
    def held(self) -> HeldLeases:
        return self._held

    def drain(self) -> None:
        """Acquire nothing more; release what is being fetched, finish what was fetched."""
        if not self._draining.is_set():
            log_event(_LOG, "worker.draining", worker=self._config.identity.id)
            self._draining.set()
            self._changed.set()

    async def run(self) -> None:
        """Work until drained. Closes the sources and stores it opened."""
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._heartbeat.run())]
                beside += [
                    tasks.create_task(self._flush_ready()) for _ in range(self._config.flushes)
                ]
                while not self._draining.is_set():
                    await self._acquire(tasks)
                await self._finish()
                for task in beside:
                    task.cancel()
        finally:
            await self._close()

    # --- acquiring ------------------------------------------------------------------------------

    async def _acquire(self, tasks: asyncio.TaskGroup) -> None:
        """Fill free hands with windows; without any, wait for a lease to go or for new work."""
        free = self._config.leases_max - len(self._held)
        # Asking for one window at a time would make a request of each; a quarter is worth one.
        if free < max(1, self._config.leases_max // 4):
            self._changed.clear()
            await self._changed.wait()
            return
        request = AcquireRequest(
            worker=self._config.identity,
            offers=self._config.offers,
            stores=self._config.stores,
            max_windows=free,
            ttl_ms=self._config.ttl_ms,
            wait_ms=self._config.wait_ms,
        )
        sent_at_ms = self._clock.monotonic_ms()
        try:
            answer = await self._coordinator.acquire(request)
        except (CoordinatorUnavailable, OutcomeUnknown) as error:
            log_event(_LOG, "acquire.failed", level=logging.WARNING, reason=error.code,
                      message=error.message)  # fmt: skip
            await self._pause(_PAUSE_MS * 4)
            return
        except RequestRefused as refusal:
            if refusal.reason == "worker_replaced":
                raise WorkerReplaced from refusal
            log_event(_LOG, "acquire.refused", level=logging.WARNING, reason=refusal.reason,
                      message=refusal.message)  # fmt: skip
            await self._pause(refusal.retry_after_ms or _PAUSE_MS_MAX)
            return
        for grant in answer.leases:
            self._take(grant, sent_at_ms, tasks)
        if not answer.leases:
            log_event(_LOG, "acquire.nothing", level=logging.DEBUG, why=answer.why)
            await self._pause(min(answer.retry_after_ms or _PAUSE_MS, _PAUSE_MS_MAX))

    def _take(self, grant: GrantedLease, sent_at_ms: int, tasks: asyncio.TaskGroup) -> None:
        trust = Trust.granted(
            sent_at_ms=sent_at_ms, ttl_ms=grant.ttl_ms, renew_after_ms=grant.renew_after_ms
        )
        held = Held(grant=grant, trust=trust, granted_at_ms=self._clock.monotonic_ms())
        self._held.add(held)
        self._metrics.holding(len(self._held))
        log_event(_LOG, "window.granted", level=logging.DEBUG, **held.facts(), gen=grant.gen)
        held.fetching = tasks.create_task(self._fetch(held))

    async def _pause(self, delay_ms: int) -> None:
        """Sleep, but wake for a drain."""
        sleeping = asyncio.ensure_future(self._clock.sleep_ms(delay_ms))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({sleeping, draining}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            draining.cancel()

    # --- fetching -------------------------------------------------------------------------------

    async def _fetch(self, held: Held) -> None:
        """Bring one window to a verdict and pass it on, or say why not."""
        try:
            await self._fetch_and_pass_on(held)
        finally:
            self._let_know()

    async def _fetch_and_pass_on(self, held: Held) -> None:
        grant = held.grant
        try:
            venue = self._venue(grant.spec.source)
            store = await self._store(grant.spec)
        except InvalidInput as error:
            await self._reports.give_up(
                held, GiveUp(code=error.code, retryable=True, detail=error.message)
            )
            return
        except StoreError as error:
            # Without an attempt of its own: preparing is tried once per window that comes along.
            decision = after_store_error(error, tries=_PAUSE_MS_MAX)
            await self._hand_in(held, decision)
            return
        verdict = await venue.fetch_window(held)
        match verdict:
            case Filled():
                for doubt in verdict.doubts:
                    log_event(
                        _LOG,
                        "source.contradicted_itself",
                        level=logging.WARNING,
                        **held.facts(),
                        detail=doubt,
                    )
                held.stage = Stage.FETCHED
                self._ready.put_nowait(Fetched(held=held, filled=verdict, store=store))
            case Inconsistent(detail=detail):
                code = "source_inconsistent"
                await self._reports.give_up(
                    held, GiveUp(code=code, retryable=True, detail=detail), venue.take_usage()
                )
            case GiveBack():
                await self._reports.give_back(held, verdict, venue.take_usage())
            case GiveUp():
                await self._reports.give_up(held, verdict, venue.take_usage())

    async def _hand_in(self, held: Held, decision: object) -> None:
        if isinstance(decision, GiveBack):
            await self._reports.give_back(held, decision)
        elif isinstance(decision, GiveUp):
            await self._reports.give_up(held, decision)

    def _venue(self, name: str) -> Venued:
        if name not in self._venues:
            source = self._open_source(name)
            self._venues[name] = Venued(source, clock=self._clock, metrics=self._metrics)
        return self._venues[name]

    async def _store(self, spec: DatasetSpec) -> Store:
        """Return the dataset's store, opened and prepared once."""
        if spec.store not in self._stores:
            self._stores[spec.store] = self._open_store(spec.store)
        store, key = self._stores[spec.store], (spec.store, spec)
        lock = self._prepared.setdefault(key, asyncio.Lock())
        if lock is not None:
            async with lock:
                if self._prepared[key] is not None:
                    await store.prepare(spec)
                    self._prepared[key] = None
        return store

    # --- flushing -------------------------------------------------------------------------------

    async def _flush_ready(self) -> None:
        """Flush what is ready, in batches of one store, for as long as the task lives."""
        while True:
            batch = await self._next_batch()
            try:
                for store in {id(one.store): one.store for one in batch}.values():
                    same = [one for one in batch if one.store is store and not one.held.is_gone]
                    usage = tuple(
                        said for venue in self._venues.values() for said in venue.take_usage()
                    )
                    if same:
                        await self._flusher.flush(same, usage)
            finally:
                for _ in batch:
                    self._ready.task_done()
                self._let_know()

    async def _next_batch(self) -> list[Fetched]:
        """Return some fetched windows: many if more are about to come, at once if not."""
        batch = [await self._ready.get()]
        deadline_ms = self._clock.monotonic_ms() + self._config.linger_ms
        while len(batch) < self._config.flush_windows:
            if not self._ready.empty():
                batch.append(self._ready.get_nowait())
            elif (
                not self._held.in_stage(Stage.FETCHING) or self._clock.monotonic_ms() >= deadline_ms
            ):
                break
            else:
                await self._clock.sleep_ms(5)
        return batch

    def _let_know(self) -> None:
        self._metrics.holding(len(self._held))
        self._changed.set()

    # --- ending ---------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Release what is being fetched, and wait until what was fetched is reported."""
        fetching = self._held.in_stage(Stage.FETCHING)
        for held in fetching:
            if held.fetching is not None:
                held.fetching.cancel()
        await self._reports.release(fetching, no_write_in_flight=True)
        await self._ready.join()

    async def _close(self) -> None:
        for venue in self._venues.values():
            await venue.source.aclose()
        for store in self._stores.values():
            await store.aclose()
