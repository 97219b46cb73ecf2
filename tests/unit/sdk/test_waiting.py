"""Waiting under a budget, on a clock that the test owns."""

from __future__ import annotations

import asyncio

import pytest

from seamfill.waiting import BudgetSpent, run_within


class HandClock:
    """A clock whose sleeps end when the test says so."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    async def sleep_ms(self, delay_ms: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now_ms + delay_ms, future))
        await future

    async def advance(self, delay_ms: int) -> None:
        """Move time on and let whoever wakes up run."""
        await settle()
        self.now_ms += delay_ms
        for due_ms, future in self._sleepers:
            if due_ms <= self.now_ms and not future.done():
                future.set_result(None)
        await settle()


async def settle() -> None:
    """Let every task that can run do so: starting one takes a turn, waking one another."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_hang_of_two_seconds_under_a_budget_of_100_ms_ends_at_100_ms() -> None:
    clock = HandClock()
    waiting = asyncio.create_task(run_within(clock, 100, clock.sleep_ms(2_000)))
    await clock.advance(99)
    assert not waiting.done()
    await clock.advance(1)
    with pytest.raises(BudgetSpent):
        await waiting
    assert clock.now_ms == 100


async def test_work_that_ends_in_time_gives_its_result() -> None:
    clock = HandClock()

    async def work() -> int:
        await clock.sleep_ms(50)
        return 7

    waiting = asyncio.create_task(run_within(clock, 100, work()))
    await clock.advance(50)
    assert await waiting == 7


async def test_an_error_of_the_work_passes_through() -> None:
    async def work() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await run_within(HandClock(), 100, work())


async def test_cancelling_the_waiter_cancels_the_work() -> None:
    clock = HandClock()
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await clock.sleep_ms(1_000)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    waiting = asyncio.create_task(run_within(clock, 2_000, work()))
    await clock.advance(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert cancelled.is_set()


async def test_no_budget_left_does_not_start_the_work() -> None:
    async def work() -> None:
        raise AssertionError

    with pytest.raises(BudgetSpent):
        await run_within(HandClock(), 0, work())
