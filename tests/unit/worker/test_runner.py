"""The lease loop against the real lease machine, in fake time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from seamfill.bars import Bars, content_digest
from seamfill.connectors import GenRange
from seamfill.errors import (
    CoordinatorUnavailable,
    OutcomeUnknown,
    SourceMalformed,
    SourceRateLimited,
    SourceUnavailable,
    StoreRefused,
    StoreUnavailable,
    UnknownSymbol,
)
from seamfill.memory_store import MemoryStore
from seamfill.protocol.leases import CompleteRequest, FailRequest, RevokeRequest, SnoozeRequest
from seamfill.protocol.values import GapReason, SeriesId
from seamfill_coordinator.machine.commands import CancelBackfill, DrainWorker
from seamfill_worker.held import WorkerReplaced
from unit.worker.model_venue import BASE, MINUTE, ModelVenue, bars_of
from unit.worker.worker_rig import SERIES, WorkerRig

LOST = "backfill_lease_lost_total"


def rig_with(minutes: Sequence[int] = range(400), **model: object) -> WorkerRig:
    return WorkerRig(ModelVenue(minutes, **model))  # type: ignore[arg-type]  # passed on by name


async def test_a_backfill_is_fetched_written_read_back_and_completed() -> None:
    rig = rig_with()
    rig.submit(0, 300)
    await rig.run_until(rig.is_settled)
    coverage = rig.coverage()
    assert [(view.start_ms, view.end_ms) for view in coverage.covered] == [
        (BASE, BASE + 300 * MINUTE)
    ]
    assert coverage.covered[0].content_digest == content_digest(bars_of(range(300)))
    assert await rig.stored_minutes() == list(range(300))
    assert rig.metric("backfill_rows_total") == 300
    assert rig.source.closed


async def test_several_symbols_share_a_flush() -> None:
    rig = rig_with()
    symbols = ("A/B", "C/D", "E/F", "G/H")
    rig.submit(0, 40, symbols=symbols)
    await rig.run_until(lambda: all(rig.is_settled(symbol) for symbol in symbols))
    for symbol in symbols:
        assert await rig.stored_minutes(symbol) == list(range(40))
    completions = [r for _, r in rig.coordinator.sent if isinstance(r, CompleteRequest)]
    assert sum(len(request.leases) for request in completions) > len(completions)


async def test_gaps_travel_with_their_reasons_and_the_listing_date_is_learnt_once() -> None:
    rig = rig_with([*range(45, 100), *range(107, 160)])
    rig.submit(0, 140)
    await rig.run_until(rig.is_settled)
    coverage = rig.coverage()
    assert {view.reason for view in coverage.gaps} == {
        GapReason.NOT_LISTED,
        GapReason.VENUE_OUTAGE,
    }
    assert coverage.listed_from_ms == BASE + 45 * MINUTE
    assert coverage.violated == ()
    assert await rig.stored_minutes() == [*range(45, 100), *range(107, 140)]


async def test_windows_held_together_ask_once_where_a_symbol_begins() -> None:
    """Ten windows lie before the first bar, all granted at once: two answers serve them all."""
    rig = rig_with(range(205, 300))
    rig.submit(0, 260)
    await rig.run_until(rig.is_settled)
    assert rig.coverage().listed_from_ms == BASE + 205 * MINUTE
    assert [at_ms for at_ms in rig.source.asked if at_ms <= MINUTE] == [0, MINUTE]


async def test_what_can_not_be_proved_is_violated_by_its_name() -> None:
    rig = rig_with(range(50))
    rig.submit(0, 80)
    await rig.run_until(rig.is_settled)
    coverage = rig.coverage()
    assert {view.reason for view in coverage.violated} == {"no_right_neighbour"}
    assert coverage.covered[-1].end_ms == BASE + 50 * MINUTE


async def test_an_unclosed_bar_is_snoozed_and_filled_once_it_has_settled() -> None:
    rig = rig_with(range(60), now_minute=59.5)
    rig.submit(40, 60)

    def time_passes(name: str) -> None:
        if any(sent == "snooze" for sent in rig.coordinator.names()):
            rig.model.now_minute = 61.5

    rig.coordinator.before = time_passes
    await rig.run_until(rig.is_settled)
    snooze = next(r for _, r in rig.coordinator.sent if isinstance(r, SnoozeRequest))
    assert snooze.leases[0].why == "bar_not_closed"
    assert snooze.leases[0].delay_ms == 32_000
    assert await rig.stored_minutes() == list(range(40, 60))
    assert rig.coverage().violated == ()


async def test_a_lease_lost_while_fetching_is_dropped_and_nothing_is_written() -> None:
    """The operator revokes it; the bars are filled under the next fence, not under this one."""
    rig = rig_with()
    rig.submit(0, 20)
    runner = rig.runner()
    revoked: set[int] = set()

    async def revoke(number: int) -> None:
        if number == 1:
            held = list(runner.held)
            revoked.update(one.grant.fence for one in held)
            rig.coordinator.revoke(RevokeRequest(leases=tuple(one.ref for one in held)))
            await rig.clock.sleep_ms(20_000)

    rig.source.before = revoke
    await rig.run_until(
        lambda: rig.is_settled() and rig.metric(LOST, reason="stale_fence") > 0, runner
    )
    assert revoked and not revoked & rig.store.fences
    assert await rig.stored_minutes() == list(range(20))


async def test_nothing_is_written_once_trust_has_ended() -> None:
    """The coordinator is out of reach for longer than the ttl while the window is fetched."""
    rig = rig_with()
    rig.submit(0, 20)

    async def slow(number: int) -> None:
        if number == 1:
            rig.coordinator.fail("*", CoordinatorUnavailable(), times=1_000)
            await rig.clock.sleep_ms(40_000)

    rig.source.before = slow
    await rig.run_until(lambda: rig.metric(LOST, reason="trust_ended") > 0)
    assert await rig.stored_minutes() == []
    assert "complete" not in rig.coordinator.names()


async def test_a_frozen_worker_is_answered_stale_when_it_wakes() -> None:
    """Its lease was granted again meanwhile; it writes nothing and learns it from a renewal."""
    rig = rig_with()
    rig.submit(0, 20)

    async def freeze(number: int) -> None:
        if number == 1:
            # Time jumps without anybody running, as when the process was stopped.
            rig.clock.now_ms += 60_000
            other = WorkerRig(rig.model, clock=rig.clock)
            other.coordinator = rig.coordinator
            assert await other.say_hello("w2", boot="b9")

    rig.source.before = freeze
    await rig.run_until(lambda: rig.metric(LOST, reason="stale_fence") > 0)
    assert await rig.stored_minutes() == []


async def test_a_lease_that_lapsed_unnoticed_is_renewed_before_it_is_written_under() -> None:
    """The coordinator's word counts: after an outage of its own the lease may still be ours."""
    rig = rig_with()
    rig.submit(0, 20)

    async def freeze(number: int) -> None:
        if number == 1:
            rig.clock.now_ms += 29_000  # past our margin, before the deadline

    rig.source.before = freeze
    await rig.run_until(rig.is_settled)
    assert await rig.stored_minutes() == list(range(20))
    assert rig.metric(LOST, reason="trust_ended") == 0


async def test_leases_are_renewed_with_their_cursor_while_fetching_is_slow() -> None:
    rig = rig_with()
    rig.submit(0, 20)

    async def slow(number: int) -> None:
        await rig.clock.sleep_ms(25_000)

    rig.source.before = slow
    await rig.run_until(rig.is_settled)
    renewals = [request for name, request in rig.coordinator.sent if name == "renew"]
    assert len(renewals) >= 4
    cursors = [item.cursor_ms for request in renewals for item in request.leases]  # type: ignore[attr-defined]
    assert any(cursor is not None for cursor in cursors)
    assert rig.metric("backfill_failure_total", code="lease_expired") == 0


async def test_drain_releases_what_is_being_fetched_and_finishes_what_was_fetched() -> None:
    rig = rig_with()
    rig.submit(0, 60)
    runner = rig.runner()

    async def third_window_hangs(number: int) -> None:
        if number > 5:
            await rig.clock.sleep_ms(25_000)

    rig.source.before = third_window_hangs
    before_ms = rig.clock.now_ms
    await rig.run_until(lambda: rig.source.fetches > 5, runner)
    assert rig.clock.now_ms - before_ms < 5_000
    assert "release" in rig.coordinator.names()
    assert len(runner.held) == 0
    # What was fetched was completed; the rest may be granted again at once, no attempt used.
    coverage = rig.coverage()
    assert sum(view.rows for view in coverage.covered) == len(await rig.stored_minutes())
    rig.source.before = WorkerRig(rig.model).source.before
    await rig.run_until(rig.is_settled, rig.runner(boot="b2"), limit_ms=20_000)
    assert await rig.stored_minutes() == list(range(60))


async def test_the_operators_drain_ends_the_worker() -> None:
    rig = rig_with()
    rig.submit(0, 20)

    async def slow(number: int) -> None:
        if number == 1:
            rig.coordinator.apply(DrainWorker(worker_id="w1"))
            await rig.clock.sleep_ms(20_000)

    rig.source.before = slow
    await rig.clock.run(rig.runner().run(), limit_ms=60_000)
    assert "release" in rig.coordinator.names()


async def test_a_cancelled_backfill_stops_what_is_being_fetched() -> None:
    rig = rig_with()
    rig.submit(0, 20)

    async def slow(number: int) -> None:
        rig.coordinator.apply(CancelBackfill(backfill_id="bf"))
        await rig.clock.sleep_ms(20_000)

    rig.source.before = slow
    await rig.run_until(lambda: "release" in rig.coordinator.names())
    assert await rig.stored_minutes() == []


async def test_429_snoozes_without_an_attempt_and_tells_the_others() -> None:
    rig = rig_with()
    rig.submit(0, 100)

    async def limited(number: int) -> None:
        if number == 2:
            raise SourceRateLimited("slow down", retry_after_ms=20_000)

    rig.source.before = limited
    await rig.run_until(rig.is_settled)
    snooze = next(r for _, r in rig.coordinator.sent if isinstance(r, SnoozeRequest))
    assert snooze.leases[0].why == "source_rate_limited"
    assert snooze.leases[0].delay_ms == 20_000
    assert (snooze.usage[0].penalty_ms, snooze.usage[0].status) == (20_000, 429)
    assert "fail" not in rig.coordinator.names()
    assert await rig.stored_minutes() == list(range(100))


@pytest.mark.parametrize("error", [SourceMalformed("HTML"), SourceUnavailable("reset")])
async def test_an_unusable_answer_is_asked_for_again_within_the_lease(
    error: SourceMalformed | SourceUnavailable,
) -> None:
    rig = rig_with()
    rig.submit(0, 20)

    async def three_times(number: int) -> None:
        if number <= 3:
            raise error

    rig.source.before = three_times
    await rig.run_until(rig.is_settled)
    assert rig.coordinator.names().count("fail") == 0
    assert rig.metric("backfill_source_error_total", code=error.code) == 3
    assert await rig.stored_minutes() == list(range(20))


async def test_a_source_that_never_answers_ends_violated_by_its_name() -> None:
    rig = rig_with()
    rig.submit(0, 20)

    async def never(number: int) -> None:
        raise SourceUnavailable("connection refused")

    rig.source.before = never
    await rig.run_until(rig.is_settled)
    assert [view.reason for view in rig.coverage().violated] == ["source_unavailable"]
    assert rig.coverage().violated[0].detail == "connection refused"


async def test_an_unknown_symbol_is_violated_at_once() -> None:
    rig = rig_with()
    rig.submit(0, 20)

    async def unknown(number: int) -> None:
        raise UnknownSymbol("did you mean A/B?")

    rig.source.before = unknown
    await rig.run_until(rig.is_settled)
    fails = [r for _, r in rig.coordinator.sent if isinstance(r, FailRequest)]
    assert len(fails) == 1 and not fails[0].leases[0].retryable
    assert rig.coverage().violated[0].reason == "unknown_symbol"


async def test_a_store_that_is_down_costs_no_attempt() -> None:
    rig = rig_with()
    rig.submit(0, 20)
    rig.store.fail_writes(StoreUnavailable(), times=60)
    await rig.run_until(rig.is_settled)
    assert rig.coordinator.names().count("snooze") > 5
    assert "fail" not in rig.coordinator.names()
    assert await rig.stored_minutes() == list(range(20))


async def test_a_store_that_refuses_ends_violated_with_what_it_said() -> None:
    rig = rig_with()
    rig.submit(0, 20)
    rig.store.fail_writes(StoreRefused("no space left on device"), times=1_000)
    await rig.run_until(rig.is_settled)
    violated = rig.coverage().violated[0]
    assert (violated.reason, violated.detail) == ("store_refused", "no space left on device")


class LyingStore(MemoryStore):
    """Reads back something else than was written, for the first ``lies`` reads."""

    def __init__(self, lies: int) -> None:
        super().__init__()
        self.lies = lies

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        bars = await super().read(series, ranges)
        if self.lies <= 0 or not len(bars):
            return bars
        self.lies -= 1
        close = bars.close.copy()
        close[-1] = np.nextafter(close[-1], np.inf)
        return replace(bars, close=close)


async def test_a_window_that_reads_back_differently_is_never_completed() -> None:
    """One bit in the last bar is enough."""
    rig = rig_with()
    rig.submit(0, 20)
    await rig.run_until(rig.is_settled, rig.runner(store=LyingStore(10_000)))
    assert "complete" not in rig.coordinator.names()
    assert rig.coverage().covered == ()
    assert [view.reason for view in rig.coverage().violated] == ["store_mismatch"]


async def test_a_mismatch_is_written_again_and_completed_when_it_reads_back() -> None:
    rig = rig_with()
    rig.submit(0, 20)
    await rig.run_until(rig.is_settled, rig.runner(store=LyingStore(1)))
    assert "fail" not in rig.coordinator.names()
    assert rig.coverage().covered[0].rows == 20


@pytest.mark.parametrize("applied", [True, False])
async def test_a_completion_of_unknown_outcome_is_repeated(applied: bool) -> None:
    rig = rig_with()
    rig.submit(0, 20)
    rig.coordinator.fail("complete", OutcomeUnknown(), times=2, applied=applied)
    await rig.run_until(rig.is_settled)
    completions = [r for _, r in rig.coordinator.sent if isinstance(r, CompleteRequest)]
    assert len(completions) >= 2 and all(request == completions[0] for request in completions)
    assert rig.coverage().covered[0].rows == 20
    assert rig.metric("backfill_rows_total") == 20


async def test_a_coordinator_that_is_away_is_asked_again_until_it_is_back() -> None:
    rig = rig_with()
    rig.submit(0, 20)
    rig.coordinator.fail("*", CoordinatorUnavailable(), times=6)
    await rig.run_until(rig.is_settled)
    assert rig.coverage().covered[0].rows == 20


async def test_a_worker_that_was_replaced_ends() -> None:
    """A newer process runs under its id; whatever it holds is no longer its own."""
    rig = rig_with()
    rig.submit(0, 20)

    async def replaced(number: int) -> None:
        if number == 1:
            newer = WorkerRig(rig.model, clock=rig.clock)
            newer.coordinator = rig.coordinator
            await newer.say_hello("w1", boot="b2")
            await rig.clock.sleep_ms(20_000)

    rig.source.before = replaced
    with pytest.raises(ExceptionGroup) as caught:
        await rig.clock.run(rig.runner().run(), limit_ms=60_000)
    assert caught.group_contains(WorkerReplaced)
    assert await rig.stored_minutes() == []


async def test_the_series_is_named_as_the_data_plane_does() -> None:
    rig = rig_with()
    rig.submit(0, 20)
    await rig.run_until(rig.is_settled)
    name = "ohlcv:model:A/B:1m"
    end = rig.metric("backfill_last_timestamp", node_id=name, interval="60")
    assert end == BASE + 20 * MINUTE
    assert rig.metric("gap_repair_latency_ms_count") == 1
    assert SERIES.symbol == "A/B"
