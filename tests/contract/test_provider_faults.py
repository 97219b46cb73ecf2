"""The provider when something moves, hangs, breaks or is too large in the middle of a read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from contract.sdk_rig import MINUTE_MS, SERIES, STORE, T0, SdkRig, make_bars, sdk_rig
from seamfill.bars import Bars
from seamfill.clock import SystemClock
from seamfill.config import Profile, SeamlessConfig
from seamfill.connectors import GenRange, StoreReader
from seamfill.errors import (
    CoordinatorUnavailable,
    SeamlessSLAExceeded,
    StoreMismatch,
    StoreUnavailable,
)
from seamfill.protocol.backfills import BackfillRequest, Wanted
from seamfill.protocol.values import Redo, SeriesId
from seamfill.provider import SeamlessDataProvider
from seamfill.read_plan import Strategy
from seamfill_coordinator.machine import view_series

END = T0 + 60 * MINUTE_MS


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SdkRig]:
    async with sdk_rig(tmp_path) as running:
        await running.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
        await running.worker.fill_all()
        yield running


class ReaderBetween:
    """A store in front of which something happens before each read."""

    name = STORE

    def __init__(
        self, behind: StoreReader, before: Callable[[int], Awaitable[Bars | None]]
    ) -> None:
        self._behind = behind
        self._before = before
        self.reads = 0

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        self.reads += 1
        instead = await self._before(self.reads)
        return await self._behind.read(series, ranges) if instead is None else instead

    async def aclose(self) -> None:
        await self._behind.aclose()


def provider_over(rig: SdkRig, store: StoreReader) -> SeamlessDataProvider:
    return SeamlessDataProvider(SeamlessConfig(coordinator_urls=(rig.http.url,)), storage=store)


async def restate(rig: SdkRig, start_ms: int, end_ms: int, *, shift: float) -> None:
    """Have the source change its values, and the worker fetch and verify them."""
    spec = (await rig.client.coverage(SERIES)).spec
    assert spec is not None
    await rig.client.submit(
        BackfillRequest(
            dataset=SERIES.dataset,
            spec=spec,
            wanted=(Wanted(symbol=SERIES.symbol, start_ms=start_ms, end_ms=end_ms),),
            redo=Redo.RESTATED,
        )
    )
    rig.worker.shift = shift
    await rig.worker.fill_all()


async def test_values_that_change_during_a_read_are_never_mixed(rig: SdkRig) -> None:
    """The store answers the first read with half of the new values, as one without gens would."""
    middle = T0 + 30 * MINUTE_MS

    async def before(read: int) -> Bars | None:
        if read > 1:
            return None
        await restate(rig, middle, END, shift=0.5)
        return Bars.concat([make_bars(T0, middle), make_bars(middle, END, shift=0.5)])

    store = ReaderBetween(rig.store, before)
    async with provider_over(rig, store) as provider:
        result = await provider.fetch(SERIES, T0, END)
    assert store.reads == 2
    assert result.complete
    assert result.provenance.generations == (0, 1)
    expected = [*make_bars(T0, middle).open, *make_bars(middle, END, shift=0.5).open]
    np.testing.assert_array_equal(result.frame["open"], expected)


async def test_as_of_a_time_when_the_store_lost_its_rows_raises_and_fetches_nothing(
    rig: SdkRig,
) -> None:
    rev = (await rig.provider.fetch(SERIES, T0, END)).provenance.rev
    rig.store._rows.clear()
    with pytest.raises(StoreMismatch, match="redo restated"):
        await rig.provider.fetch(SERIES, T0, END, as_of=rev)
    assert await rig.worker.acquire() == ()


async def test_a_store_that_hangs_is_given_up_at_its_budget(rig: SdkRig) -> None:
    async def before(read: int) -> Bars | None:
        await asyncio.Event().wait()
        return None

    async with provider_over(rig, ReaderBetween(rig.store, before)) as provider:
        with pytest.raises(SeamlessSLAExceeded) as caught:
            await provider.fetch(SERIES, T0, END, deadline=1_000)
    assert caught.value.phase == "total"
    assert 900 <= caught.value.elapsed_ms < 15_000


async def test_a_store_that_comes_back_is_read_again(rig: SdkRig) -> None:
    async def before(read: int) -> Bars | None:
        if read == 1:
            raise StoreUnavailable("restarting")
        return None

    store = ReaderBetween(rig.store, before)
    async with provider_over(rig, store) as provider:
        assert (await provider.fetch(SERIES, T0, END)).complete
    assert store.reads == 2


async def test_coverage_of_more_ranges_than_fit_an_answer_is_joined(
    rig: SdkRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = END, END + 60 * MINUTE_MS
    rig.worker.holes = {start + k * MINUTE_MS for k in range(3, 60, 4)}
    await rig.provider.fetch(SERIES, start, end, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    whole = await rig.provider.fetch(SERIES, start, end)
    monkeypatch.setattr(view_series, "MAX_PIECES", 3)
    joined = await rig.provider.fetch(SERIES, start, end)
    assert joined.complete
    assert len(joined.gaps) == len(whole.gaps) == 15
    assert joined.frame.equals(whole.frame)


async def test_in_mode_sync_a_cancelled_fetch_takes_its_backfill_along(
    rig: SdkRig, tmp_path: Path
) -> None:
    path = tmp_path / "presets.yaml"
    path.write_text(
        "version: 1\ndata_presets:\n"
        f"  {SERIES.dataset}:\n"
        "    {kind: ohlcv, interval_ms: 60000, storage: 'memory:bench',"
        " backfill: {source: 'ccxt:binance', mode: sync}}\n",
        encoding="utf-8",
    )
    config = SeamlessConfig(coordinator_urls=(rig.http.url,), presets_file=path)
    async with SeamlessDataProvider(config, storage=rig.store) as provider:
        fetching = asyncio.create_task(provider.fetch(SERIES, END, END + 10 * MINUTE_MS))
        while (await rig.client.backfills(active_only=True)).total == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    newest = (await rig.client.backfills()).backfills
    assert "cancelled" in {each.state for each in newest}


class ImpatientClock(SystemClock):
    """Does not really wait for a long pause, but remembers it."""

    def __init__(self) -> None:
        self.long_pauses: list[float] = []

    async def sleep_ms(self, delay_ms: float) -> None:
        if delay_ms >= 5_000:
            self.long_pauses.append(delay_ms)
            return
        await super().sleep_ms(delay_ms)


@pytest.mark.parametrize(("profile", "pauses"), [(Profile.PROD, 2), (Profile.DEV, 0)])
async def test_a_start_without_a_healthy_coordinator_fails(profile: Profile, pauses: int) -> None:
    clock = ImpatientClock()
    config = SeamlessConfig(
        coordinator_urls=("http://127.0.0.1:9",), profile=profile, request_timeout_s=0.2
    )
    with pytest.raises(CoordinatorUnavailable, match=r"127\.0\.0\.1:9"):
        async with SeamlessDataProvider(config, clock=clock):
            pass
    assert clock.long_pauses == [10_000] * pauses
