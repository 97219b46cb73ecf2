"""Source budgets, breakers and pauses."""

from __future__ import annotations

from machine.machine_setup import Bench, acquire, ref, submit, whole
from seamfill.protocol.values import SourceOffer, Usage
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import (
    Complete,
    Limits,
    PauseSource,
    Renew,
    ResumeSource,
    SetLimits,
    Snooze,
)
from seamfill_coordinator.machine.outcomes import Nothing, Rejected, RejectReason, Renewed

# 600 a minute: a bucket of 100. A window of 100 bars costs 5 pages × 10 = 50.
OFFER = SourceOffer(source="ccxt:sim", weight_per_minute=600, page_bars=20, page_weight=10)


def _bench() -> Bench:
    bench = Bench()
    bench.do(submit(0, 10_000))
    return bench


def test_grants_stop_at_the_budget_and_go_on_as_it_refills() -> None:
    bench = _bench()
    first = bench.grants(acquire(windows=10, offer=OFFER))
    assert [grant.budget_weight for grant in first] == [50, 50]
    refusal = bench.do(acquire(offer=OFFER))
    assert refusal == Nothing(retry_after_ms=5_000, why="source_budget")
    assert bench.grants(acquire(offer=OFFER), after_ms=2_000) == ()
    bench.wait(2_000)
    assert bench.grants(acquire(offer=OFFER)) == ()
    assert len(bench.grants(acquire(offer=OFFER), after_ms=1_000)) == 1


def test_the_exchange_s_own_counter_lowers_the_bucket() -> None:
    """Another program on the same address spends from the same limit."""
    bench = _bench()
    (grant,) = bench.grants(acquire(offer=OFFER))
    usage = (Usage(source="ccxt:sim", used_weight=590),)
    bench.do(Complete(lease=ref(grant), covered=whole(grant), usage=usage))
    assert views.sources(bench.machine).sources[0].weight_available == 10
    assert bench.grants(acquire(offer=OFFER)) == ()


def test_a_window_dearer_than_the_bucket_goes_when_it_is_full() -> None:
    """Otherwise it would never go at all; it leaves a debt that later windows wait for."""
    bench = _bench()
    dear = SourceOffer(source="ccxt:sim", weight_per_minute=600, page_bars=1, page_weight=2)
    (grant,) = bench.grants(acquire(offer=dear, windows=5))
    assert grant.budget_weight == 200
    bench.wait(18_000)
    assert bench.grants(acquire(offer=dear)) == ()
    bench.wait(2_000)
    assert len(bench.grants(acquire(offer=dear))) == 1


def test_a_refusal_of_the_source_opens_the_breaker_for_every_worker() -> None:
    bench = _bench()
    (grant,) = bench.grants(acquire())
    usage = (Usage(source="ccxt:sim", penalty_ms=3_000, status=429),)
    bench.do(Snooze(lease=ref(grant), delay_ms=0, usage=usage))
    outcome = bench.do(acquire("w2"))
    assert outcome == Nothing(retry_after_ms=3_000, why="source_paused")
    source = views.sources(bench.machine).sources[0]
    assert (source.breaker_remaining_ms, source.last_status) == (3_000, 429)
    bench.wait(3_000)
    assert len(bench.grants(acquire("w2"))) == 1


def test_a_418_without_a_wait_stops_everybody_for_two_minutes() -> None:
    bench = _bench()
    (grant,) = bench.grants(acquire())
    bench.do(Renew(lease=ref(grant), ttl_ms=30_000, usage=(Usage(source="ccxt:sim", status=418),)))
    assert views.sources(bench.machine).sources[0].breaker_remaining_ms == 120_000


def test_a_paused_source_grants_nothing_and_tells_holders() -> None:
    bench = _bench()
    (grant,) = bench.grants(acquire())
    bench.do(PauseSource(source="ccxt:sim"))
    outcome = bench.do(acquire())
    assert isinstance(outcome, Nothing)
    assert outcome.why == "source_paused"
    renewed = bench.do(Renew(lease=ref(grant), ttl_ms=30_000))
    assert isinstance(renewed, Renewed)
    assert renewed.directive.value == "pause"
    bench.do(ResumeSource(source="ccxt:sim"))
    assert len(bench.grants(acquire())) == 1


def test_the_table_of_sources_has_a_cap() -> None:
    bench = _bench()
    bench.do(SetLimits(limits=Limits(sources=1)))
    assert len(bench.grants(acquire())) == 1
    refusal = bench.do(acquire("w2", offer=SourceOffer(source="ccxt:other")))
    assert isinstance(refusal, Rejected)
    assert refusal.reason is RejectReason.LIMIT_EXCEEDED
