"""Every class of error: a problem with a stable code, naming the field that is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.busy_machines import excused
from contract.http_rig import (
    DATASET,
    SPEC,
    T0,
    WORKER,
    HttpRig,
    acquire,
    backfill,
    covered,
    http_rig,
)
from seamfill_coordinator.http.decode import MAX_BODY_BYTES


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[HttpRig]:
    async with http_rig(tmp_path) as running:
        yield running


COVERAGE = f"/v1/coverage?dataset={DATASET}&symbol=BTC/USDT"


@pytest.mark.parametrize(
    ("target", "body", "field"),
    [
        ("/v1/backfills", backfill(prioritty=1), "prioritty"),
        ("/v1/backfills", backfill(priority="high"), "priority"),
        ("/v1/backfills", backfill(priority=1.5), "priority"),
        ("/v1/backfills", backfill(priority=5_000), "priority"),
        ("/v1/backfills", backfill(id="with space"), "id"),
        ("/v1/backfills", backfill(redo="again"), "redo"),
        ("/v1/backfills", backfill(deadline_ms="2021-04-21"), "deadline_ms"),
        ("/v1/backfills", backfill(wanted=[]), "wanted"),
        ("/v1/backfills", backfill(spec={**SPEC, "interval_ms": 0}), "spec.interval_ms"),
        ("/v1/backfills", backfill(spec={**SPEC, "colour": 1}), "spec.colour"),
        ("/v1/backfills", backfill(spec={"kind": "ohlcv"}), "spec.interval_ms"),
        ("/v1/backfills", {"dataset": DATASET}, "spec"),
        ("/v1/backfills", backfill(bars=0), "wanted[0].end_ms"),
        ("/v1/backfills", backfill(bars=-1), "wanted[0].end_ms"),
        ("/v1/backfills", backfill(start_ms=T0 + 1), "wanted[0].start_ms"),
        ("/v1/backfills", backfill(dataset="a|b"), "dataset"),
        ("/v1/backfills", [], "body"),
        ("/v1/leases/acquire", acquire(max_windows=0), "max_windows"),
        ("/v1/leases/acquire", acquire(wait_ms=86_400_000), "wait_ms"),
        ("/v1/leases/acquire", acquire(worker={"id": "w1"}), "worker.boot"),
        ("/v1/leases/acquire", acquire(offers=[{"source": ""}]), "offers[0].source"),
        ("/v1/leases/renew", {"worker": WORKER, "leases": []}, "leases"),
        ("/v1/leases/complete", {}, "body"),
        ("/v1/leases/complete", {"worker": WORKER, "token": "7"}, "body"),
        ("/v1/leases/complete", {"key": "a"}, "token"),
        ("/v1/leases/fail", {"worker": WORKER}, "leases"),
        ("/v1/leases/claim", {"lease_ms": 1}, "key"),
        ("/v1/leases/claim", {"key": "", "lease_ms": 1}, "key"),
        ("/v1/leases/claim", {"key": "k", "lease_ms": -1}, "lease_ms"),
        ("/v1/leases/claim", {"key": "k", "lease_ms": "120000"}, "lease_ms"),
        ("/v1/leases/claim", {"key": "native:d|s|0|60000"}, "key"),
        ("/v1/leases/inspect", {"kee": "k"}, "kee"),
        ("/v1/sessions", {"client": "7"}, "client"),
    ],
)
async def test_a_wrong_body_is_refused_by_the_fields_name(
    rig: HttpRig, target: str, body: Any, field: str
) -> None:
    got = await rig.post(target, body)
    assert (got.status, got.body["field"], got.body.get("retryable", False)) == (400, field, False)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/v1/coverage?symbol=BTC/USDT", "dataset"),
        (f"{COVERAGE}&sybol=x", "sybol"),
        (f"{COVERAGE}&start=1&start=2", "start"),
        (f"{COVERAGE}&start=2021-04-21T00:00:00", "start"),
        (f"{COVERAGE}&start=2021-04-21", "start"),
        (f"{COVERAGE}&end=yesterday", "end"),
        (f"{COVERAGE}&end=-5", "end"),
        (f"{COVERAGE}&end=999999999999999999", "end"),
        (f"{COVERAGE}&start={T0}&end={T0}", "end"),
        (f"{COVERAGE}&start={T0 + 1}&end={T0}", "end"),
        (f"{COVERAGE}&as_of=99999999", "as_of"),
        (f"{COVERAGE}&as_of=2021-04-21T00:00:00", "as_of"),
        (f"{COVERAGE}&in_flight=perhaps", "in_flight"),
        ("/v1/leases?limit=0", "limit"),
        ("/v1/leases?limit=ten", "limit"),
        ("/v1/backfills?active=2", "active"),
        (f"/v1/leases/explain?dataset={DATASET}&symbol=BTC/USDT", "ts"),
        ("/v1/leases/inspect", "key"),
        ("/v1/workers?limit=1", "limit"),
        ("/livez?deep=1", "deep"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_its_name(
    rig: HttpRig, target: str, field: str
) -> None:
    got = await rig.get(target)
    assert (got.status, got.body["code"], got.body["field"]) == (400, "invalid_input", field)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Idempotency-Key", "7"),
        ("Idempotency-Key", "7:x:1"),
        ("Idempotency-Key", "0:1:1"),
        ("Idempotency-Key", "7:1:2"),
        ("Idempotency-Key", "7:99999999999999999999:1"),
        ("Idempotency-Key", "7:9999999999999999999:1"),
        ("Seamfill-Rev", "-1"),
        ("Seamfill-Rev", "new"),
        ("Seamfill-Recovery", ""),
    ],
)
async def test_a_wrong_header_is_refused_by_its_name(rig: HttpRig, header: str, value: str) -> None:
    got = await rig.post("/v1/leases/inspect", {"key": "k"}, **{header: value})
    assert (got.status, got.body["field"]) == (400, header)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{]",
        b"\xff\xfe",
        b'{"key": "\\ud800"}',
        b'{"key": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"leases": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
async def test_what_is_not_json_is_refused(rig: HttpRig, raw: bytes) -> None:
    for target in ("/v1/leases/claim", "/v1/leases/complete"):
        got = await rig.call("POST", target, raw=raw)
        assert got.status == 400
        assert got.body["code"] in ("malformed_json", "invalid_input")
        assert got.body["completion_ratio"] is None


async def test_an_address_that_does_not_exist(rig: HttpRig) -> None:
    got = await rig.get("/v1/leasez")
    assert (got.status, got.body["code"]) == (404, "no_such_resource")


async def test_a_method_that_does_not_exist_names_those_that_do(rig: HttpRig) -> None:
    got = await rig.call("DELETE", "/v1/backfills")
    assert (got.status, got.body["code"]) == (405, "method_not_allowed")
    assert set(got.headers["Allow"].split(",")) == {"GET", "POST", "HEAD"} - {"HEAD"}


async def test_a_body_that_is_too_large(rig: HttpRig) -> None:
    got = await rig.call("POST", "/v1/leases/claim", raw=b" " * (MAX_BODY_BYTES + 1))
    assert (got.status, got.body["code"]) == (413, "too_large")


async def test_a_form_is_not_json(rig: HttpRig) -> None:
    """A web page can post a form to any address without being asked; never this type."""
    got = await rig.call(
        "POST",
        "/v1/leases/claim",
        raw=b'{"key": "k"}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (got.status, got.body["code"]) == (415, "unsupported_media_type")


async def test_a_call_for_another_cluster_is_misdirected(rig: HttpRig) -> None:
    got = await rig.get("/v1/backfills", **{"Seamfill-Cluster": "other"})
    assert (got.status, got.body["code"]) == (421, "misdirected")


async def test_what_does_not_exist(rig: HttpRig) -> None:
    for method, target in (
        ("GET", "/v1/backfills/bf-x"),
        ("GET", "/v1/backfills/bf-x/watch"),
        ("POST", "/v1/backfills/bf-x/pause"),
        ("POST", "/v1/backfills/bf-x/cancel"),
        ("POST", "/v1/backfills/bf-x/retry"),
        ("POST", "/v1/workers/w9/drain"),
        ("POST", "/v1/leases/complete"),
    ):
        body = {"key": "nobody", "token": "1"} if target.endswith("complete") else None
        got = await rig.call(method, target, body)
        assert (got.status, got.body["code"]) == (404, "not_found"), target


async def test_a_dataset_is_registered_once(rig: HttpRig) -> None:
    await rig.submit()
    got = await rig.submit(spec={**SPEC, "store": "parquet:elsewhere"})
    assert (got.status, got.body["code"]) == (409, "spec_conflict")
    assert "store" in (got.body["field"] or "")


async def test_an_id_belongs_to_one_backfill(rig: HttpRig) -> None:
    await rig.submit(id="bf-1")
    got = await rig.submit(id="bf-1", priority=3)
    assert (got.status, got.body["code"]) == (409, "backfill_conflict")


async def test_a_finished_backfill_can_not_be_paused(rig: HttpRig) -> None:
    await rig.submit(id="bf-1")
    await rig.post("/v1/backfills/bf-1/cancel")
    got = await rig.post("/v1/backfills/bf-1/pause")
    assert (got.status, got.body["code"]) == (409, "wrong_state")


async def test_a_replaced_worker_is_told(rig: HttpRig) -> None:
    await rig.submit()
    await rig.acquire()
    await rig.acquire(worker={"id": "w1", "boot": "b2"})
    got = await rig.acquire()
    assert (got.status, got.body["code"]) == (409, "worker_replaced")


async def test_a_result_that_contradicts_is_refused_in_its_place(rig: HttpRig) -> None:
    await rig.submit()
    (lease,) = (await rig.acquire()).body["leases"]
    await rig.post("/v1/leases/complete", {"worker": WORKER, "leases": [covered(lease)]})
    other = covered(lease, digest="cd" * 16)
    got = await rig.post("/v1/leases/complete", {"worker": WORKER, "leases": [other]})
    assert got.body["results"][0]["status"] == "refused"


async def test_an_unknown_session_is_in_doubt(rig: HttpRig) -> None:
    got = await rig.post("/v1/backfills", backfill(), **{"Idempotency-Key": "4711:1:1"})
    assert (got.status, got.body["code"]) == (409, "session_unknown")
    assert got.body["in_doubt"] is True


async def test_a_floor_from_before_a_recovery_is_refused(rig: HttpRig) -> None:
    for headers in (
        {"Seamfill-Rev": "1", "Seamfill-Recovery": "3"},
        {"Seamfill-Rev": "999999", "Seamfill-Recovery": "0"},
    ):
        got = await rig.get("/v1/backfills", **headers)
        assert (got.status, got.body["code"]) == (409, "recovered")


@excused
async def test_without_a_leader_calls_are_refused_within_two_seconds(tmp_path: Path) -> None:
    async with http_rig(tmp_path) as rig:
        await rig.replica.stop()  # type: ignore[attr-defined]  # only SoloReplica has a life
        began_ms = rig.clock.monotonic_ms()
        answers = await asyncio.gather(
            rig.post("/v1/backfills", backfill()),
            rig.post("/v1/leases/claim", {"key": "k"}),
            rig.post("/v1/sessions"),
            rig.get("/v1/backfills"),
        )
        assert rig.clock.monotonic_ms() - began_ms < 2_000
        for got in answers:
            assert (got.status, got.body["code"]) == (503, "no_leader")
            assert got.body["retryable"] is True
            assert "in_doubt" not in got.body
            assert got.headers["Retry-After"] == "1"


async def test_a_bug_is_a_problem_with_a_trace_id_to_look_for(rig: HttpRig) -> None:
    """A table of the machine is broken on purpose: no view can read it."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    rig.replica.machine.state.backfills = None  # type: ignore[assignment]
    got = await rig.get("/v1/backfills", traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    assert (got.status, got.body["code"]) == (500, "internal_error")
    assert got.body["trace_id"] == trace_id
    assert "state" not in got.body.get("detail", "")
