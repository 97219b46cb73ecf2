"""The search itself, on the plainest object there is: a register."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seamfill_chaos.checkers.linearizability import Call, Finding, Verdict, search


@dataclass(frozen=True)
class Put:
    value: int


@dataclass(frozen=True)
class Get:
    value: int


Step = Put | Get


class Register:
    """Holds the last value put; 0 at first."""

    def initial(self) -> int:
        return 0

    def step(self, state: int, value: Step, /) -> int | None:
        match value:
            case Put(new):
                return new
            case Get(seen):
                return state if seen == state else None

    def split(self, state: int, /) -> tuple[int, tuple[int, ...]]:
        return state, ()


def call(number: int, invoked: int, returned: int | None, value: Step) -> Call[Step]:
    return Call(
        number=number,
        invoked=invoked,
        returned=returned,
        value=value,
        is_certain=returned is not None,
    )


def judge(*calls: Call[Step], budget: int = 10_000) -> Verdict[int]:
    return search(calls, Register(), budget=budget)


def is_linearizable(*calls: Call[Step]) -> bool:
    verdict = judge(*calls, budget=300_000)
    assert verdict.finding is not Finding.UNDECIDED
    return verdict.finding is Finding.LINEARIZABLE


def test_nothing_is_linearizable() -> None:
    assert is_linearizable()


def test_concurrent_operations_may_be_seen_in_either_order() -> None:
    puts = (call(1, 0, 10, Put(1)), call(2, 1, 9, Put(2)))
    assert is_linearizable(*puts, call(3, 11, 12, Get(1)))
    assert is_linearizable(*puts, call(3, 11, 12, Get(2)))
    assert not is_linearizable(*puts, call(3, 11, 12, Get(0)))


def test_a_read_may_see_a_write_that_has_not_ended_and_no_later_read_may_miss_it() -> None:
    put = call(1, 0, 100, Put(1))
    assert is_linearizable(put, call(2, 10, 20, Get(1)), call(3, 30, 40, Get(1)))
    assert not is_linearizable(put, call(2, 10, 20, Get(1)), call(3, 30, 40, Get(0)))


def test_a_stale_read_is_found_and_told() -> None:
    verdict = judge(call(1, 0, 1, Put(1)), call(2, 2, 3, Put(2)), call(3, 4, 5, Get(1)))
    assert verdict.finding is Finding.NOT_LINEARIZABLE
    assert (verdict.order, verdict.stuck, verdict.state) == ((1, 2), (3,), 2)
    assert "none of 3 can be next" in verdict.explain()


def test_the_example_that_is_sequentially_consistent_only() -> None:
    """Each caller alone could be right; real time says otherwise (Herlihy and Wing 1990)."""
    assert not is_linearizable(call(1, 0, 1, Put(1)), call(2, 2, 3, Get(0)), call(3, 4, 5, Get(1)))


@pytest.mark.parametrize("seen", [(0, 0), (0, 5), (5, 5)])
def test_an_unknown_write_takes_effect_late_or_never(seen: tuple[int, int]) -> None:
    first, second = seen
    assert is_linearizable(
        call(1, 0, None, Put(5)), call(2, 10, 11, Get(first)), call(3, 20, 21, Get(second))
    )


def test_an_unknown_write_takes_effect_once_and_not_before_it_was_asked() -> None:
    unknown = call(1, 10, None, Put(5))
    assert not is_linearizable(unknown, call(2, 0, 1, Get(5)))
    assert not is_linearizable(
        unknown, call(2, 12, 13, Get(5)), call(3, 14, 15, Put(1)), call(4, 16, 17, Get(5))
    )


def test_a_certain_call_without_a_known_end_has_to_be_placed() -> None:
    late = replace(call(1, 0, None, Get(7)), is_certain=True)
    assert not is_linearizable(late)
    assert is_linearizable(late, call(2, 5, 6, Put(7)))


def test_without_budget_nothing_is_decided() -> None:
    calls = [call(number, 0, 100, Put(number)) for number in range(12)]
    verdict = judge(*calls, call(99, 101, 102, Get(-1)), budget=500)
    assert verdict.finding is Finding.UNDECIDED
    assert "undecided" in verdict.explain()


def test_configurations_are_not_tried_twice() -> None:
    """Twelve concurrent writes of one value: 2¹² configurations, against 12! orders."""
    calls = [call(number, 0, 100, Put(1)) for number in range(12)]
    verdict = judge(*calls, call(99, 101, 102, Get(2)), budget=12 * 2**12)
    assert verdict.finding is Finding.NOT_LINEARIZABLE


def test_the_cost_of_a_long_history_is_that_of_its_concurrency() -> None:
    calls = [
        call(number, 10 * number, 10 * number + 25, Put(number) if number % 3 else Get(number - 1))
        for number in range(1, 6_001)
    ]
    verdict = judge(*calls, budget=100_000)
    assert verdict.finding is Finding.LINEARIZABLE
    assert verdict.tried < 60_000


def atomic_execution(seed: int, *, callers: int, steps: int) -> list[Call[Step]]:
    """Callers use a register at a moment somewhere between asking and hearing; some never hear."""
    rng = random.Random(seed)
    asked: list[tuple[int, int, int, bool, bool]] = []
    for _ in range(callers):
        now = rng.randrange(20)
        for _ in range(steps):
            start = now + rng.randrange(10)
            moment = start + rng.randrange(15)
            end = moment + rng.randrange(15)
            asked.append((moment, start, end, rng.random() < 0.5, rng.random() < 0.06))
            now = end + 1
    value = 0
    calls: list[Call[Step]] = []
    for number, (_, start, end, is_put, is_lost) in enumerate(sorted(asked), start=1):
        if is_put:
            if is_lost and rng.random() < 0.5:
                calls.append(call(number, 2 * start, None, Put(number)))
                continue  # it never took effect
            value = number
            # Beginnings are even, ends odd: what touches does not overlap.
            calls.append(call(number, 2 * start, None if is_lost else 2 * end + 1, Put(number)))
        elif not is_lost:
            calls.append(call(number, 2 * start, 2 * end + 1, Get(value)))
    return calls


def executions(*, callers: int, steps: int) -> st.SearchStrategy[list[Call[Step]]]:
    return st.builds(
        atomic_execution,
        st.integers(0, 2**32),
        callers=st.integers(1, callers),
        steps=st.integers(1, steps),
    )


# To refute an order every configuration has to be tried, hence fewer callers.
small_executions = executions(callers=3, steps=12)


@settings(deadline=None)
@given(executions(callers=4, steps=25))
def test_every_execution_of_an_atomic_register_is_accepted(calls: list[Call[Step]]) -> None:
    assert is_linearizable(*calls)


@settings(deadline=None)
@given(small_executions, st.randoms(use_true_random=False))
def test_an_acknowledged_write_that_is_lost_is_found(
    calls: list[Call[Step]], rng: random.Random
) -> None:
    """All is quiet, a write is acknowledged, and what is read next is the value before it."""
    end = 2 + max((c.returned or c.invoked for c in calls), default=0)
    before = rng.randrange(1_000, 2_000)
    after = before + rng.randrange(1, 10)
    calls = [
        *calls,
        call(3_001, end, end + 1, Put(before)),
        call(3_002, end + 2, end + 3, Put(after)),
        call(3_003, end + 4, end + 5, Get(before)),
    ]
    assert not is_linearizable(*calls)


@settings(deadline=None, max_examples=30)
@given(small_executions)
def test_a_read_of_what_was_overwritten_before_it_began_is_found(calls: list[Call[Step]]) -> None:
    """Any later read of a value whose successor was read already is stale."""
    reads = sorted(
        (c for c in calls if isinstance(c.value, Get) and c.returned is not None),
        key=lambda c: c.invoked,
    )
    for old in reads:
        for new in reads:
            assert old.returned is not None and new.returned is not None
            if old.returned < new.invoked and old.value != new.value and old.value != Get(0):
                end = 2 + max(c.returned or c.invoked for c in calls)
                stale = call(4_000, end, end + 1, old.value)
                assert not is_linearizable(*calls, stale)
                return
    assume(False)  # nothing was overwritten between two reads
