"""The main job while leaders and workers are killed and holders freeze past their lease."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from integration import recorded
from integration.filling import (
    StoreUnderTest,
    a_world,
    assert_everything_is_there,
    endpoints,
    fill,
    start_all,
)
from seamfill_chaos.live.command import run_command
from seamfill_chaos.live.nemesis import Nemesis, Toll
from seamfill_chaos.live.world import Exchange, World, cluster_view

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1200)]

LEADERS = 20
WORKERS = 15
PAUSES = 5
SLOW_MS = 4_000
FAST_MS = 200


async def test_nothing_is_lost_while_leaders_and_workers_die_and_holders_freeze(
    store: StoreUnderTest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty leaders, fifteen workers, five frozen holders: the same result as in peace.

    The exchange is slow until they are dead, so that there is work left to be lost on a machine of
    any speed; then it hurries, and the killing goes on to the end. A run in which nothing expired,
    nothing was granted again or nobody was answered StaleFence proved nothing and fails.
    """
    recordings = recorded.load_all()
    async with a_world(tmp_path, store) as world:
        exchange = await start_all(
            world,
            tmp_path,
            store,
            workers=("w1", "w2", "w3", "w4"),
            exchange_options=["--delay-ms", str(SLOW_MS)],
            worker_options=["--ttl-ms", "10000"],
        )
        stop = asyncio.Event()
        nemesis = Nemesis(world, stop)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(nemesis.kill_leaders(every_s=5, down_s=2))
            tasks.create_task(nemesis.kill_workers(("w1", "w2"), every_s=7))
            tasks.create_task(nemesis.pause_holders(("w3", "w4"), times=PAUSES))
            tasks.create_task(hurry_when_enough_died(exchange, nemesis.toll, stop))
            endings = await fill(
                world, recordings, store=store, timeout_s=600, options=["--window-bars", "300"]
            )
            stop.set()
        assert {ending["state"] for ending in endings} == {"complete"}
        await world.wait_until_ready()
        for recording in recordings:
            await assert_everything_is_there(world, recording, store, tmp_path)
        counts = await lease_counts(world)
        with capsys.disabled():
            print("\n" + account(nemesis.toll, counts))
        assert nemesis.toll.leaders_killed >= LEADERS
        assert nemesis.toll.workers_killed >= WORKERS
        assert nemesis.toll.pauses_outlived >= PAUSES
        assert counts["expired_total"] > 0
        assert counts["regranted_total"] > 0
        assert counts["stale_fence_total"] > 0
        await assert_members_agree(world)


async def hurry_when_enough_died(exchange: Exchange, toll: Toll, stop: asyncio.Event) -> None:
    """Let the exchange answer faster once the run has met the faults it is about."""
    while not stop.is_set():
        if (
            toll.leaders_killed >= LEADERS
            and toll.workers_killed >= WORKERS
            and toll.pauses_outlived >= PAUSES
        ):
            await exchange.control("delay", {"delay_ms": FAST_MS})
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await stop.wait()


async def lease_counts(world: World) -> dict[str, Any]:
    """Return the lease counters as the leader tells them."""
    leader = await world.wait_until_ready()
    view = await cluster_view(world.urls[leader])
    assert view is not None
    counts = view["leases"]
    assert isinstance(counts, dict)
    return counts


async def assert_members_agree(world: World) -> None:
    """All members show the same state digest at their newest common digest point."""
    async with asyncio.timeout(30):
        while True:
            printed = await run_command(
                "coordinator", "status", *endpoints(world), "-o", "json", timeout_s=30
            )
            status = printed.document()
            members = status["members"]
            if all(member["healthy"] for member in members) and status["digests_agree"]:
                assert len(members) == 3
                return
            await asyncio.sleep(0.5)  # real processes: a restarted member is still catching up


def account(toll: Toll, counts: dict[str, Any]) -> str:
    """Say in one line what happened; printed past the capture, because a run is judged by it."""
    return (
        f"killed {toll.leaders_killed} leaders and {toll.workers_killed} workers, "
        f"outlived {toll.pauses_outlived} frozen holders; leases: "
        f"{counts['granted_total']} granted, {counts['expired_total']} expired, "
        f"{counts['regranted_total']} granted again, "
        f"{counts['stale_fence_total']} answered StaleFence"
    )
