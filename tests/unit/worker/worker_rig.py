"""A worker in fake time: real machine, memory store, model venue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from seamfill.bars import Bars
from seamfill.connectors import GenRange, Page, Store, Venue, WindowWrite
from seamfill.memory_store import MemoryStore
from seamfill.protocol.backfills import CoverageAnswer
from seamfill.protocol.leases import AcquireRequest
from seamfill.protocol.values import DatasetSpec, SeriesId, SourceOffer, WorkerIdentity
from seamfill_worker.questions import AskPage
from seamfill_worker.runner import Runner, RunnerConfig
from seamfill_worker.telemetry import WorkerMetrics
from unit.worker.fake_time import FakeTime
from unit.worker.machine_coordinator import MachineCoordinator, WorkerSide
from unit.worker.model_venue import BASE, MINUTE, SETTLE, ModelVenue

DATASET = "ohlcv.model.1m"
SYMBOL = "A/B"
SERIES = SeriesId(dataset=DATASET, symbol=SYMBOL)
SPEC = DatasetSpec(
    kind="ohlcv", interval_ms=MINUTE, source="ccxt:model", store="memory:default", dense=True
)
WINDOW_BARS = 20


async def _at_once(number: int) -> None:
    return None


class ModelSource:
    """A ``Source`` over a ``ModelVenue``; ``before(number)`` runs before each fetch."""

    name = "ccxt:model"

    def __init__(self, model: ModelVenue) -> None:
        self.model = model
        self.venue = Venue(
            name=self.name,
            page_bars=model.page_bars,
            page_weight=2,
            weight_per_minute=0,
            settle_ms=SETTLE,
        )
        self.fetches = 0
        self.asked: list[int] = []
        self.before: Callable[[int], Awaitable[None]] = _at_once
        self.closed = False

    async def fetch(self, symbol: str, interval_ms: int, *, start_ms: int, limit_bars: int) -> Page:
        assert interval_ms == MINUTE
        self.fetches += 1
        self.asked.append(start_ms)
        await self.before(self.fetches)
        return self.model.page(AskPage(start_ms=start_ms, limit_bars=limit_bars))

    async def server_time_ms(self) -> int:
        return self.model.now_ms

    async def is_trading(self, symbol: str) -> bool:
        return self.model.trading

    async def aclose(self) -> None:
        self.closed = True


class RecordingStore(MemoryStore):
    """A memory store that remembers every window it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[WindowWrite] = []

    async def write(self, windows: Sequence[WindowWrite]) -> None:
        await super().write(windows)
        self.written.extend(windows)

    @property
    def fences(self) -> set[int]:
        return {window.fence for window in self.written}


@dataclass
class WorkerRig:
    """``start`` and ``end`` are minutes of the venue; the backfill is submitted by ``submit``."""

    model: ModelVenue
    clock: FakeTime = field(default_factory=FakeTime)
    store: RecordingStore = field(default_factory=RecordingStore)

    def __post_init__(self) -> None:
        self.coordinator = MachineCoordinator(self.clock)
        self.source = ModelSource(self.model)
        self.registry = CollectorRegistry()

    def submit(self, start: int, end: int, *, symbols: tuple[str, ...] = (SYMBOL,)) -> None:
        self.coordinator.submit(
            DATASET,
            SPEC,
            BASE + start * MINUTE,
            BASE + end * MINUTE,
            window_bars=WINDOW_BARS,
            symbols=symbols,
        )

    def runner(self, *, boot: str = "b1", store: Store | None = None) -> Runner:
        self.registry = CollectorRegistry()
        config = RunnerConfig(
            identity=WorkerIdentity(id="w1", boot=boot),
            offers=(
                SourceOffer(source="ccxt:model", page_bars=self.model.page_bars, page_weight=2),
            ),
            stores=("memory:*",),
            wait_ms=0,
        )
        return Runner(
            config,
            WorkerSide(self.coordinator),
            open_source=lambda name: self.source,
            open_store=lambda spec: store or self.store,
            clock=self.clock,
            metrics=WorkerMetrics(self.registry),
        )

    async def run_until(
        self, done: Callable[[], bool], runner: Runner | None = None, *, limit_ms: int = 600_000
    ) -> Runner:
        """Run a worker until ``done``, then drain it."""
        runner = runner or self.runner()

        async def watched() -> None:
            async with asyncio.TaskGroup() as tasks:
                working = tasks.create_task(runner.run())
                while not done() and not working.done():
                    await self.clock.sleep_ms(100)
                runner.drain()

        await self.clock.run(watched(), limit_ms=limit_ms)
        return runner

    async def say_hello(self, worker_id: str, *, boot: str) -> list[int]:
        """Acquire as another process would; return the fences that were granted."""
        answer = await self.coordinator.acquire(
            AcquireRequest(
                worker=WorkerIdentity(id=worker_id, boot=boot),
                offers=(SourceOffer(source="ccxt:model"),),
                stores=("memory:*",),
                max_windows=100,
            )
        )
        return [lease.fence for lease in answer.leases]

    def coverage(self, symbol: str = SYMBOL) -> CoverageAnswer:
        return self.coordinator.coverage(SeriesId(dataset=DATASET, symbol=symbol))

    def is_settled(self, symbol: str = SYMBOL) -> bool:
        """Whether every wanted bar of a symbol has its fact."""
        return not self.coverage(symbol).in_flight

    async def stored(self, ranges: Sequence[tuple[int, int]], symbol: str = SYMBOL) -> Bars:
        wanted = [GenRange(start_ms=start, end_ms=end, gen=0) for start, end in ranges]
        return await self.store.read(SeriesId(dataset=DATASET, symbol=symbol), wanted)

    async def stored_minutes(self, symbol: str = SYMBOL) -> list[int]:
        bars = await self.stored([(BASE - 10_000 * MINUTE, BASE + 10_000 * MINUTE)], symbol)
        return [(ts - BASE) // MINUTE for ts in bars.ts_ms.tolist()]

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0
