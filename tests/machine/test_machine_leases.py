"""Leases, redo and listing dates where a range's fate depends on its history."""

from __future__ import annotations

import pytest

from machine.machine_setup import (
    MINUTE,
    SPEC,
    Bench,
    acquire,
    covered,
    gap,
    listing,
    ref,
    submit,
    whole,
)
from seamfill.protocol.values import GapReason, Redo, SeriesId, WorkerIdentity
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import (
    Acquire,
    CancelBackfill,
    Complete,
    DrainWorker,
    Fail,
    Limits,
    PauseBackfill,
    Release,
    Renew,
    ResumeBackfill,
    SetLimits,
    Submit,
)
from seamfill_coordinator.machine.outcomes import (
    Accepted,
    Already,
    Completed,
    Nothing,
    Outcome,
    Rejected,
    RejectReason,
    Renewed,
    Violated,
)
from seamfill_coordinator.machine.view_unfilled import MAX_UNFILLED

BTC = SeriesId(dataset="bars", symbol="BTC/USDT")


def reason(outcome: Outcome) -> RejectReason | None:
    return outcome.reason if isinstance(outcome, Rejected) else None


def test_a_cancel_and_a_new_submit_do_not_shorten_the_lock_delay() -> None:
    """The old holder's last write may still land, whoever wants the bars now."""
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    bench.do(Release(lease=ref(grant)))
    bench.do(CancelBackfill(backfill_id="bf"))
    bench.do(submit(0, 100, name="again"))
    assert bench.grants(acquire("w2"), after_ms=1_000) == ()
    bench.wait(3_999)
    assert bench.grants(acquire("w2")) == ()
    assert len(bench.grants(acquire("w2"), after_ms=1)) == 1


def test_a_retry_of_violated_bars_waits_for_the_lock_delay() -> None:
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    assert bench.do(Fail(lease=ref(grant), code="bad", retryable=False)) == Violated(reason="bad")
    bench.do(submit(0, 100, name="retry", redo=Redo.FAILED))
    outcome = bench.do(acquire())
    assert outcome == Nothing(retry_after_ms=5_000, why="none_due")
    bench.wait(5_000)
    assert len(bench.grants(acquire())) == 1


def test_a_restatement_ends_an_expired_lease_s_fence_too() -> None:
    """Its holder read before the values changed; only *mere* expiry lets a late Complete count."""
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    bench.wait(36_000)
    bench.do(submit(0, 10, name="changed", redo=Redo.RESTATED))
    late = bench.do(Complete(lease=ref(grant), covered=whole(grant)))
    assert reason(late) is RejectReason.STALE_FENCE


def test_a_late_complete_counts_and_a_final_one_is_the_last_word() -> None:
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    bench.wait(36_000)
    late = Complete(lease=ref(grant), covered=(covered(0, 10),), final=False)
    assert isinstance(bench.do(late), Completed)
    assert isinstance(bench.do(late), Already)
    final = Complete(lease=ref(grant), covered=(covered(10, 20),))
    assert isinstance(bench.do(final), Completed)
    after = Complete(lease=ref(grant), covered=(covered(20, 30),))
    assert reason(bench.do(after)) is RejectReason.STALE_FENCE


def test_other_content_under_one_fence_is_a_conflict() -> None:
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    bench.do(Complete(lease=ref(grant), covered=whole(grant)))
    assert isinstance(bench.do(Complete(lease=ref(grant), covered=whole(grant))), Already)
    other = bench.do(Complete(lease=ref(grant), covered=whole(grant, 2)))
    assert reason(other) is RejectReason.RESULT_CONFLICT


def test_readers_get_old_values_as_of_an_old_rev_and_are_told_where_nobody_knows() -> None:
    bench = Bench()
    bench.do(submit(0, 300))
    for grant in bench.grants(acquire(windows=3)):
        bench.do(Complete(lease=ref(grant), covered=whole(grant)))
    before = bench.machine.rev
    for turn in (1, 2):
        bench.do(submit(100, 200, name=f"changed-{turn}", redo=Redo.RESTATED))
        (grant,) = bench.grants(acquire())
        assert grant.gen == turn
        bench.do(Complete(lease=ref(grant), covered=whole(grant, turn + 1)))
    now = views.coverage(bench.machine, BTC, None, None)
    assert [view.gen for view in now.covered] == [0, 2, 0]
    then = views.coverage(bench.machine, BTC, None, None, as_of=before)
    assert [(view.gen, view.rows) for view in then.covered] == [(0, 300)]
    assert then.restated == ()
    bench.do(SetLimits(limits=Limits(restatements=1)))
    bench.do(submit(0, 100, name="third", redo=Redo.RESTATED))
    (grant,) = bench.grants(acquire())
    bench.do(Complete(lease=ref(grant), covered=whole(grant)))
    then = views.coverage(bench.machine, BTC, None, None, as_of=before)
    assert then.restated == ((100 * MINUTE, 200 * MINUTE),)


def test_a_failed_redo_leaves_the_old_bars_and_says_so() -> None:
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    bench.do(Complete(lease=ref(grant), covered=whole(grant)))
    bench.do(submit(0, 100, name="changed", redo=Redo.RESTATED))
    (grant,) = bench.grants(acquire())
    bench.do(Fail(lease=ref(grant), code="mismatch", retryable=False))
    answer = views.coverage(bench.machine, BTC, None, None)
    assert [view.gen for view in answer.covered] == [0]
    assert [(view.reason, view.redo_failed) for view in answer.violated] == [("mismatch", True)]
    view = views.backfill(bench.machine, "changed")
    assert view is not None
    assert (view.state, view.ratio) == ("incomplete", 1.0)


def test_bars_before_the_listing_become_gaps_now_leased_ones_when_their_lease_ends() -> None:
    bench = Bench()
    bench.do(submit(0, 400))
    first, second = bench.grants(acquire(windows=2))
    date = listing(250, GapReason.NOT_LISTED)
    bench.do(Complete(lease=ref(first), covered=(), listed_from=date))
    answer = views.coverage(bench.machine, BTC, None, None)
    spans = [(view.start_ms // MINUTE, view.end_ms // MINUTE) for view in answer.gaps]
    assert spans == [(0, 100), (200, 250)]
    assert answer.gaps[0].receipt == date.receipt
    bench.do(Release(lease=ref(second)))
    answer = views.coverage(bench.machine, BTC, None, None)
    spans = [(view.start_ms // MINUTE, view.end_ms // MINUTE) for view in answer.gaps]
    assert spans == [(0, 250)]
    plan = bench.do(submit(0, 300, name="later", dry_run=True))
    assert isinstance(plan, Accepted)
    assert (plan.already_gap, plan.windows) == (250, 1)


def test_listing_dates_are_told_also_where_nothing_else_is_known_of_the_series() -> None:
    """Learnt under a backfill that was cancelled later: no facts, tasks or wants are left."""
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    date = listing(500, GapReason.DELISTED)
    bench.do(Complete(lease=ref(grant), covered=(), final=False, delisted_at=date))
    bench.do(CancelBackfill(backfill_id="bf"))
    bench.do(Release(lease=ref(grant)))
    answer = views.coverage(bench.machine, BTC, None, None)
    assert (answer.covered, answer.gaps, answer.in_flight) == ((), (), ())
    assert answer.delisted_at_ms == date.at_ms
    asked = views.coverage(bench.machine, BTC, 50 * MINUTE, 50 * MINUTE)
    assert (asked.start_ms, asked.end_ms) == (50 * MINUTE, 50 * MINUTE)
    assert asked.delisted_at_ms == date.at_ms


def test_a_covered_bar_outside_the_listing_is_a_conflict() -> None:
    bench = Bench()
    bench.do(submit(0, 200))
    first, second = bench.grants(acquire(windows=2))
    bench.do(Complete(lease=ref(first), covered=whole(first)))
    date = listing(50, GapReason.NOT_LISTED)
    refusal = bench.do(Complete(lease=ref(second), covered=whole(second), listed_from=date))
    assert reason(refusal) is RejectReason.RESULT_CONFLICT
    assert views.coverage(bench.machine, BTC, None, None).listed_from_ms is None


def test_a_gap_at_the_ledger_s_cap_is_violated_instead() -> None:
    bench = Bench()
    bench.do(SetLimits(limits=Limits(gaps=1)))
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())
    gaps = (gap(10, 20), gap(30, 40))
    bench.do(Complete(lease=ref(grant), covered=(), gaps=gaps, final=False))
    answer = views.coverage(bench.machine, BTC, None, None)
    assert len(answer.gaps) == 1
    assert [view.reason for view in answer.violated] == ["ledger_full"]


def test_a_new_process_takes_over_and_the_old_one_is_told_to_go() -> None:
    bench = Bench()
    bench.do(submit(0, 300))
    (old,) = bench.grants(acquire(boot="old"))
    (new,) = bench.grants(acquire(boot="new"))
    assert new.start_ms != old.start_ms, "what the old one held is quiet for 5 s"
    assert reason(bench.do(acquire(boot="old"))) is RejectReason.WORKER_REPLACED
    stale = bench.do(Complete(lease=ref(old), covered=whole(old)))
    assert reason(stale) is RejectReason.STALE_FENCE
    bench.wait(5_000)
    (again,) = bench.grants(acquire(boot="new"))
    assert (again.start_ms, again.attempts) == (old.start_ms, 0)


def test_directives_tell_a_holder_what_became_of_its_work() -> None:
    bench = Bench()
    bench.do(submit(0, 100))
    (grant,) = bench.grants(acquire())

    def directive() -> str:
        renewed = bench.do(Renew(lease=ref(grant), ttl_ms=30_000))
        assert isinstance(renewed, Renewed)
        return renewed.directive.value

    assert directive() == "continue"
    bench.do(PauseBackfill(backfill_id="bf"))
    assert directive() == "pause"
    bench.do(ResumeBackfill(backfill_id="bf"))
    bench.do(DrainWorker(worker_id="w1"))
    assert directive() == "drain"
    assert bench.do(acquire()) == Nothing(retry_after_ms=5_000, why="draining")
    bench.do(CancelBackfill(backfill_id="bf"))
    assert directive() == "cancel"
    assert isinstance(bench.do(Complete(lease=ref(grant), covered=whole(grant))), Completed)
    assert views.coverage(bench.machine, BTC, None, None).covered[0].rows == 100


def test_every_reason_for_nothing_is_told() -> None:
    bench = Bench()

    def why(operation: Acquire) -> str:
        outcome = bench.do(operation)
        assert isinstance(outcome, Nothing)
        return outcome.why

    assert why(acquire()) == "no_work"
    bench.do(submit(0, 100))
    assert why(acquire(stores=("questdb:x",))) == "no_matching_source_or_store"
    bench.do(SetLimits(limits=Limits(leases=1)))
    (grant,) = bench.grants(acquire())
    bench.do(submit(500, 600, name="more"))
    assert why(acquire()) == "lease_limit"
    bench.do(SetLimits(limits=Limits()))
    bench.grants(acquire(windows=9))
    assert why(acquire()) == "no_work"
    bench.do(Release(lease=ref(grant)))
    assert why(acquire()) == "none_due"


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (submit(0, 10, symbols=("A|B",)), "wanted[0].symbol"),
        (submit(0, 10, symbols=("A", "B\n")), "wanted[1].symbol"),
        (submit(10, 10), "wanted[0].start_ms"),
        (submit(0, 10, window_bars=0), "window_bars"),
        (submit(0, 10, name="no blanks"), "backfill_id"),
        (submit(0, 10, spec=SPEC.__class__(kind="o", interval_ms=7, source="s", store="t")),
         "wanted[0].end_ms"),
    ],
)  # fmt: skip
def test_bad_submits_name_the_field(operation: Submit, field: str) -> None:
    bench = Bench()
    refusal = bench.do(operation)
    assert isinstance(refusal, Rejected)
    assert (refusal.reason, refusal.field) == (RejectReason.INVALID, field)
    assert not bench.machine.state.series


def test_bad_names_of_workers_are_refused() -> None:
    bench = Bench()
    bad = Acquire(
        worker=WorkerIdentity(id="a|b", boot="x"),
        offers=acquire().offers,
        stores=("s",),
        max_windows=1,
        ttl_ms=1,
    )
    refusal = bench.do(bad)
    assert isinstance(refusal, Rejected)
    assert refusal.field == "worker.id"
    assert not bench.machine.state.workers


def test_a_submit_behind_the_last_closed_bar_is_complete_with_nothing() -> None:
    bench = Bench()
    outcome = bench.do(submit(100, 200, closed_before_ms=100 * MINUTE))
    assert isinstance(outcome, Accepted)
    assert (outcome.bars, outcome.start_ms, outcome.end_ms) == (0, 100 * MINUTE, 100 * MINUTE)
    assert outcome.requested_end_ms == 200 * MINUTE
    view = views.backfill(bench.machine, "bf")
    assert view is not None
    assert view.state == "complete"


def test_a_change_of_facts_is_never_hidden_behind_one_coverage_rev() -> None:
    """Expiries change facts without an operation; a cache keyed by the rev must notice."""
    bench = Bench()
    bench.do(submit(0, 200))
    first, second = bench.grants(acquire(windows=2))
    date = listing(150, GapReason.NOT_LISTED)
    bench.do(Complete(lease=ref(first), covered=(), listed_from=date))
    before = views.coverage(bench.machine, BTC, None, None, in_flight=False)
    bench.wait(36_000)
    after = views.coverage(bench.machine, BTC, None, None, in_flight=False)
    assert ref(second).fence not in bench.machine.state.leases
    assert before.gaps != after.gaps
    assert after.coverage_rev > before.coverage_rev


def test_a_backfill_tells_why_bars_are_not_there() -> None:
    """Given up and put off are told apart, each reason once, the one with most bars first."""
    bench = Bench()
    bench.do(submit(0, 300, window_bars=100))
    first, second, third = bench.grants(acquire(windows=3))
    for lease, retryable in ((first, False), (second, False), (third, True)):
        code = "disk_full" if retryable else "unknown_symbol"
        bench.do(Fail(lease=ref(lease), code=code, retryable=retryable, detail="no such pair"))
    view = views.backfill(bench.machine, "bf")
    assert view is not None
    told = [(each.state, each.reason, each.bars, each.start_ms) for each in view.unfilled]
    assert told == [
        ("violated", "unknown_symbol", 200, 0),
        ("waiting", "disk_full", 100, 200 * MINUTE),
    ]
    assert view.unfilled[0].detail == "no such pair"
    bench.do(CancelBackfill(backfill_id="bf"))
    ended = views.backfill(bench.machine, "bf")
    assert ended is not None
    assert [each.reason for each in ended.unfilled] == ["unknown_symbol"]


def test_reasons_of_one_view_are_bounded() -> None:
    bench = Bench()
    bench.do(submit(0, (MAX_UNFILLED + 1) * 10, window_bars=10))
    while bench.machine.state.backfills["bf"].state.is_open:
        for n, lease in enumerate(bench.grants(acquire(windows=5))):
            bench.do(Fail(lease=ref(lease), code=f"r{lease.start_ms}-{n}", retryable=False))
    view = views.backfill(bench.machine, "bf")
    assert view is not None
    assert len(view.unfilled) == MAX_UNFILLED


def test_a_redo_that_failed_is_a_reason_too() -> None:
    bench = Bench()
    bench.do(submit(0, 10))
    (lease,) = bench.grants(acquire())
    bench.do(Complete(lease=ref(lease), covered=whole(lease)))
    bench.do(submit(0, 10, name="again", redo=Redo.RESTATED))
    bench.wait(6_000)
    (lease,) = bench.grants(acquire())
    bench.do(Fail(lease=ref(lease), code="mismatch", retryable=False))
    view = views.backfill(bench.machine, "again")
    assert view is not None
    assert [(each.state, each.reason) for each in view.unfilled] == [("violated", "mismatch")]
