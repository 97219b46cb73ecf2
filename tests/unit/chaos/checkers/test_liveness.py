"""Recovery, measured and bounded."""

from __future__ import annotations

import pytest

from seamfill_chaos.checkers.liveness import (
    Progress,
    Recoveries,
    check_converged,
    check_terms,
    check_written,
    converged_after_ms,
    percentile,
    written_after_ms,
)
from seamfill_chaos.history import History, Read, Recorder, Seen
from seamfill_coordinator.machine.commands import Barrier, Request
from seamfill_coordinator.machine.outcomes import Done, Reply

WRITE = Request(operations=(Barrier(),))


def history(*writes: tuple[int, int | None]) -> History:
    """Writes, each with the times of its beginning and, if it was answered, its end."""
    now_ms = 0
    recorder = Recorder(lambda: now_ms)
    for began_ms, ended_ms in writes:
        now_ms = began_ms
        number = recorder.invoke("a", WRITE, node="n")
        if ended_ms is not None:
            now_ms = ended_ms
            recorder.ok(number, Reply(outcomes=(Done(),), rev=1))
    return recorder.history()


def test_a_recovery_is_the_first_write_asked_after_the_moment_and_answered() -> None:
    asked = history((90, 110), (120, None), (150, 400), (160, 300))
    assert written_after_ms(asked, 100) == 200
    assert written_after_ms(asked, 170) is None


def test_reads_and_refusals_are_no_recovery() -> None:
    recorder = Recorder(lambda: 5)
    recorder.ok(recorder.invoke("a", Read(key="k"), node="n"), Seen(token=None, rev=1))
    recorder.refused(recorder.invoke("a", WRITE, node="n"), "not_leader")
    assert written_after_ms(recorder.history(), 0) is None


@pytest.mark.parametrize(
    ("writes", "text"),
    [
        (((100, 1_100),), None),
        (((100, 1_101),), "it took 1001 ms"),
        (((99, 150),), "none until 9000 ms"),
    ],
)
def test_a_write_must_be_answered_in_time(
    writes: tuple[tuple[int, int], ...], text: str | None
) -> None:
    violations = check_written(history(*writes), 100, within_ms=1_000, until_ms=9_000)
    if text is None:
        assert violations == []
    else:
        (violation,) = violations
        assert text in str(violation)


def progress(*told: tuple[int, str, int]) -> Progress:
    result = Progress()
    for at_ms, node, index in told:
        result.reached(node, at_ms, index)
    return result


def test_converged_is_when_the_last_live_node_has_all_that_any_had() -> None:
    run = progress((0, "a", 10), (0, "b", 4), (50, "a", 11), (300, "b", 9), (450, "b", 12))
    assert run.at(49) == 10
    assert converged_after_ms(run, ("a", "b"), 100) == 350
    assert converged_after_ms(run, ("a",), 100) == 0
    assert converged_after_ms(run, ("a", "b", "c"), 100) is None
    assert check_converged(run, ("a", "b"), 100, within_ms=350) == []
    (late,) = check_converged(run, ("a", "b"), 100, within_ms=349)
    assert "b should have applied index 11" in str(late)
    (never,) = check_converged(run, ("a", "c"), 100, within_ms=349)
    assert "c should have" in str(never) and "never did" in str(never)


def test_a_node_that_was_put_back_has_to_come_again() -> None:
    run = progress((0, "a", 10), (0, "b", 10), (50, "b", 0), (500, "b", 10))
    assert converged_after_ms(run, ("a", "b"), 100) == 400


def test_percentiles_are_values_that_occurred() -> None:
    values = list(range(100, 0, -1))
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7], 0.5) == 7
    assert percentile([1, 2, 3], 0.99) == 3


def test_a_ledger_of_recoveries_has_bounds_for_each_kind() -> None:
    ledger = Recoveries(took_ms={"crash": [*range(990), *[5_000] * 10], "cut": [900, 4_000]})
    assert ledger.check({"crash": 1_200}) == []
    (slow,) = ledger.check({"cut": 3_000})
    assert "cut: 99% of 2 recoveries took up to 4000 ms, more than 3000 ms" in str(slow)
    (unseen,) = ledger.check({"pause": 3_000})
    assert "no recovery of kind 'pause' was seen" in str(unseen)
    assert ledger.lines()[1] == "cut: 2 recoveries, p50 900 ms, p99 4000 ms, longest 4000 ms"


def test_terms_are_used_up_by_disturbances_alone() -> None:
    assert check_terms(5, disturbances=3) == []
    (violation,) = check_terms(6, disturbances=3)
    assert "term 6 was reached after 3 disturbances; 5 would do" in str(violation)
