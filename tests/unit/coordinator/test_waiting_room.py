"""Parked requests: bounded, woken by what may help them, never missing it."""

from __future__ import annotations

import asyncio

from seamfill.clock import SystemClock
from seamfill_coordinator.calls import Wake
from seamfill_coordinator.machine.outcomes import Event
from seamfill_coordinator.waiting_room import WaitingRoom

LONG_MS = 3_600_000
SOON_S = 30


class StoppedClock(SystemClock):
    """Nobody wakes because of the time, unless they asked for none."""

    async def sleep_ms(self, delay_ms: float) -> None:
        if delay_ms > 0:
            await asyncio.Event().wait()


def room(capacity: int = 10) -> WaitingRoom:
    return WaitingRoom(clock=StoppedClock(), capacity=capacity)


def event(name: str) -> Event:
    return Event(rev=1, clock_ms=0, name=name)


async def parked(there: WaitingRoom, wake: Wake) -> asyncio.Task[None]:
    task = asyncio.create_task(there.wait(wake, seen=there.seen(wake), timeout_ms=LONG_MS))
    before = len(there)
    while len(there) == before:  # noqa: ASYNC110  # the room has no event for it
        await asyncio.sleep(0)
    return task


async def test_an_event_wakes_those_it_may_help_and_nobody_else() -> None:
    there = room()
    work, claim = await parked(there, Wake.WORK), await parked(there, Wake.CLAIM)
    there.notice((event("backfill.submitted"), event("lease.granted")))
    await work
    assert not claim.done()
    there.notice((event("claim.expired"),))
    await claim
    assert len(there) == 0


async def test_what_happened_between_asking_and_parking_is_not_missed() -> None:
    there = room()
    seen = there.seen(Wake.WORK)
    there.notice((event("lease.released"),))
    await asyncio.wait_for(there.wait(Wake.WORK, seen=seen, timeout_ms=LONG_MS), SOON_S)


async def test_the_time_wakes_too() -> None:
    there = room()
    await asyncio.wait_for(there.wait(Wake.WORK, seen=0, timeout_ms=0), SOON_S)
    assert len(there) == 0


async def test_the_room_has_a_limit_and_can_be_closed() -> None:
    there = room(capacity=1)
    assert not there.is_full()
    waiting = await parked(there, Wake.WORK)
    assert there.is_full()
    there.close()
    await waiting
    assert there.is_full()
