"""Every limit of the HTTP layer, reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.http_rig import Facts, HttpRig, SteppedClock, http_rig, serving
from contract.lossy_replica import LossyReplica
from seamfill_coordinator.http import app, decode, lookups, watch
from seamfill_coordinator.http.app import NODE
from seamfill_coordinator.raft.aggregator import AggregatorLimits
from seamfill_coordinator.raft.solo import SoloReplica
from seamfill_coordinator.service import ServiceLimits


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[HttpRig]:
    async with http_rig(tmp_path, limits=ServiceLimits(parked_requests=1)) as running:
        yield running


async def test_who_finds_the_waiting_room_full_is_answered_at_once(rig: HttpRig) -> None:
    first = asyncio.create_task(rig.acquire(wait_ms=20_000))
    await rig.somebody_is_parked()
    async with asyncio.timeout(10):
        assert (await rig.acquire(wait_ms=20_000)).body["why"] == "no_work"
    await rig.submit()
    assert len((await first).body["leases"]) == 1


async def test_too_many_watchers(rig: HttpRig) -> None:
    await rig.submit(id="bf-1")
    rig.app[NODE].metrics.watchers = watch.MAX_WATCHERS
    got = await rig.get("/v1/backfills/bf-1/watch")
    assert (got.status, got.body["code"]) == (429, "too_many_watchers")
    rig.app[NODE].metrics.watchers = 0


async def test_too_many_requests_in_flight(rig: HttpRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_IN_FLIGHT", 1)
    parked = asyncio.create_task(rig.acquire(wait_ms=20_000))
    await rig.somebody_is_parked()
    got = await rig.get("/v1/backfills")
    assert (got.status, got.body["code"]) == (503, "overloaded")
    assert got.headers["Retry-After"] == "1"
    monkeypatch.undo()
    await rig.submit()
    await parked


async def test_a_body_that_does_not_arrive(rig: HttpRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "BODY_TIMEOUT_S", 0.05)

    answered = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"key": '
        await answered.wait()
        yield b'"k"}'

    async with rig.session.post(
        rig.url + "/v1/leases/claim",
        data=slowly(),
        headers={"Content-Type": "application/json"},
    ) as response:
        assert (response.status, (await response.json(content_type=None))["code"]) == (
            408,
            "request_timeout",
        )
        answered.set()


async def test_when_too_much_waits_for_a_commit_nothing_is_queued(tmp_path: Path) -> None:
    clock = SteppedClock()
    replica = SoloReplica(clock=clock, limits=AggregatorLimits(queued=0))
    await replica.start()
    async with serving(replica, Facts(data_dir=tmp_path), clock) as rig:
        got = await rig.submit()
        assert (got.status, got.body["code"]) == (503, "overloaded")
        assert got.headers["Retry-After"] == "1"
    await replica.stop()


async def test_beyond_its_limit_an_unheard_grant_is_left_to_its_ttl(tmp_path: Path) -> None:
    clock = SteppedClock()
    replica = LossyReplica(clock=clock)
    await replica.start()
    limits = ServiceLimits(ride_out_ms=1_000, abandoned_grants=0)
    async with serving(replica, Facts(data_dir=tmp_path), clock, limits=limits) as rig:
        assert (await rig.field_call("/v1/leases/claim", {"key": "first"})).status == 200
        replica.losing = 1_000_000
        assert (await rig.field_call("/v1/leases/claim", {"key": "k"})).status == 503
        assert rig.service.unsettled == 0
        replica.losing = 0
        assert (await rig.get("/v1/leases")).body["total"] == 2
    await replica.stop()


async def test_lists_are_cut_at_their_limit_and_say_how_many_there_are(rig: HttpRig) -> None:
    for number in range(3):
        await rig.submit(id=f"bf-{number}")
    got = (await rig.get("/v1/backfills?limit=2")).body
    assert (len(got["backfills"]), got["total"]) == (2, 3)
    assert lookups.LeasesQuery().limit == 1_000


async def test_probes_answer_head_too(rig: HttpRig) -> None:
    for path in ("/healthz", "/health", "/readyz"):
        async with rig.session.head(rig.url + path) as response:
            assert (response.status, await response.read()) == (200, b"")
