"""The SDK's client against the real server: every call it has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.http_rig import DATASET, MINUTE_MS, SPEC, T0, HttpRig, http_rig
from seamfill.client import CoordinatorClient
from seamfill.errors import CoordinatorUnavailable, RequestRefused
from seamfill.protocol.backfills import BackfillRequest, Wanted
from seamfill.protocol.compat import FailClaimRequest
from seamfill.protocol.leases import (
    AcquireRequest,
    CompleteItem,
    CompleteRequest,
    FailItem,
    FailRequest,
    GrantedLease,
    ReleaseItem,
    ReleaseRequest,
    RenewItem,
    RenewRequest,
    RevokeRequest,
    SnoozeItem,
    SnoozeRequest,
)
from seamfill.protocol.values import (
    CoveredRange,
    DatasetSpec,
    SeriesId,
    SourceOffer,
    WorkerIdentity,
)

WORKER = WorkerIdentity(id="w1", boot="b1")
SERIES = SeriesId(dataset=DATASET, symbol="BTC/USDT")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[HttpRig]:
    async with http_rig(tmp_path) as running:
        yield running


@pytest.fixture
async def client(rig: HttpRig) -> AsyncIterator[CoordinatorClient]:
    async with CoordinatorClient(rig.url, timeout_s=3.0) as opened:
        yield opened


def wanted(bars: int = 10, *, id: str | None = None) -> BackfillRequest:
    return BackfillRequest(
        dataset=DATASET,
        spec=DatasetSpec(
            kind=str(SPEC["kind"]),
            interval_ms=MINUTE_MS,
            source=str(SPEC["source"]),
            store=str(SPEC["store"]),
        ),
        wanted=(Wanted(symbol="BTC/USDT", start_ms=T0, end_ms=T0 + bars * MINUTE_MS),),
        id=id,
        window_bars=10,
    )


async def grant(client: CoordinatorClient, *, wait_ms: int = 0) -> GrantedLease:
    request = AcquireRequest(
        worker=WORKER,
        offers=(SourceOffer(source="ccxt:binance"),),
        stores=("questdb:*",),
        wait_ms=wait_ms,
    )
    (lease,) = (await client.acquire(request)).leases
    return lease


def whole(lease: GrantedLease) -> CompleteItem:
    done = CoveredRange(
        start_ms=lease.start_ms,
        end_ms=lease.end_ms,
        rows=(lease.end_ms - lease.start_ms) // MINUTE_MS,
        content_digest="ab" * 16,
    )
    return CompleteItem(lease=lease.ref, covered=(done,))


async def test_a_backfill_from_submit_to_coverage(client: CoordinatorClient) -> None:
    plan = await client.submit(wanted(id="bf-1"))
    assert plan.windows == 1
    lease = await grant(client, wait_ms=1_000)
    item = RenewItem(lease=lease.ref, cursor_ms=T0 + MINUTE_MS)
    (renewed,) = (await client.renew(RenewRequest(worker=WORKER, leases=(item,)))).results
    assert renewed.status == "renewed"
    assert "w1" in (await client.explain(SERIES, T0)).sentence
    completed = await client.complete(CompleteRequest(worker=WORKER, leases=(whole(lease),)))
    assert completed.results[0].status == "completed"
    coverage = await client.coverage(SERIES, T0, T0 + 10 * MINUTE_MS, in_flight=False)
    assert [(c.start_ms, c.rows) for c in coverage.covered] == [(T0, 10)]
    assert (await client.backfill("bf-1")).state == "complete"
    assert [view.state async for view in client.watch("bf-1")] == ["complete"]
    assert (await client.backfills(active_only=True)).backfills == ()
    assert client.rev > 0


async def test_leases_given_up_in_each_way(rig: HttpRig, client: CoordinatorClient) -> None:
    await client.submit(wanted(id="bf-1"))
    lease = await grant(client)
    release = ReleaseItem(lease=lease.ref, no_write_in_flight=True)
    await client.release(ReleaseRequest(worker=WORKER, leases=(release,)))
    lease = await grant(client)
    snooze = SnoozeItem(lease=lease.ref, delay_ms=10)
    await client.snooze(SnoozeRequest(worker=WORKER, leases=(snooze,)))
    await rig.advance(6_000)
    lease = await grant(client)
    await client.revoke(RevokeRequest(leases=(lease.ref,)))
    await rig.advance(6_000)
    lease = await grant(client)
    assert (await client.leases(worker="w1")).total == 1
    assert (await client.inspect((await client.leases()).leases[0].key)).held
    failed = FailItem(lease=lease.ref, code="unknown_symbol", retryable=False)
    await client.fail(FailRequest(worker=WORKER, leases=(failed,)))
    assert (await client.violations()).total == 1
    assert (await client.retry("bf-1")).id != "bf-1"


async def test_steering(client: CoordinatorClient) -> None:
    await client.submit(wanted(id="bf-1"))
    assert (await client.pause("bf-1")).state == "paused"
    assert (await client.resume("bf-1")).state == "active"
    await grant(client)
    await client.drain_worker("w1")
    assert (await client.workers()).workers[0].state == "draining"
    await client.pause_source("ccxt:binance")
    assert (await client.sources()).sources[0].paused
    await client.resume_source("ccxt:binance")
    assert (await client.cancel("bf-1")).state == "cancelled"


async def test_the_node_itself(rig: HttpRig, client: CoordinatorClient) -> None:
    assert (await client.cluster()).leader == "n1"
    assert (await client.health(rig.url)).status == "ok"
    assert {check.name for check in (await client.ready(rig.url)).checks} >= {"barrier"}


async def test_a_claim_is_given_up_by_an_operator(rig: HttpRig, client: CoordinatorClient) -> None:
    token = (await rig.field_call("/v1/leases/claim", {"key": "k"})).body["lease"]["token"]
    answer = await client.fail_claim(FailClaimRequest(key="k", token=token))
    assert answer.status == "failed"


async def test_the_kinds_of_no(rig: HttpRig, client: CoordinatorClient) -> None:
    with pytest.raises(RequestRefused) as refused:
        await client.backfill("none")
    assert (refused.value.status, refused.value.reason) == (404, "not_found")
    with pytest.raises(RequestRefused):
        async for _ in client.watch("none"):
            pass
    await rig.replica.stop()  # type: ignore[attr-defined]  # only SoloReplica has a life
    with pytest.raises(CoordinatorUnavailable):
        await client.submit(wanted())
