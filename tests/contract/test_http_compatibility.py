"""The client that already exists in the field, driven the way it calls.

A new connection for each call, POST, JSON, two seconds, no redirects, no retries, no renewal.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from contract.http_rig import HttpRig, http_rig

NODE_ID = "ohlcv:binance:BTC/USDT:1m"
START_S = 1_618_963_200
KEY = f"{NODE_ID}:60:{START_S}:{START_S + 599}:world:blake3:00ff"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[HttpRig]:
    async with http_rig(tmp_path) as running:
        yield running


def key(start_s: int, end_s: int, *, node_id: str = NODE_ID, rest: str = ":") -> str:
    return f"{node_id}:60:{start_s}:{end_s}:{rest}"


async def claimed(rig: HttpRig, name: str = KEY, lease_ms: int = 120_000) -> str:
    got = await rig.field_call("/v1/leases/claim", {"key": name, "lease_ms": lease_ms})
    assert got.status == 200, got.body
    return str(got.body["lease"]["token"])


async def test_claim_and_complete(rig: HttpRig) -> None:
    before_ms = rig.clock.wall_ms()
    got = await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": 120_000})
    lease = got.body["lease"]
    assert got.status == 200
    assert lease["token"] and ":" not in lease["token"]
    assert before_ms + 120_000 <= lease["lease_until_ms"] <= rig.clock.wall_ms() + 120_000
    assert got.body["completion_ratio"] == 0.0
    done = await rig.field_call("/v1/leases/complete", {"key": KEY, "token": lease["token"]})
    assert (done.status, done.body["completion_ratio"]) == (200, 1.0)


async def test_fail_gives_the_key_free(rig: HttpRig) -> None:
    token = await claimed(rig)
    body = {"key": KEY, "token": token, "reason": "exchange said no"}
    failed = await rig.field_call("/v1/leases/fail", body)
    assert (failed.status, failed.body["completion_ratio"]) == (200, 0.0)
    assert await claimed(rig) != token


async def test_zero_means_two_minutes(rig: HttpRig) -> None:
    got = await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": 0})
    assert got.body["lease"]["ttl_ms"] == 120_000


@pytest.mark.parametrize(("asked_ms", "ttl_ms"), [(1, 1_000), (10**30, 600_000)])
async def test_other_lease_times_are_clamped(rig: HttpRig, asked_ms: int, ttl_ms: int) -> None:
    got = await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": asked_ms})
    assert got.body["lease"]["ttl_ms"] == ttl_ms


async def test_a_held_key_is_refused_with_holder_and_eta(rig: HttpRig) -> None:
    await claimed(rig)
    got = await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": 120_000})
    assert (got.status, got.body["code"]) == (409, "held")
    assert got.body["holder"] == "127.0.0.1"
    assert 90_000 < got.body["eta_ms"] <= 120_000
    assert 90 < int(got.headers["Retry-After"]) <= 120
    assert '"completion_ratio":null' in got.raw.decode()


async def test_ranges_that_overlap_exclude_each_other_and_others_do_not(rig: HttpRig) -> None:
    await claimed(rig, key(60, 180))
    overlapping = await rig.field_call("/v1/leases/claim", {"key": key(180, 300)})
    assert overlapping.status == 409  # closed ranges: both have the bar of second 180
    for free in (
        key(240, 300),
        key(60, 180, node_id="ohlcv:binance:ETH/USDT:1m"),
        key(60, 180, rest="w:"),
        key(60, 180, rest=":2021-04-21T00:00:00Z"),
        "just a name",
        "a:b:c:d",
    ):
        await claimed(rig, free)


async def test_who_lost_the_race_does_not_fetch_it_again(rig: HttpRig) -> None:
    token = await claimed(rig)
    await rig.field_call("/v1/leases/complete", {"key": KEY, "token": token})
    assert (await rig.field_call("/v1/leases/claim", {"key": KEY})).status == 409
    await rig.advance(10_001)
    await claimed(rig)


async def test_a_refusal_is_held_until_a_lease_that_is_about_to_end_has_ended(
    rig: HttpRig,
) -> None:
    """That client's poller asks again without a pause; here it gets the lease instead."""
    await claimed(rig, lease_ms=2_000)
    await rig.advance(1_100)
    got = await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": 120_000})
    assert got.status == 200


async def test_a_held_refusal_ends_when_the_other_lease_is_given_back(rig: HttpRig) -> None:
    rig.clock.freeze()
    token = await claimed(rig, lease_ms=1_000)
    await rig.advance(100)
    waiting = asyncio.create_task(rig.field_call("/v1/leases/claim", {"key": KEY}))
    await rig.somebody_is_parked()
    await rig.field_call("/v1/leases/fail", {"key": KEY, "token": token, "reason": "x"})
    assert (await waiting).status == 200


@pytest.mark.parametrize("call", ["complete", "fail"])
async def test_an_unknown_key_or_token_never_reads_as_success(rig: HttpRig, call: str) -> None:
    reason = {"reason": "x"} if call == "fail" else {}
    unknown = await rig.field_call(f"/v1/leases/{call}", {"key": "k", "token": "1", **reason})
    await claimed(rig)
    stale = await rig.field_call(f"/v1/leases/{call}", {"key": KEY, "token": "99", **reason})
    assert [unknown.status, stale.status] == [404, 409]
    for got in (unknown, stale):
        assert '"completion_ratio":null' in got.raw.decode()


async def test_every_error_on_these_addresses_has_an_explicit_ratio(rig: HttpRig) -> None:
    for target, raw in (
        ("/v1/leases/claim", b"{"),
        ("/v1/leases/claim", b'{"key": 1}'),
        ("/v1/v1/leases/complete", b'{"nothing": 1}'),
        ("/v1/leases/fail", b"[]"),
    ):
        got = await rig.call("POST", target, raw=raw)
        assert got.status == 400
        assert '"completion_ratio":null' in got.raw.decode()
    assert (await rig.call("PUT", "/v1/leases/claim")).body["completion_ratio"] is None


async def test_the_recovery_script_splits_at_the_first_colon(rig: HttpRig) -> None:
    token = await claimed(rig)
    first, _, rest = f"{KEY}:{token}".partition(":")
    got = await rig.field_call(
        "/v1/leases/fail", {"key": first, "token": rest, "reason": "recovery"}
    )
    assert (got.status, got.body["status"]) == (200, "failed")
    await claimed(rig)


async def test_the_runbook_writes_the_version_twice(rig: HttpRig) -> None:
    got = await rig.field_call("/v1/v1/leases/claim", {"key": KEY, "lease_ms": 120_000})
    token = got.body["lease"]["token"]
    assert (await rig.field_call("/v1/v1/leases/inspect", {"key": KEY})).body["held"] is True
    done = await rig.field_call("/v1/v1/leases/complete", {"key": KEY, "token": token})
    assert (done.status, done.body["completion_ratio"]) == (200, 1.0)


async def test_inspect_knows_a_claim(rig: HttpRig) -> None:
    token = await claimed(rig)
    got = (await rig.post("/v1/leases/inspect", {"key": KEY})).body
    assert (got["held"], got["token"]) == (True, token)
    assert 0 < got["remaining_ms"] <= 120_000
    await rig.post("/v1/leases/complete", {"key": KEY, "token": token})
    after = (await rig.post("/v1/leases/inspect", {"key": KEY})).body
    assert (after["held"], after["completion_ratio"]) == (False, 1.0)


async def test_the_health_probes_of_that_client(rig: HttpRig) -> None:
    assert 200 <= (await rig.get("/healthz")).status < 300
    assert (await rig.get("/health")).body["status"] in ("ok", "healthy", "pass")


async def test_who_hung_up_while_being_held_is_granted_nothing(rig: HttpRig) -> None:
    """It asks, is held, and hangs up before the lease it waits for ends."""
    rig.clock.freeze()
    token = await claimed(rig, lease_ms=1_000)
    await rig.advance(200)
    hang_up = await _ask_and_wait(rig, KEY)
    await rig.somebody_is_parked()
    hang_up.close()
    await _until_unparked(rig)
    await rig.field_call("/v1/leases/fail", {"key": KEY, "token": token, "reason": "x"})
    assert (await rig.post("/v1/leases/inspect", {"key": KEY})).body["held"] is False
    assert rig.service.abandoned_total == 0


async def test_a_grant_that_could_not_be_delivered_is_given_back(rig: HttpRig) -> None:
    """The connection ends while the claim is being committed: only then is there a grant."""
    for number in range(20):
        (await _ask_and_wait(rig, f"gone-{number}")).close()

    async def all_are_accounted_for() -> bool:
        held = (await rig.get("/v1/leases")).body["total"]
        return 0 < rig.service.abandoned_total == rig.service.given_back_total == 20 - int(held)

    async with asyncio.timeout(30):
        while not await all_are_accounted_for():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _ask_and_wait(rig: HttpRig, name: str) -> socket.socket:
    """Send a claim on a connection of its own, without reading an answer."""
    parts = urlsplit(rig.url)
    client = socket.create_connection((str(parts.hostname), int(parts.port or 0)))
    body = json.dumps({"key": name, "lease_ms": 120_000}).encode()
    head = (
        "POST /v1/leases/claim HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    client.sendall(head.encode() + body)
    return client


async def _until_unparked(rig: HttpRig) -> None:
    async with asyncio.timeout(30):
        while rig.service.waiting_room:  # noqa: ASYNC110  # the room has no event for it
            await asyncio.sleep(0.005)
