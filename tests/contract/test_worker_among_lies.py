"""A worker over real ccxt, a lying exchange and the real machine: nothing wrong is ever completed.

Each lie of ``command-lines.md`` is told on some requests while a history with an outage and an
unlisted beginning is filled. Whatever happens on the way, what coverage says at the end is the
truth, to the last bit, or a violation that names what happened.
"""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from contract.exchange_rig import HISTORY, MINUTE, START, exchange_at
from seamfill.bars import Bars, content_digest
from seamfill.clock import SystemClock
from seamfill.connectors import GenRange, Venue
from seamfill.memory_store import MemoryStore
from seamfill.protocol.backfills import CoverageAnswer
from seamfill.protocol.values import DatasetSpec, GapReason, SeriesId, SourceOffer, WorkerIdentity
from seamfill_chaos.exchange.app import ExchangeConfig
from seamfill_worker.runner import Runner, RunnerConfig
from seamfill_worker.sources.ccxt import CcxtSource
from seamfill_worker.telemetry import WorkerMetrics
from unit.worker.machine_coordinator import MachineCoordinator, WorkerSide

SERIES = SeriesId(dataset="ohlcv.binance.spot.1m", symbol="ETH/USDT")
SPEC = DatasetSpec(
    kind="ohlcv", interval_ms=MINUTE, source="ccxt:binance", store="memory:default", dense=True
)
VENUE = Venue(name="ccxt:binance", page_bars=300, page_weight=2, weight_per_minute=0)
WINDOW_BARS = 500
"""More than a page, so that pages overlap."""
FIRST, LAST = START - 100 * MINUTE, START + 1_900 * MINUTE
NAP_MS = 50
PATIENCE_MS = 90_000


class Filling:
    """One worker and one backfill over a lying exchange; ``truth`` is what the exchange holds."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.coordinator = MachineCoordinator(self.clock)
        self.store = MemoryStore()
        self.truth = Bars.empty()
        self.lies_told = 0

    async def run(self, lies: str) -> CoverageAnswer:
        async with exchange_at(ExchangeConfig(history=HISTORY), lies=lies) as rig:
            self.truth = rig.bars.between(FIRST, LAST)
            source = CcxtSource("binance", VENUE, url=rig.url, timeout_ms=1_500)
            self.coordinator.submit(
                SERIES.dataset, SPEC, FIRST, LAST, window_bars=WINDOW_BARS, symbols=(SERIES.symbol,)
            )
            runner = Runner(
                RunnerConfig(
                    identity=WorkerIdentity(id="w1", boot="b1"),
                    offers=(SourceOffer(source="ccxt:binance", page_bars=300, page_weight=2),),
                    stores=("memory:*",),
                    wait_ms=0,
                ),
                WorkerSide(self.coordinator),
                open_source=lambda name: source,
                open_store=lambda spec: self.store,
                clock=self.clock,
                metrics=WorkerMetrics(CollectorRegistry()),
            )
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(runner.run())
                await self._settled()
                runner.drain()
            requests = rig.exchange.log.document()["requests"]
            self.lies_told = sum(1 for request in requests if request["lie"])
        return self.coordinator.coverage(SERIES)

    async def _settled(self) -> None:
        deadline_ms = self.clock.monotonic_ms() + PATIENCE_MS
        while self.coordinator.coverage(SERIES).in_flight:
            assert self.clock.monotonic_ms() < deadline_ms, "the backfill does not end"
            await self.clock.sleep_ms(NAP_MS)

    async def stored(self) -> Bars:
        return await self.store.read(SERIES, [GenRange(start_ms=FIRST, end_ms=LAST, gen=0)])


def lie(kind: str, extra: str = "", *, when: str = "when = [1, 2, 5, 9]") -> str:
    return f'[[lie]]\nkind = "{kind}"\npath = "/api/v3/klines"\n{when}\n{extra}\n'


LIES = {
    "none": "",
    "429": lie("status", 'code = 429\nheaders = { "Retry-After" = "1" }', when="when = [3]"),
    "418": lie("status", 'code = 418\nheaders = { "Retry-After" = "1" }', when="when = [3]"),
    "500": lie("status", "code = 500"),
    "503": lie("status", "code = 503"),
    "html_200": lie("html_200"),
    "truncate": lie("truncate"),
    "truncate_short": lie("truncate", "short = true"),
    "hang": lie("hang", "seconds = 3.0", when="when = [2]"),
    "reset": lie("reset"),
    "empty_body": lie("empty"),
    "empty_list": lie("empty", 'body = "[]"'),
    "drop_bars": lie("drop_bars", "count = 3"),
    "duplicate_bars": lie("duplicate_bars"),
    "partial_last": lie("partial_last"),
    "off_grid": lie("off_grid"),
    "out_of_range": lie("out_of_range"),
    "out_of_range_after": lie("out_of_range", "before = 0"),
}


@pytest.mark.parametrize("told", LIES.values(), ids=LIES.keys())
async def test_coverage_is_the_truth_whatever_the_exchange_says_now_and_then(told: str) -> None:
    filling = Filling()
    coverage = await filling.run(told)
    assert coverage.violated == ()
    assert bool(filling.lies_told) is bool(told), "the lie was never told"
    stored, truth = await filling.stored(), filling.truth
    assert content_digest(stored) == content_digest(truth)
    assert sum(view.rows for view in coverage.covered) == len(truth)
    for view in coverage.covered:
        assert view.content_digest == content_digest(truth.between(view.start_ms, view.end_ms))
    absent = {(gap.start_ms, gap.end_ms, gap.reason) for gap in coverage.gaps}
    assert (FIRST, START) in {(FIRST, end) for _, end, why in absent if why is GapReason.NOT_LISTED}
    bars = sum((end - start) // MINUTE for start, end, _ in absent)
    assert bars + len(truth) == (LAST - FIRST) // MINUTE


FACTOR = 1.5


def assert_one_version_per_window(stored: Bars, truth: Bars) -> None:
    window_ms = WINDOW_BARS * MINUTE
    for start_ms in range(FIRST // window_ms * window_ms, LAST, window_ms):
        part = stored.between(start_ms, start_ms + window_ms)
        true = truth.between(start_ms, start_ms + window_ms)
        if len(part):
            assert part.ts_ms.tolist() == true.ts_ms.tolist()
            assert set((part.close / true.close).round(3).tolist()) in ({1.0}, {FACTOR}), start_ms


async def test_a_restated_window_is_one_version_and_never_a_mixture() -> None:
    """The values change for good while windows are being read."""
    filling = Filling()
    coverage = await filling.run(lie("restate", f"factor = {FACTOR}", when="from_request = 6"))
    assert coverage.violated == () and filling.lies_told
    stored = await filling.stored()
    assert len(stored) == len(filling.truth)
    assert_one_version_per_window(stored, filling.truth)


async def test_an_exchange_that_contradicts_itself_all_the_time_is_violated_by_name() -> None:
    """Every second answer has other values: what no single version explains is not stored."""
    filling = Filling()
    coverage = await filling.run(lie("restate", f"factor = {FACTOR}", when="every = 2"))
    assert {view.reason for view in coverage.violated} <= {"source_inconsistent"}
    stored = await filling.stored()
    assert sum(view.rows for view in coverage.covered) == len(stored)
    assert_one_version_per_window(stored, filling.truth)
