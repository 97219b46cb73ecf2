"""A provider over the real coordinator application, a memory store, and a worker one can steer.

``BenchWorker`` does what a worker does, one step at a time and in this loop, so that a test decides
what is filled, what is proved absent, and what happens in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from contract.http_rig import HttpRig, http_rig
from seamfill.bars import Bars, content_digest
from seamfill.client import CoordinatorClient
from seamfill.config import SeamlessConfig
from seamfill.connectors import Store, WindowWrite
from seamfill.memory_store import MemoryStore
from seamfill.protocol.leases import (
    AcquireRequest,
    CompleteItem,
    CompleteRequest,
    FailItem,
    FailRequest,
    GrantedLease,
)
from seamfill.protocol.values import (
    Asked,
    CoveredRange,
    GapRange,
    GapReason,
    Receipt,
    SeriesId,
    SourceOffer,
    WorkerIdentity,
)
from seamfill.provider import SeamlessDataProvider

MINUTE_MS = 60_000
T0 = 1_618_963_200_000  # 2021-04-21T00:00:00Z
SERIES = SeriesId(dataset="ohlcv.binance.spot.1m", symbol="BTC/USDT")
STORE = "memory:bench"


def make_bars(start_ms: int, end_ms: int, *, shift: float = 0.0) -> Bars:
    """Bars that depend on their time alone, plus ``shift``."""
    ts = np.arange(start_ms, end_ms, MINUTE_MS, dtype=np.int64)
    price = (ts // MINUTE_MS % 1000).astype(np.float64) + 100.0 + shift
    return Bars(
        ts_ms=ts, open=price, high=price + 2, low=price - 2, close=price + 1, volume=price / 10
    )


@dataclass
class BenchWorker:
    """Fills windows when told to. ``holes``: bars that the source does not have."""

    client: CoordinatorClient
    store: Store
    holes: set[int] = field(default_factory=set)
    shift: float = 0.0
    written: list[GrantedLease] = field(default_factory=list)

    async def acquire(self, *, wait_ms: int = 0) -> tuple[GrantedLease, ...]:
        answer = await self.client.acquire(
            AcquireRequest(
                worker=WorkerIdentity(id="bench", boot="b1"),
                offers=(SourceOffer(source="ccxt:binance"),),
                stores=(f"{self.store.name.partition(':')[0]}:*",),
                max_windows=64,
                wait_ms=wait_ms,
            )
        )
        return answer.leases

    async def fill(self, leases: Iterable[GrantedLease]) -> None:
        """Write, and complete with proved gaps where the source has holes."""
        for lease in leases:
            bars = make_bars(lease.start_ms, lease.end_ms, shift=self.shift)
            absent = np.isin(bars.ts_ms, sorted(self.holes))
            runs = _runs(bars.ts_ms, ~absent)
            for low, high in runs:
                await self._write(lease, bars.between(low, high))
            await self._complete(lease, bars, runs, _runs(bars.ts_ms, absent))

    async def fill_all(self, *, wait_ms: int = 0) -> int:
        """Fill until nothing is granted any more; return how many windows it were."""
        filled = 0
        while leases := await self.acquire(wait_ms=wait_ms if not filled else 0):
            await self.fill(leases)
            filled += len(leases)
        return filled

    async def give_up(self, leases: Iterable[GrantedLease], code: str) -> None:
        """Fail windows for good."""
        await self.client.fail(
            FailRequest(
                worker=WorkerIdentity(id="bench", boot="b1"),
                leases=tuple(
                    FailItem(lease=lease.ref, code=code, retryable=False) for lease in leases
                ),
            )
        )

    async def _write(self, lease: GrantedLease, bars: Bars) -> None:
        self.written.append(lease)
        await self.store.prepare(lease.spec)
        await self.store.write(
            [
                WindowWrite(
                    series=lease.series,
                    gen=lease.gen,
                    fence=lease.fence,
                    start_ms=int(bars.ts_ms[0]),
                    end_ms=int(bars.ts_ms[-1]) + MINUTE_MS,
                    bars=bars,
                )
            ]
        )

    async def _complete(
        self,
        lease: GrantedLease,
        bars: Bars,
        runs: list[tuple[int, int]],
        holes: list[tuple[int, int]],
    ) -> None:
        answer = await self.client.complete(
            CompleteRequest(
                worker=WorkerIdentity(id="bench", boot="b1"),
                leases=(
                    CompleteItem(
                        lease=lease.ref,
                        covered=tuple(
                            CoveredRange(
                                start_ms=low,
                                end_ms=high,
                                rows=len(bars.between(low, high)),
                                content_digest=content_digest(bars.between(low, high)),
                            )
                            for low, high in runs
                        ),
                        gaps=tuple(_gap(low, high) for low, high in holes),
                    ),
                ),
            )
        )
        assert [result.status for result in answer.results] == ["completed"], answer.results


def _runs(ts: np.ndarray, which: np.ndarray) -> list[tuple[int, int]]:
    """Return the half-open ranges of consecutive bars for which ``which`` holds."""
    kept = ts[which].tolist()
    runs: list[tuple[int, int]] = []
    for at in kept:
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], at + MINUTE_MS)
        else:
            runs.append((at, at + MINUTE_MS))
    return runs


def _gap(start_ms: int, end_ms: int) -> GapRange:
    asked = Asked(
        start_ms=start_ms,
        end_ms=end_ms,
        server_time_ms=end_ms + MINUTE_MS,
        http_status=200,
        body_sha256=hashlib.sha256(b"[]").hexdigest(),
        rows=0,
    )
    later = Asked(
        start_ms=start_ms - MINUTE_MS,
        end_ms=end_ms + MINUTE_MS,
        server_time_ms=end_ms + 2 * MINUTE_MS,
        http_status=200,
        body_sha256=hashlib.sha256(b"[1]").hexdigest(),
        rows=2,
    )
    receipt = Receipt(
        reason=GapReason.VENUE_OUTAGE,
        asked=(asked, later),
        left_ms=start_ms - MINUTE_MS,
        right_ms=end_ms,
    )
    return GapRange(
        start_ms=start_ms, end_ms=end_ms, reason=GapReason.VENUE_OUTAGE, receipt=receipt
    )


@dataclass
class SdkRig:
    """Everything of one small world."""

    http: HttpRig
    client: CoordinatorClient
    provider: SeamlessDataProvider
    store: MemoryStore
    worker: BenchWorker


@asynccontextmanager
async def sdk_rig(tmp_path: Path, config: SeamlessConfig | None = None) -> AsyncIterator[SdkRig]:
    """Serve one coordinator, and open a provider and a worker on it."""
    async with http_rig(tmp_path) as http, CoordinatorClient(http.url) as client:
        store = MemoryStore(STORE)
        settings = config or SeamlessConfig(coordinator_urls=(http.url,))
        async with SeamlessDataProvider(settings, storage=store) as provider:
            yield SdkRig(http, client, provider, store, BenchWorker(client, store))
