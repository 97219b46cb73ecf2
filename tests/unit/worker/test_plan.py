"""The plan of a window proves exactly the holes that exist, and believes no single answer."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamfill.protocol.values import GapReason
from seamfill_worker.plan import (
    Filled,
    Inconsistent,
    Unclosed,
    Unproved,
    Verdict,
    Window,
    fill,
)
from unit.worker.model_venue import BASE, MINUTE, SETTLE, Lie, ModelVenue, Row, bars_of, drive


def window(start: int, end: int, *, page_bars: int = 10, dense: bool = True) -> Window:
    return Window(
        start_ms=BASE + start * MINUTE,
        end_ms=BASE + end * MINUTE,
        interval_ms=MINUTE,
        page_bars=page_bars,
        settle_ms=SETTLE,
        dense=dense,
    )


def minutes(spans: tuple[tuple[int, int], ...]) -> set[int]:
    return {
        minute
        for start, end in spans
        for minute in range((start - BASE) // MINUTE, (end - BASE) // MINUTE)
    }


def filled(verdict: Verdict) -> Filled:
    assert isinstance(verdict, Filled), verdict
    return verdict


def gap_minutes(verdict: Filled) -> dict[int, GapReason]:
    return {
        minute: gap.reason
        for gap in verdict.gaps
        for minute in minutes(((gap.start_ms, gap.end_ms),))
    }


def assert_bars(verdict: Filled, expected: list[int], version: int = 0) -> None:
    truth = bars_of(expected, version)
    assert verdict.bars.ts_ms.tolist() == truth.ts_ms.tolist()
    assert np.array_equal(verdict.bars.close, truth.close)


def test_a_whole_window_costs_as_many_pages_as_its_bars_need() -> None:
    """1,800 bars in pages of 1,000: two questions, as the granted budget assumes."""
    venue = ModelVenue(range(3_000), page_bars=1_000)
    verdict = filled(drive(fill(window(100, 1_900, page_bars=1_000)), venue))
    assert len(venue.asked) == 2
    assert_bars(verdict, list(range(100, 1_900)))
    assert minutes(verdict.covered) == set(range(100, 1_900))
    assert verdict.gaps == () and verdict.rest is None


def test_an_outage_inside_the_window_is_a_gap_with_its_receipt() -> None:
    venue = ModelVenue([*range(30), *range(37, 80)])
    verdict = filled(drive(fill(window(10, 60)), venue))
    assert gap_minutes(verdict) == dict.fromkeys(range(30, 37), GapReason.VENUE_OUTAGE)
    receipt = verdict.gaps[0].receipt
    assert (receipt.left_ms, receipt.right_ms) == (BASE + 29 * MINUTE, BASE + 37 * MINUTE)
    first, second = receipt.asked
    assert first.start_ms != second.start_ms
    assert_bars(verdict, [*range(10, 30), *range(37, 60)])


def test_proof_waits_a_second_between_its_two_answers() -> None:
    venue = ModelVenue([*range(30), *range(37, 80)])
    filled(drive(fill(window(10, 60)), venue))
    assert venue.asked[-1].not_before_ms >= 1_000


@pytest.mark.parametrize("before", [1, 15, 16, 17, 480, 481, 5_000])
def test_a_window_inside_an_outage_finds_its_left_neighbour(before: int) -> None:
    """The hole begins any number of bars before the window and ends after it."""
    venue = ModelVenue([*range(-before - 700, -before), *range(50, 80)], page_bars=100)
    verdict = filled(drive(fill(window(0, 20, page_bars=100)), venue))
    assert gap_minutes(verdict) == dict.fromkeys(range(20), GapReason.VENUE_OUTAGE)
    assert verdict.gaps[0].receipt.left_ms == BASE - (before + 1) * MINUTE
    assert verdict.covered == ()


@pytest.mark.parametrize("when", range(1, 7))
@pytest.mark.parametrize("minute", [-6, 50])
def test_both_answers_of_a_proof_show_the_same_neighbours(when: int, minute: int) -> None:
    """One answer without a neighbour that lies outside the window does not move it."""
    hidden = BASE + minute * MINUTE
    venue = ModelVenue(
        [*range(-100, -5), *range(50, 80)],
        page_bars=100,
        lie=lambda number, rows: (
            [row for row in rows if row[0] != hidden] if number == when else rows
        ),
    )
    verdict = filled(drive(fill(window(0, 20, page_bars=100)), venue))
    receipt = verdict.gaps[0].receipt
    assert (receipt.left_ms, receipt.right_ms) == (BASE - 6 * MINUTE, BASE + 50 * MINUTE)


def test_what_lies_before_the_first_bar_is_not_listed_and_the_date_is_learnt() -> None:
    venue = ModelVenue(range(25, 90))
    verdict = filled(drive(fill(window(0, 40)), venue))
    assert gap_minutes(verdict) == dict.fromkeys(range(25), GapReason.NOT_LISTED)
    assert verdict.listed_from is not None
    assert verdict.listed_from.at_ms == BASE + 25 * MINUTE
    assert [asked.start_ms for asked in verdict.listed_from.receipt.asked] == [0, MINUTE]
    assert_bars(verdict, list(range(25, 40)))


def test_a_window_wholly_before_the_first_bar_learns_the_date_as_well() -> None:
    venue = ModelVenue(range(5_000, 5_100))
    verdict = filled(drive(fill(window(0, 40)), venue))
    assert gap_minutes(verdict) == dict.fromkeys(range(40), GapReason.NOT_LISTED)
    assert verdict.listed_from is not None and verdict.listed_from.at_ms == BASE + 5_000 * MINUTE


def test_after_the_last_bar_of_a_trading_symbol_nothing_can_be_proved() -> None:
    venue = ModelVenue(range(30))
    verdict = filled(drive(fill(window(10, 60)), venue))
    assert_bars(verdict, list(range(10, 30)))
    assert verdict.gaps == ()
    assert isinstance(verdict.rest, Unproved) and verdict.rest.code == "no_right_neighbour"


@pytest.mark.parametrize("start", [10, 30, 40, 900])
def test_after_the_last_bar_of_a_symbol_that_does_not_trade_it_is_delisted(start: int) -> None:
    venue = ModelVenue(range(30), trading=False)
    verdict = filled(drive(fill(window(start, start + 50)), venue))
    expected = range(max(30, start), start + 50)
    assert gap_minutes(verdict) == dict.fromkeys(expected, GapReason.DELISTED)
    assert verdict.delisted_at is not None and verdict.delisted_at.at_ms == BASE + 30 * MINUTE
    assert verdict.rest is None


def test_a_bar_that_has_not_settled_is_left_for_later() -> None:
    venue = ModelVenue(range(30), now_minute=29.5)
    verdict = filled(drive(fill(window(20, 30)), venue))
    assert_bars(verdict, list(range(20, 29)))
    assert verdict.rest == Unclosed(from_ms=BASE + 29 * MINUTE, delay_ms=30_000 + SETTLE)


def test_a_bar_is_taken_once_it_has_closed_and_settled() -> None:
    venue = ModelVenue(range(30), now_minute=30.0 + SETTLE / MINUTE)
    verdict = filled(drive(fill(window(20, 30)), venue))
    assert_bars(verdict, list(range(20, 30)))
    assert verdict.rest is None


def test_a_window_that_lies_wholly_in_the_future_waits() -> None:
    """The open bar before it is no news of the window itself."""
    venue = ModelVenue([0], now_minute=0.5)
    verdict = filled(drive(fill(window(1, 2)), venue))
    assert verdict.rest == Unclosed(from_ms=BASE + MINUTE, delay_ms=90_000 + SETTLE)


def test_an_open_bar_is_a_right_neighbour() -> None:
    venue = ModelVenue([*range(20), 30], now_minute=30.5)
    verdict = filled(drive(fill(window(10, 31)), venue))
    assert gap_minutes(verdict) == dict.fromkeys(range(20, 30), GapReason.VENUE_OUTAGE)
    assert isinstance(verdict.rest, Unclosed)


def test_known_listing_dates_bound_what_is_asked() -> None:
    venue = ModelVenue(range(30), trading=False)
    base = window(-20, 50)
    known = Window(
        start_ms=base.start_ms,
        end_ms=base.end_ms,
        interval_ms=MINUTE,
        page_bars=10,
        settle_ms=SETTLE,
        listed_from_ms=BASE,
        delisted_at_ms=BASE + 30 * MINUTE,
    )
    verdict = filled(drive(fill(known), venue))
    assert_bars(verdict, list(range(30)))
    assert verdict.gaps == () and verdict.rest is None


def test_a_sparse_window_is_covered_whole() -> None:
    exist = [minute for minute in range(90) if minute % 7]
    verdict = filled(drive(fill(window(10, 60, dense=False)), ModelVenue(exist)))
    assert minutes(verdict.covered) == set(range(10, 60))
    assert_bars(verdict, [minute for minute in exist if 10 <= minute < 60])
    assert verdict.gaps == ()


def test_a_restatement_between_two_pages_starts_the_window_over() -> None:
    """One complete version, never a mixture."""
    venue = ModelVenue(range(90), versions=lambda number, minute: int(number >= 3))
    verdict = filled(drive(fill(window(10, 60)), venue))
    assert_bars(verdict, list(range(10, 60)), version=1)


def restated_from(first: int, number: int, minute: int) -> int:
    return int(number >= first and 20 <= minute < 40)


def test_a_restatement_of_part_of_the_window_never_mixes() -> None:
    for first in range(1, 12):
        venue = ModelVenue(
            range(90),
            versions=partial(restated_from, first),
        )
        verdict = filled(drive(fill(window(10, 60)), venue))
        restated = set(verdict.bars.between(BASE + 20 * MINUTE, BASE + 40 * MINUTE).close % 1)
        assert len(restated) == 1, first


def test_a_source_that_restates_all_the_time_is_called_inconsistent() -> None:
    venue = ModelVenue(range(90), versions=lambda number, minute: number % 2)
    verdict = drive(fill(window(10, 60)), venue)
    assert isinstance(verdict, Inconsistent)
    assert "differs between two answers" in verdict.detail


def drop(count: int) -> Lie:
    return lambda number, rows: rows[: len(rows) // 2] + rows[len(rows) // 2 + count :]


def halve_last(number: int, rows: list[Row]) -> list[Row]:
    return [*rows[:-1], (*rows[-1][:5], rows[-1][5] / 2)] if rows else rows


def nothing(number: int, rows: list[Row]) -> list[Row]:
    return []


@pytest.mark.parametrize("lie", [drop(1), drop(3), halve_last, nothing])
@pytest.mark.parametrize("when", range(1, 9))
@pytest.mark.parametrize("end", [60, 90])
def test_one_lying_answer_never_changes_the_verdict(lie: Lie, when: int, end: int) -> None:
    """Dropped bars, a half-filled last row and an empty page are each believed by nobody."""
    venue = ModelVenue(
        [*range(30), *range(37, 90)],
        lie=lambda number, rows: lie(number, rows) if number == when else rows,
    )
    verdict = filled(drive(fill(window(10, end)), venue))
    assert_bars(verdict, [*range(10, 30), *range(37, end)])
    assert gap_minutes(verdict) == dict.fromkeys(range(30, 37), GapReason.VENUE_OUTAGE)
    assert np.all(verdict.bars.volume == 5.0)


@pytest.mark.parametrize("every", [2, 3, 4])
def test_a_source_that_lies_often_gives_the_truth_or_an_inconsistency(every: int) -> None:
    venue = ModelVenue(
        range(90), lie=lambda number, rows: drop(2)(number, rows) if number % every == 0 else rows
    )
    verdict = drive(fill(window(10, 60)), venue)
    if isinstance(verdict, Filled):
        assert_bars(verdict, list(range(10, 60)))
        assert verdict.gaps == ()


class TestAnyWorld:
    """For any bars, window, page size and clock: covered, gaps and rest are exactly the truth."""

    @given(
        exist=st.sets(st.integers(-40, 160), min_size=0, max_size=150),
        start=st.integers(-10, 60),
        length=st.integers(1, 90),
        page_bars=st.integers(5, 40),
        now=st.one_of(st.just(1_000_000.0), st.integers(0, 200).map(lambda m: m + 0.5)),
        trading=st.booleans(),
    )
    @settings(max_examples=300, deadline=None)
    def test_the_verdict_is_the_truth(
        self,
        exist: set[int],
        start: int,
        length: int,
        page_bars: int,
        now: float,
        trading: bool,
    ) -> None:
        venue = ModelVenue(sorted(exist), now_minute=now, page_bars=page_bars, trading=trading)
        verdict = filled(drive(fill(window(start, start + length, page_bars=page_bars)), venue))
        wanted = set(range(start, start + length))
        begun = {minute for minute in exist if minute <= now}
        settled = {minute for minute in begun if minute + 1 + SETTLE / MINUTE <= now}
        gaps = gap_minutes(verdict)
        covered = minutes(verdict.covered)

        assert covered <= settled & wanted
        assert not set(gaps) & begun
        assert not covered & set(gaps)
        assert_bars(verdict, sorted(covered))
        left_over = wanted - covered - set(gaps)
        if verdict.rest is None:
            assert not left_over
        for minute, reason in gaps.items():
            match reason:
                case GapReason.NOT_LISTED:
                    assert minute < min(begun)
                case GapReason.DELISTED:
                    assert not trading and minute > max(begun)
                case _:
                    assert min(begun) < minute < max(begun)
        for minute in wanted & settled:
            assert minute in covered
        for minute in left_over:
            assert not begun or minute >= max(begun) or minute + 1 > now - 1


def test_page_sizes_that_creep_are_refused() -> None:
    """A venue that sends two bars at a time whatever is asked does not keep a worker for ever."""

    def creep(number: int, rows: list[Row]) -> list[Row]:
        return rows[:3]

    verdict = drive(fill(window(0, 90)), ModelVenue(range(99), lie=creep))
    assert isinstance(verdict, Inconsistent) and "a few bars only" in verdict.detail
