"""Virtual time: order, pauses, ends, and what is refused."""

from __future__ import annotations

import asyncio
import time

import pytest

from seamfill_chaos.sim.loop import CallbackFailed, Livelock, VirtualLoop
from seamfill_chaos.sim.process import Machine, Process, current_process


def process_on(loop: VirtualLoop, name: str = "n1") -> Process:
    return Process(loop, Machine(loop, name))


async def ticking(seen: list[float], loop: VirtualLoop, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        seen.append(round(loop.now, 6))


def test_time_jumps_to_the_next_timer(loop: VirtualLoop) -> None:
    began = time.monotonic()
    seen: list[float] = []
    process_on(loop).spawn(ticking(seen, loop, 1000.0))
    loop.run_until(3500.0)
    assert seen == [1000.0, 2000.0, 3000.0]
    assert loop.now == 3500.0
    assert time.monotonic() - began < 5


def test_equal_times_are_served_in_the_order_of_asking(loop: VirtualLoop) -> None:
    seen: list[int] = []
    for number in range(50):
        loop.call_at(1.0, seen.append, number)
    loop.run_until(2.0)
    assert seen == list(range(50))


def test_a_cancelled_timer_does_not_fire(loop: VirtualLoop) -> None:
    seen: list[int] = []
    loop.call_at(1.0, seen.append, 1).cancel()
    loop.call_soon(seen.append, 2).cancel()
    loop.run_until(2.0)
    assert seen == []


def test_a_paused_process_catches_up_when_it_is_resumed(loop: VirtualLoop) -> None:
    process, other = process_on(loop), process_on(loop, "n2")
    seen: list[tuple[str, float]] = []
    for at in (1.0, 2.0, 3.0):
        for who in (process, other):
            loop.call_at(at, lambda n=who.name: seen.append((n, loop.now)), context=who.context)
    loop.call_outside(1.5, process.pause)
    loop.call_outside(2.5, process.resume)
    loop.run_until(4.0)
    assert [at for name, at in seen if name == "n1"] == [1.0, 2.5, 3.0]
    assert [at for name, at in seen if name == "n2"] == [1.0, 2.0, 3.0]


def test_two_pauses_need_two_resumes(loop: VirtualLoop) -> None:
    process = process_on(loop)
    process.pause()
    process.stall(1.0)
    seen: list[float] = []
    process.call_soon(lambda: seen.append(loop.now))
    loop.call_outside(2.0, process.resume)
    loop.run_until(3.0)
    assert seen == [2.0]


def test_nothing_of_an_ended_process_runs_ever_again(loop: VirtualLoop) -> None:
    """Not even the ``finally`` blocks of its tasks, until the run is over."""
    process = process_on(loop)
    seen: list[float] = []
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await ticking(seen, loop, 1.0)
        finally:
            cleaned.append("up")

    process.spawn(work())
    loop.call_outside(2.5, process.end)
    loop.run_until(5.0)
    assert seen == [1.0, 2.0]
    assert cleaned == []
    process.bury()


def test_a_process_that_exits_does_nothing_after_that(loop: VirtualLoop) -> None:
    process = process_on(loop)
    seen: list[str] = []

    def die() -> None:
        seen.append("before")
        process.exit()
        seen.append("after")

    process.call_soon(die)
    process.call_soon(seen.append, "later")
    loop.run_until(1.0)
    assert seen == ["before"]


def test_tasks_and_their_children_belong_to_their_process(loop: VirtualLoop) -> None:
    process = process_on(loop)
    seen: list[Process | None] = []

    async def child() -> None:
        await asyncio.sleep(0)
        seen.append(current_process())

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
        async with asyncio.timeout(1):
            await asyncio.sleep(0.5)
        seen.append(current_process())

    process.spawn(parent())
    loop.call_outside(0.7, lambda: seen.append(current_process()))
    loop.run_until(1.0)
    assert seen == [process, process, None]
    process.bury()


def test_an_exception_that_nobody_caught_fails_the_run(loop: VirtualLoop) -> None:
    process_on(loop).call_soon(lambda: 1 // 0)
    with pytest.raises(CallbackFailed, match=r"n1.*ZeroDivisionError"):
        loop.run_until(1.0)


def test_an_exception_that_nobody_took_out_of_a_task_fails_the_run(loop: VirtualLoop) -> None:

    async def broken() -> None:
        raise ValueError("lost")

    loop.call_soon(lambda: loop.create_task(broken()) and None)
    with pytest.raises(CallbackFailed, match="lost"):
        loop.run_until(1.0)


def test_callbacks_that_feed_themselves_are_found(loop: VirtualLoop) -> None:

    def again() -> None:
        loop.call_soon(again)

    loop.call_soon(again)
    with pytest.raises(Livelock):
        loop.run_until(1.0)


def test_threads_and_sockets_are_refused(loop: VirtualLoop) -> None:
    with pytest.raises(RuntimeError, match="virtual time"):
        loop.run_in_executor(None, print)
    with pytest.raises(RuntimeError, match="virtual time"):
        loop.call_soon_threadsafe(print)
    with pytest.raises(NotImplementedError):
        loop.add_reader(0, print)


def test_a_machine_shows_its_own_time(loop: VirtualLoop) -> None:
    machine = Machine(loop, "n1", rate=1.5, booted_ms=5_000)
    before = machine.wall_ms()
    loop.run_until(100.0)
    assert machine.monotonic_ms() == 155_000
    machine.wall_offset_ms = -86_400_000
    assert machine.wall_ms() == before + 150_000 - 86_400_000
