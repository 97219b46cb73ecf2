"""The provider over the real coordinator: what a strategy gets in each situation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contract.sdk_rig import MINUTE_MS, SERIES, T0, SdkRig, make_bars, sdk_rig
from seamfill.errors import (
    BackfillViolated,
    CoverageIncomplete,
    InvalidInput,
    RequestRefused,
    SeamlessSLAExceeded,
)
from seamfill.protocol.backfills import BackfillRequest, Wanted
from seamfill.protocol.values import DatasetSpec, GapReason, Redo, SeriesId
from seamfill.read_plan import Strategy
from seamfill.result import CoverageKnowledge, GapState
from seamfill.sla import BASELINE

END = T0 + 60 * MINUTE_MS


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SdkRig]:
    async with sdk_rig(tmp_path) as running:
        yield running


async def test_a_hole_is_filled_while_fetch_waits(rig: SdkRig) -> None:
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(rig.provider.fetch(SERIES, T0, END))
        group.create_task(rig.worker.fill_all(wait_ms=5_000))
    result = fetching.result()
    assert result.complete
    assert result.gaps == ()
    frame = result.frame
    assert frame.index.name == "ts"
    assert str(frame.index.dtype) == "datetime64[ns, UTC]"
    assert frame.index[0] == pd.Timestamp(T0, unit="ms", tz="UTC")
    np.testing.assert_array_equal(frame["open"], make_bars(T0, END).open)
    assert result.provenance.coverage is CoverageKnowledge.CURRENT
    assert result.provenance.rows_by_source == {"storage": 60}


async def test_what_is_there_is_served_without_a_backfill(rig: SdkRig) -> None:
    await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    again = await rig.provider.fetch(SERIES, T0, END)
    assert again.complete
    assert again.provenance.backfill_id is None
    assert (await rig.client.backfills()).total == 1


async def test_a_proved_gap_is_reported_and_does_not_make_the_result_incomplete(
    rig: SdkRig,
) -> None:
    rig.worker.holes = {T0 + k * MINUTE_MS for k in range(10, 15)}
    await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    result = await rig.provider.fetch(SERIES, T0, END)
    assert result.complete
    assert len(result.frame) == 55
    (gap,) = result.gaps
    assert (gap.reason, gap.state) == (GapReason.VENUE_OUTAGE, GapState.PROVED)
    assert gap.receipt is not None
    assert result.raise_for_gaps(GapReason.VENUE_OUTAGE) is result
    with pytest.raises(CoverageIncomplete, match="venue_outage"):
        result.raise_for_gaps()


async def test_partial_fill_serves_what_is_there_and_has_the_rest_filled(rig: SdkRig) -> None:
    await rig.provider.fetch(SERIES, T0, T0 + 10 * MINUTE_MS, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    result = await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    assert not result.complete
    assert len(result.frame) == 10
    assert [gap.state for gap in result.gaps] == [GapState.UNFILLED]
    assert await rig.worker.fill_all() == 1


async def test_fail_fast_raises_on_an_unfilled_bar_and_submits_nothing(rig: SdkRig) -> None:
    with pytest.raises(CoverageIncomplete, match=r"provider\.ensure"):
        await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.FAIL_FAST)
    assert (await rig.client.backfills()).total == 0


async def test_the_budget_is_enforced_while_waiting_and_the_backfill_goes_on(rig: SdkRig) -> None:
    begun = asyncio.get_running_loop().time()
    with pytest.raises(SeamlessSLAExceeded) as caught:
        await rig.provider.fetch(SERIES, T0, END, deadline=1_500)
    took = asyncio.get_running_loop().time() - begun
    assert 1.4 <= took < 15
    error = caught.value
    assert error.phase == "backfill_wait"
    assert error.node_id == "ohlcv:binance:BTC/USDT:1m"
    assert (error.bars_verified, error.bars_wanted) == (0, 60)
    assert error.backfill_id is not None
    assert "provider.ensure" in error.message
    assert await rig.worker.fill_all() == 1
    assert (await rig.client.backfill(error.backfill_id)).state == "complete"


async def test_violated_bars_raise_with_the_reason_or_are_served_around(rig: SdkRig) -> None:
    await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.give_up(await rig.worker.acquire(), "source_says_no")
    with pytest.raises(BackfillViolated, match="source_says_no"):
        await rig.provider.fetch(SERIES, T0, END)
    result = await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    assert not result.complete
    assert [gap.state for gap in result.gaps] == [GapState.VIOLATED]


async def test_a_verified_bar_that_the_store_lost_is_fetched_again_exactly(rig: SdkRig) -> None:
    await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    lost = T0 + 20 * MINUTE_MS
    _forget(rig, lost)
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(rig.provider.fetch(SERIES, T0, END))
        group.create_task(rig.worker.fill_all(wait_ms=5_000))
    result = fetching.result()
    assert result.complete
    assert len(result.frame) == 60
    assert [(lease.start_ms, lease.end_ms) for lease in rig.worker.written[1:]] == [
        (lost, lost + MINUTE_MS)
    ]


async def test_rows_that_differ_from_their_digest_are_never_served(rig: SdkRig) -> None:
    await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    _tamper(rig)
    result = await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    assert not result.complete
    assert len(result.frame) == 0
    assert [gap.state for gap in result.gaps] == [GapState.LOST]


async def test_a_restatement_is_seen_when_verified_and_as_of_still_gives_the_old(
    rig: SdkRig,
) -> None:
    await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    before = await rig.provider.fetch(SERIES, T0, END)
    low, high = T0 + 10 * MINUTE_MS, T0 + 30 * MINUTE_MS
    await _submit_redo(rig, low, high, Redo.RESTATED)
    pending = await rig.provider.fetch(SERIES, T0, END)
    pd.testing.assert_frame_equal(pending.frame, before.frame)
    rig.worker.shift = 0.5
    await rig.worker.fill_all()
    after = await rig.provider.fetch(SERIES, T0, END)
    assert after.complete
    assert after.provenance.generations == (0, 1)
    changed = after.frame["open"] != before.frame["open"]
    assert changed.sum() == 20
    old = await rig.provider.fetch(SERIES, T0, END, as_of=before.provenance.rev)
    pd.testing.assert_frame_equal(old.frame, before.frame)


async def test_ensure_waits_for_the_backfill_and_returns_it(rig: SdkRig) -> None:
    async with asyncio.TaskGroup() as group:
        ensuring = group.create_task(rig.provider.ensure(SERIES, T0, END))
        group.create_task(rig.worker.fill_all(wait_ms=5_000))
    assert ensuring.result().state == "complete"
    assert ensuring.result().bars_verified == 60
    with pytest.raises(SeamlessSLAExceeded, match="goes on"):
        await rig.provider.ensure(SERIES, END, END + 60 * MINUTE_MS, timeout=50)


async def test_without_a_coordinator_history_is_served_and_never_called_complete(
    rig: SdkRig,
) -> None:
    await rig.provider.fetch(SERIES, T0, END, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    await rig.provider.fetch(SERIES, T0, END)
    await rig.http.app.shutdown()
    _cut_off(rig)
    result = await rig.provider.fetch(SERIES, T0, END, deadline=400)
    assert not result.complete
    assert result.provenance.coverage is CoverageKnowledge.LAST_KNOWN
    assert len(result.frame) == 60


async def test_times_are_widened_to_the_grid_and_echoed(rig: SdkRig) -> None:
    result = await rig.provider.fetch(
        SERIES, "2021-04-21T00:00:30Z", "2021-04-21T00:02:01Z", strategy=Strategy.PARTIAL_FILL
    )
    assert (result.start, result.end) == (
        pd.Timestamp("2021-04-21T00:00:00Z"),
        pd.Timestamp("2021-04-21T00:03:00Z"),
    )


async def test_a_bar_that_has_not_closed_is_not_called_missing(
    rig: SdkRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = pd.Timestamp.now("UTC").floor("min")
    # No minute may begin in the middle of this.
    wall_ms = int(now.timestamp() * 1000) + 30_000
    monkeypatch.setattr(rig.http.clock, "wall_ms", lambda: wall_ms)
    start = now - pd.Timedelta(minutes=10)
    await rig.provider.fetch(SERIES, start, now, strategy=Strategy.PARTIAL_FILL)
    await rig.worker.fill_all()
    result = await rig.provider.fetch(
        SERIES, start, now + pd.Timedelta(days=1), strategy=Strategy.FAIL_FAST, deadline=5_000
    )
    assert result.complete
    assert result.end <= pd.Timestamp.now("UTC")


@pytest.mark.parametrize(
    ("series", "start", "end", "field"),
    [
        (SeriesId(dataset="nowhere", symbol="BTC/USDT"), T0, END, "dataset"),
        (SeriesId(dataset=SERIES.dataset, symbol="BTCUSDT"), T0, END, "symbol"),
        (SERIES, T0 // 1000, END, "start"),
        (SERIES, T0, T0, "end"),
        (SERIES, "2021-04-21T00:00:00", END, "start"),
    ],
)
async def test_bad_input_is_refused_by_the_name_of_its_field(
    rig: SdkRig, series: SeriesId, start: int, end: int, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await rig.provider.fetch(series, start, end)
    assert caught.value.field == field


async def test_a_dataset_keeps_the_identity_of_its_first_backfill(rig: SdkRig) -> None:
    spec = DatasetSpec(kind="ohlcv", interval_ms=MINUTE_MS, source="ccxt:kraken", store="memory:x")
    await rig.client.submit(
        BackfillRequest(
            dataset=SERIES.dataset,
            spec=spec,
            wanted=(Wanted(symbol=SERIES.symbol, start_ms=T0, end_ms=END),),
        )
    )
    with pytest.raises(InvalidInput, match="ccxt:kraken") as caught:
        await rig.provider.fetch(SERIES, T0, END)
    assert caught.value.field == "source"


async def test_an_as_of_in_the_future_is_refused(rig: SdkRig) -> None:
    with pytest.raises(RequestRefused) as caught:
        await rig.provider.fetch(SERIES, T0, END, as_of=10**9)
    assert caught.value.field == "as_of"


async def test_a_second_caller_joins_the_work_of_the_first(rig: SdkRig) -> None:
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(rig.provider.fetch(SERIES, T0, END)) for _ in range(2)]
        group.create_task(rig.worker.fill_all(wait_ms=5_000))
    assert all(task.result().complete for task in both)
    assert len(rig.worker.written) == 1


async def test_a_provider_belongs_to_its_loop_and_process(rig: SdkRig) -> None:
    import pickle

    with pytest.raises(TypeError, match="SeamlessConfig"):
        pickle.dumps(rig.provider)


def _forget(rig: SdkRig, ts_ms: int) -> None:
    """Take one row out of the store, as a dropped partition would."""
    for rows in rig.store._rows.values():
        for window, bars in rows.items():
            low, high = bars.between(0, ts_ms), bars.between(ts_ms + MINUTE_MS, 1 << 60)
            rows[window] = type(bars).concat([low, high])


def _tamper(rig: SdkRig) -> None:
    for rows in rig.store._rows.values():
        for window, bars in rows.items():
            rows[window] = replace(bars, close=bars.close + 1)


def _cut_off(rig: SdkRig) -> None:
    """Let every later connection go nowhere."""
    link = rig.client._link
    provider_client = rig.provider._opened().coordinator
    for each in (link, provider_client._link):
        each._urls[:] = ["http://127.0.0.1:9"]


async def _submit_redo(rig: SdkRig, start_ms: int, end_ms: int, redo: Redo) -> None:
    spec = (await rig.client.coverage(SERIES)).spec
    assert spec is not None
    await rig.client.submit(
        BackfillRequest(
            dataset=SERIES.dataset,
            spec=spec,
            wanted=(Wanted(symbol=SERIES.symbol, start_ms=start_ms, end_ms=end_ms),),
            redo=redo,
        )
    )


def test_the_baseline_policy_is_the_documented_one() -> None:
    assert (BASELINE.total_deadline_ms, BASELINE.max_wait_backfill_ms) == (60_000, 45_000)
