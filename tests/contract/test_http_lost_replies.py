"""What a node does when it does not hear what became of its own proposal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.cluster_rig import until
from contract.http_rig import Facts, HttpRig, SteppedClock, backfill, serving
from contract.lossy_replica import LossyReplica
from seamfill_coordinator.service import ServiceLimits

FOR_EVER = 1_000_000
QUICK = ServiceLimits(ride_out_ms=1_000, find_out_pause_ms=20)


@pytest.fixture
async def lossy(tmp_path: Path) -> AsyncIterator[tuple[HttpRig, LossyReplica]]:
    clock = SteppedClock()
    replica = LossyReplica(clock=clock)
    await replica.start()
    async with serving(replica, Facts(data_dir=tmp_path), clock, limits=QUICK) as rig:
        await rig.field_call("/v1/leases/claim", {"key": "first"})  # opens the node's session
        replica.asked.clear()
        yield rig, replica
    await replica.stop()


async def test_a_lost_reply_is_asked_for_again_and_has_one_effect(
    lossy: tuple[HttpRig, LossyReplica],
) -> None:
    rig, replica = lossy
    replica.losing = 3
    got = await rig.field_call("/v1/leases/claim", {"key": "k"})
    assert got.status == 200
    identities = {(request.client, request.sequence) for request in replica.asked}
    assert (len(replica.asked), len(identities)) == (4, 1)
    assert (await rig.get("/v1/leases")).body["total"] == 2


async def test_a_mutation_that_stays_unknown_is_in_doubt(
    lossy: tuple[HttpRig, LossyReplica],
) -> None:
    rig, replica = lossy
    replica.losing = FOR_EVER
    got = await rig.post("/v1/backfills", backfill(id="bf-1"))
    assert (got.status, got.body["code"]) == (504, "outcome_unknown")
    assert got.body["in_doubt"] is True
    replica.losing = 0
    assert (await rig.post("/v1/backfills", backfill(id="bf-1"))).body["repeated"] is True


@pytest.mark.parametrize("call", ["claim", "acquire"])
async def test_a_grant_nobody_heard_of_is_found_out_and_given_back(
    lossy: tuple[HttpRig, LossyReplica], call: str
) -> None:
    rig, replica = lossy
    await rig.submit()
    replica.losing = FOR_EVER
    if call == "claim":
        got = await rig.field_call("/v1/leases/claim", {"key": "k"})
    else:
        got = await rig.acquire()
    assert (got.status, got.body["code"]) == (503, "not_committed")
    assert rig.service.unsettled == 1
    replica.losing = 0
    await until(lambda: rig.service.unsettled == 0)
    assert rig.service.given_back_total == 1
    assert (await rig.get("/v1/leases")).body["total"] == 1  # the one of the fixture
    # Nobody wrote under that fence, so the next one does not wait for a lock-delay.
    again = await (
        rig.field_call("/v1/leases/claim", {"key": "k"}) if call == "claim" else rig.acquire()
    )
    assert again.status == 200
    assert call == "claim" or len(again.body["leases"]) == 1


async def test_a_node_that_stops_gives_grants_back_first(tmp_path: Path) -> None:
    clock = SteppedClock()
    replica = LossyReplica(clock=clock)
    await replica.start()
    async with serving(replica, Facts(data_dir=tmp_path), clock, limits=QUICK) as rig:
        await rig.field_call("/v1/leases/claim", {"key": "first"})
        replica.losing = FOR_EVER
        await rig.field_call("/v1/leases/claim", {"key": "k"})
        assert rig.service.unsettled == 1
        replica.losing = 0
    assert rig.service.given_back_total == 1
    await replica.stop()


async def test_with_the_clients_own_identity_nothing_is_given_back(
    lossy: tuple[HttpRig, LossyReplica],
) -> None:
    """It can ask again itself, and then it must still hold what it was granted."""
    rig, replica = lossy
    await rig.submit()
    client = (await rig.post("/v1/sessions")).body["client"]
    key = {"Idempotency-Key": f"{client}:1:1"}
    replica.losing = FOR_EVER
    body = {"worker": {"id": "w", "boot": "b"}, "offers": [{"source": "ccxt:binance"}]}
    lost = await rig.post("/v1/leases/acquire", {**body, "stores": ["*"]}, **key)
    assert (lost.status, lost.body["in_doubt"]) == (504, True)
    replica.losing = 0
    (lease,) = (await rig.post("/v1/leases/acquire", {**body, "stores": ["*"]}, **key)).body[
        "leases"
    ]
    assert rig.service.unsettled == rig.service.given_back_total == 0
    held = (await rig.get("/v1/leases?worker=w")).body["leases"]
    assert [row["fence"] for row in held] == [lease["fence"]]


async def test_a_session_that_the_cluster_forgot_is_replaced_unnoticed(
    lossy: tuple[HttpRig, LossyReplica],
) -> None:
    rig, replica = lossy
    await rig.advance(600_000 + 2_000)
    replica.asked.clear()
    assert (await rig.field_call("/v1/leases/claim", {"key": "k"})).status == 200
    assert len({request.client for request in replica.asked if request.client}) == 2


async def test_claims_at_once_share_sessions_without_mixing_answers(
    lossy: tuple[HttpRig, LossyReplica],
) -> None:
    rig, _ = lossy
    answers = await asyncio.gather(
        *(rig.post("/v1/leases/claim", {"key": f"k{n}", "lease_ms": 0}) for n in range(300))
    )
    assert len({got.body["lease"]["token"] for got in answers}) == 300
