"""Every resource of the API over a machine of one: what it answers when all is well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import msgspec
import pytest

from contract.http_rig import (
    DATASET,
    MINUTE_MS,
    T0,
    WORKER,
    HttpRig,
    acquire,
    covered,
    http_rig,
    ref,
)
from seamfill.protocol.leases import RenewRequest
from seamfill_coordinator.calls import Incoming
from seamfill_coordinator.http import native_leases
from seamfill_coordinator.machine.commands import Renew

WAIT_S = 30
"""How long requests ask to be held. Whatever ends one sooner is not the time."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[HttpRig]:
    async with http_rig(tmp_path) as running:
        yield running


async def test_a_backfill_is_submitted_filled_and_seen_in_the_coverage(rig: HttpRig) -> None:
    plan = (await rig.submit(id="bf-a")).body
    assert (plan["id"], plan["bars"], plan["windows"]) == ("bf-a", 60, 1)

    (lease,) = (await rig.acquire()).body["leases"]
    assert lease["renew_after_ms"] == lease["ttl_ms"] // 3
    done = await rig.post("/v1/leases/complete", {"worker": WORKER, "leases": [covered(lease)]})
    assert [result["status"] for result in done.body["results"]] == ["completed"]

    seen = (await rig.get(f"/v1/coverage?dataset={DATASET}&symbol=BTC/USDT")).body
    assert [(c["start_ms"], c["end_ms"], c["rows"]) for c in seen["covered"]] == [
        (T0, T0 + 60 * MINUTE_MS, 60)
    ]
    shown = (await rig.get("/v1/backfills/bf-a")).body["backfill"]
    assert (shown["state"], shown["bars_verified"], shown["ratio"]) == ("complete", 60, 1.0)


async def granted(rig: HttpRig, **changes: object) -> dict[str, object]:
    """Submit one window and return it as a lease."""
    await rig.submit()
    (lease,) = (await rig.acquire(**changes)).body["leases"]
    return dict(lease)


# ── Native leases ────────────────────────────────────────────────────────────────────────────────


async def test_results_stand_in_the_order_of_the_items(rig: HttpRig) -> None:
    lease = await granted(rig)
    stale = {**ref(lease), "fence": 999}
    items = [{"lease": stale}, {"lease": ref(lease), "cursor_ms": T0 + MINUTE_MS}]
    got = await rig.post("/v1/leases/renew", {"worker": WORKER, "leases": items})
    first, second = got.body["results"]
    assert (first["status"], first["reason"]) == ("refused", "stale_fence")
    assert (second["status"], second["directive"]) == ("renewed", "continue")
    assert second["renew_after_ms"] == second["ttl_ms"] // 3


async def test_each_way_to_give_a_lease_up(rig: HttpRig) -> None:
    for path, extra, status in (
        ("release", {"no_write_in_flight": True}, "released"),
        ("snooze", {"delay_ms": 10}, "released"),
        ("fail", {"code": "source_unavailable", "delay_ms": 10}, "requeued"),
    ):
        lease = await granted(rig)
        items = [{"lease": ref(lease), **extra}]
        got = await rig.post(f"/v1/leases/{path}", {"worker": WORKER, "leases": items})
        assert [result["status"] for result in got.body["results"]] == [status], path
        await rig.advance(20_000)


async def test_a_revoked_lease_can_not_be_completed(rig: HttpRig) -> None:
    lease = await granted(rig)
    revoked = await rig.post("/v1/leases/revoke", {"leases": [ref(lease)], "reason": "operator"})
    assert revoked.body["results"][0]["status"] == "revoked"
    done = await rig.post("/v1/leases/complete", {"worker": WORKER, "leases": [covered(lease)]})
    assert done.body["results"][0]["reason"] == "stale_fence"


async def test_what_a_source_said_is_taken_once_for_all_items(rig: HttpRig) -> None:
    """A request of two items reports its usage once: the budget must not shrink twice."""
    await rig.submit(bars=2 * 60, window_bars=60)
    offers = [{"source": "ccxt:binance", "weight_per_minute": 1_000, "page_weight": 1}]
    leases = (await rig.acquire(offers=offers, max_windows=2)).body["leases"]
    items = [{"lease": ref(lease)} for lease in leases]
    usage = [{"source": "ccxt:binance", "penalty_ms": 10_000}]
    body = {"worker": WORKER, "leases": items, "usage": usage}
    asked = native_leases.RENEW.operations(
        Incoming(method="POST", target="", body=msgspec.convert(body, RenewRequest)),
        rig.replica.machine,
    )
    assert [len(operation.usage) for operation in asked if isinstance(operation, Renew)] == [1, 0]
    await rig.post("/v1/leases/renew", body)
    (source,) = (await rig.get("/v1/sources")).body["sources"]
    assert 9_000 < source["breaker_remaining_ms"] <= 10_000


async def test_a_completion_that_is_repeated_is_recognised(rig: HttpRig) -> None:
    lease = await granted(rig)
    body = {"worker": WORKER, "leases": [covered(lease)]}
    await rig.post("/v1/leases/complete", body)
    again = await rig.post("/v1/leases/complete", body)
    assert again.body["results"][0]["status"] == "already"


async def test_leases_are_listed_inspected_and_explained(rig: HttpRig) -> None:
    lease = await granted(rig)
    listed = (await rig.get(f"/v1/leases?dataset={DATASET}&worker=w1")).body
    assert (listed["total"], listed["leases"][0]["fence"]) == (1, lease["fence"])
    key = listed["leases"][0]["key"]
    assert key == f"native:{DATASET}|BTC/USDT|{T0}|{T0 + 60 * MINUTE_MS}"
    for inspected in (
        await rig.get(f"/v1/leases/inspect?key={key}"),
        await rig.post("/v1/leases/inspect", {"key": key}),
    ):
        assert (inspected.body["held"], inspected.body["holder"]) == (True, "w1")
    why = await rig.get(f"/v1/leases/explain?dataset={DATASET}&symbol=BTC/USDT&ts={T0}")
    assert "w1" in why.body["sentence"]


async def test_acquire_waits_until_there_is_work(rig: HttpRig) -> None:
    waiting = asyncio.create_task(rig.acquire(wait_ms=WAIT_S * 1_000))
    await rig.somebody_is_parked()
    await rig.submit()
    async with asyncio.timeout(WAIT_S / 2):
        assert len((await waiting).body["leases"]) == 1


async def test_acquire_under_a_clients_own_identity_waits_too(rig: HttpRig) -> None:
    """Only one attempt counts under an identity, so the waiting happens before it."""
    client = (await rig.post("/v1/sessions")).body["client"]
    headers = {"Idempotency-Key": f"{client}:1:1"}
    waiting = asyncio.create_task(
        rig.call("POST", "/v1/leases/acquire", acquire(wait_ms=WAIT_S * 1_000), headers=headers)
    )
    await rig.somebody_is_parked()
    await rig.submit()
    async with asyncio.timeout(WAIT_S / 2):
        first = (await waiting).body
    assert len(first["leases"]) == 1
    again = await rig.call("POST", "/v1/leases/acquire", acquire(), headers=headers)
    assert again.body == first


async def test_acquire_says_why_there_is_nothing(rig: HttpRig) -> None:
    nothing = (await rig.acquire(wait_ms=50)).body
    assert (nothing["leases"], nothing["why"]) == ([], "no_work")
    assert nothing["retry_after_ms"] > 0


async def test_when_the_node_stops_a_parked_request_is_answered(tmp_path: Path) -> None:
    async with http_rig(tmp_path) as rig:
        waiting = asyncio.create_task(rig.acquire(wait_ms=WAIT_S * 1_000))
        await rig.somebody_is_parked()
        async with asyncio.timeout(WAIT_S / 2):
            await rig.app.shutdown()
            assert (await waiting).body["leases"] == []


# ── Backfills ────────────────────────────────────────────────────────────────────────────────────


async def test_a_submit_is_safe_to_repeat(rig: HttpRig) -> None:
    first = (await rig.submit(id="bf-r")).body
    again = (await rig.submit(id="bf-r")).body
    assert (first["repeated"], again["repeated"]) == (False, True)
    assert again["bars"] == first["bars"] == 60


async def test_a_dry_run_plans_and_changes_nothing(rig: HttpRig) -> None:
    plan = (await rig.submit(dry_run=True)).body
    assert (plan["dry_run"], plan["bars"]) == (True, 60)
    assert (await rig.get("/v1/backfills")).body["total"] == 0


async def test_bars_that_have_not_closed_are_not_wanted(rig: HttpRig) -> None:
    now_ms = rig.clock.wall_ms()
    start_ms = now_ms - now_ms % MINUTE_MS - 3 * MINUTE_MS
    plan = (await rig.submit(start_ms=start_ms, bars=10)).body
    assert 3 <= plan["bars"] <= 4  # the minute may have turned in between
    assert plan["requested_end_ms"] == start_ms + 10 * MINUTE_MS


async def test_a_backfill_is_paused_resumed_and_cancelled(rig: HttpRig) -> None:
    await rig.submit(id="bf-p")
    for verb, state in (("pause", "paused"), ("resume", "active"), ("cancel", "cancelled")):
        got = await rig.post(f"/v1/backfills/bf-p/{verb}")
        assert got.body["backfill"]["state"] == state
    active = (await rig.get("/v1/backfills?active=true")).body
    assert active["backfills"] == []


async def test_a_retry_redoes_what_could_not_be_filled(rig: HttpRig) -> None:
    await rig.submit(id="bf-v")
    (lease,) = (await rig.acquire()).body["leases"]
    failed = {"lease": ref(lease), "code": "unknown_symbol", "retryable": False}
    got = await rig.post("/v1/leases/fail", {"worker": WORKER, "leases": [failed]})
    assert got.body["results"][0]["status"] == "violated"
    assert (await rig.get("/v1/violations")).body["total"] == 1
    assert (await rig.get("/v1/backfills/bf-v")).body["backfill"]["state"] == "incomplete"

    retried = (await rig.post("/v1/backfills/bf-v/retry")).body
    assert retried["id"] != "bf-v"
    await rig.advance(6_000)
    assert len((await rig.acquire()).body["leases"]) == 1


async def test_a_watcher_sees_progress_and_the_end(rig: HttpRig) -> None:
    await rig.submit(id="bf-w")
    events: list[tuple[str, dict[str, object]]] = []
    async with rig.session.get(rig.url + "/v1/backfills/bf-w/watch") as stream:
        assert stream.content_type == "text/event-stream"
        finishing: asyncio.Task[object] | None = None
        async with asyncio.timeout(WAIT_S):
            async for block in _blocks(stream.content):
                events.append(block)
                finishing = finishing or asyncio.create_task(_finish(rig))
    assert finishing is not None
    await finishing
    assert events[0][0] == "progress"
    assert events[-1][0] == "finished"
    assert events[-1][1]["state"] == "complete"


async def _finish(rig: HttpRig) -> None:
    (lease,) = (await rig.acquire()).body["leases"]
    await rig.post("/v1/leases/complete", {"worker": WORKER, "leases": [covered(lease)]})


async def _blocks(
    content: AsyncIterable[bytes],
) -> AsyncIterator[tuple[str, dict[str, object]]]:
    fields: dict[str, str] = {}
    async for line in content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif fields:
            yield fields["event"], json.loads(fields["data"])
            fields = {}


async def test_a_finished_backfill_is_watched_to_its_end_at_once(rig: HttpRig) -> None:
    await rig.submit(id="bf-c")
    await rig.post("/v1/backfills/bf-c/cancel")
    async with (
        asyncio.timeout(WAIT_S),
        rig.session.get(rig.url + "/v1/backfills/bf-c/watch") as stream,
    ):
        text = (await stream.read()).decode()
    assert text.startswith("event: finished\n")


# ── Coverage ─────────────────────────────────────────────────────────────────────────────────────


async def test_coverage_has_a_tag_when_only_facts_are_asked_for(rig: HttpRig) -> None:
    target = f"/v1/coverage?dataset={DATASET}&symbol=BTC/USDT&in_flight=false"
    await rig.submit()
    first = await rig.get(target)
    assert (await rig.get(target, **{"If-None-Match": first.headers["ETag"]})).status == 304
    await _finish(rig)
    assert (await rig.get(target, **{"If-None-Match": first.headers["ETag"]})).status == 200
    assert "ETag" not in (await rig.get(target.replace("false", "true"))).headers


async def test_coverage_takes_times_in_both_spellings(rig: HttpRig) -> None:
    await rig.submit()
    path = f"/v1/coverage?dataset={DATASET}&symbol=BTC/USDT"
    spelled = await rig.get(f"{path}&start=2021-04-21T00:00:00Z&end=2021-04-21T02:30:00%2B02:00")
    lost_plus = await rig.get(f"{path}&start=2021-04-21T00:00:00Z&end=2021-04-21T02:30:00+02:00")
    numbers = await rig.get(f"{path}&start={T0}&end={T0 + 30 * MINUTE_MS}")
    assert spelled.body == numbers.body == lost_plus.body
    assert numbers.body["end_ms"] == T0 + 30 * MINUTE_MS


async def test_coverage_as_of_a_rev_and_a_time(rig: HttpRig) -> None:
    await rig.submit()
    await _finish(rig)
    rev = int((await rig.get("/v1/backfills")).headers["Seamfill-Rev"])
    path = f"/v1/coverage?dataset={DATASET}&symbol=BTC/USDT"
    assert (await rig.get(f"{path}&as_of={rev}")).body["as_of"] == rev
    assert (await rig.get(f"{path}&as_of=2100-01-01T00:00:00Z")).status == 200


# ── Workers, sources, cluster ────────────────────────────────────────────────────────────────────


async def test_a_drained_worker_is_told_and_gets_nothing(rig: HttpRig) -> None:
    lease = await granted(rig)
    drained = await rig.post("/v1/workers/w1/drain")
    assert drained.body["worker"]["state"] == "draining"
    renewed = await rig.post(
        "/v1/leases/renew", {"worker": WORKER, "leases": [{"lease": ref(lease)}]}
    )
    assert renewed.body["results"][0]["directive"] == "drain"
    assert (await rig.acquire()).body["why"] == "draining"
    assert [w["id"] for w in (await rig.get("/v1/workers")).body["workers"]] == ["w1"]


async def test_a_paused_source_is_not_fetched_from(rig: HttpRig) -> None:
    await rig.submit()
    await rig.acquire(max_windows=1)
    paused = await rig.post("/v1/sources/ccxt:binance/pause")
    assert paused.body["source"]["paused"] is True
    await rig.submit(start_ms=T0 + 3_600_000)
    assert (await rig.acquire()).body["why"] == "source_paused"
    await rig.post("/v1/sources/ccxt:binance/resume")
    assert len((await rig.acquire()).body["leases"]) == 1
    assert len((await rig.get("/v1/sources")).body["sources"]) == 1


async def test_the_cluster_is_shown_by_this_node(rig: HttpRig) -> None:
    await granted(rig)
    seen = (await rig.get("/v1/cluster")).body
    assert (seen["cluster_id"], seen["leader"], seen["quorum"]) == ("solo", "n1", 1)
    assert seen["self_view"]["role"] == "leader"
    assert seen["leases"]["live"] == 1
    assert seen["self_view"]["disk_free_bytes"] > 0


async def test_the_probes(rig: HttpRig) -> None:
    for path in ("/livez", "/healthz", "/health", "/readyz"):
        assert ((await rig.get(path)).status, (await rig.get(path)).body["status"]) == (200, "ok")
    checks = (await rig.get("/readyz?verbose")).body["checks"]
    assert {c["name"] for c in checks} >= {"leader", "quorum", "barrier", "disk", "peers"}


async def test_a_node_without_quorum_lives_and_is_not_ready(tmp_path: Path) -> None:
    async with http_rig(tmp_path) as rig:
        await rig.replica.stop()  # type: ignore[attr-defined]  # only SoloReplica has a life
        assert (await rig.get("/livez")).status == 200
        for path in ("/healthz", "/health"):
            got = await rig.get(path)
            assert (got.status, got.body["status"]) == (503, "fail")
        failed = (await rig.get("/readyz")).body["checks"]
        assert {c["name"] for c in failed} == {"leader", "quorum", "barrier"}
        assert (await rig.get("/v1/cluster")).body["leader"] is None


# ── Headers ──────────────────────────────────────────────────────────────────────────────────────


async def test_answers_say_which_state_they_speak_of(rig: HttpRig) -> None:
    before = await rig.get("/v1/backfills")
    after = await rig.submit()
    assert int(after.headers["Seamfill-Rev"]) > int(before.headers["Seamfill-Rev"])
    assert after.headers["Seamfill-Term"] == "1"
    assert after.headers["Seamfill-Recovery"] == "0"
    assert after.headers["Seamfill-Leader"] == "http://127.0.0.1:1"


async def test_an_idempotency_key_makes_a_repetition_have_one_effect(rig: HttpRig) -> None:
    client = (await rig.post("/v1/sessions")).body["client"]
    key = {"Idempotency-Key": f"{client}:1:1"}
    first = await rig.post("/v1/backfills", _other_backfill(), **key)
    again = await rig.post("/v1/backfills", _other_backfill(), **key)
    assert first.body == again.body
    assert (await rig.get("/v1/backfills")).body["total"] == 1


def _other_backfill() -> dict[str, object]:
    wanted = {"symbol": "ETH/USDT", "start_ms": T0, "end_ms": T0 + MINUTE_MS}
    spec = {"kind": "ohlcv", "interval_ms": MINUTE_MS, "source": "s", "store": "t"}
    return {"dataset": "other", "spec": spec, "wanted": [wanted]}
