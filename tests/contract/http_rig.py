"""A coordinator's HTTP API over a machine of one, and clients that check every answer.

``HttpRig`` runs the real application on a free port of the loopback. Each answer that a test gets
is validated against the OpenAPI document which the server itself hands out, so that no test can
see an answer that the document does not describe.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from jsonschema import Draft202012Validator
from multidict import CIMultiDict

from seamfill.clock import SystemClock
from seamfill_coordinator.http.app import NODE, build_app
from seamfill_coordinator.machine.commands import Barrier, Request
from seamfill_coordinator.raft.solo import SoloReplica
from seamfill_coordinator.replication import Replica
from seamfill_coordinator.service import Coordinator, ServiceLimits

MINUTE_MS = 60_000
DAY_MS = 86_400_000
T0 = 1_618_963_200_000  # 2021-04-21T00:00:00Z
SPEC = {
    "kind": "ohlcv",
    "interval_ms": MINUTE_MS,
    "source": "ccxt:binance",
    "store": "questdb:ohlcv_binance_spot_1m",
}
WORKER = {"id": "w1", "boot": "b1"}
DATASET = "ohlcv.binance.spot.1m"
COMPAT_TIMEOUT_S = 2.0


class SteppedClock(SystemClock):
    """The machine's clock, which a test may push forward, or stop.

    A lease that must not end during a test of any length is held still with ``freeze``.
    """

    def __init__(self) -> None:
        self.offset_ms = 0
        self._frozen_ms: int | None = None

    def monotonic_ms(self) -> int:
        base_ms = super().monotonic_ms() if self._frozen_ms is None else self._frozen_ms
        return base_ms + self.offset_ms

    def freeze(self) -> None:
        """Let no time pass any more but what ``offset_ms`` says."""
        self._frozen_ms = super().monotonic_ms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A node's configuration, as far as HTTP needs it."""

    data_dir: Path
    node_id: str = "n1"
    cluster_id: str = "solo"
    metrics_listen: None = None


@dataclass(frozen=True, slots=True)
class Got:
    """An answer that was checked against the OpenAPI document."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass(slots=True)
class HttpRig:
    """A running server, a kept-alive client, and the client of the field."""

    url: str
    app: web.Application
    replica: Replica
    clock: SteppedClock
    session: aiohttp.ClientSession
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def service(self) -> Coordinator:
        return self.app[NODE].service

    async def call(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        """Send a request, and return the answer after checking it against the document."""
        sending = raw if raw is not None else (None if body is None else json.dumps(body).encode())
        # aiohttp warns of large bodies that are not streams.
        data = None if sending is None else io.BytesIO(sending)
        sent = {"Content-Type": "application/json"} if data is not None else {}
        async with self.session.request(
            method, self.url + target, data=data, headers={**sent, **(headers or {})}
        ) as response:
            got = Got(response.status, response.headers, await response.read())
        check_answer(self.document, method, target, got)
        return got

    async def get(self, target: str, **headers: str) -> Got:
        return await self.call("GET", target, headers=headers)

    async def post(self, target: str, body: object = None, **headers: str) -> Got:
        return await self.call("POST", target, body, headers=headers)

    async def field_call(self, target: str, body: object) -> Got:
        """Call as the client in the field does; see ``field_call``."""
        got = await asyncio.to_thread(field_call, self.url, target, body)
        check_answer(self.document, "POST", target, got)
        return got

    async def advance(self, delay_ms: int) -> None:
        """Let the lease clock go on: at most two seconds a command, as in the real machine."""
        while delay_ms > 0:
            step_ms = min(delay_ms, 2_000)
            self.clock.offset_ms += step_ms
            delay_ms -= step_ms
            await self.replica.propose(Request(operations=(Barrier(),)), timeout_ms=30_000)

    async def somebody_is_parked(self) -> None:
        async with asyncio.timeout(30):
            while not self.service.waiting_room:  # noqa: ASYNC110  # the room has no event for it
                await asyncio.sleep(0.005)

    async def submit(self, start_ms: int = T0, bars: int = 60, **changes: object) -> Got:
        return await self.post("/v1/backfills", backfill(start_ms, bars, **changes))

    async def acquire(self, **changes: object) -> Got:
        return await self.post("/v1/leases/acquire", acquire(**changes))


def field_call(url: str, target: str, body: object) -> Got:
    """A new connection, POST, JSON, two seconds, no redirects: the acceptance client."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        str(parts.hostname), parts.port, timeout=COMPAT_TIMEOUT_S
    )
    try:
        connection.request(
            "POST",
            target,
            body=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        return Got(response.status, CIMultiDict(response.getheaders()), response.read())
    finally:
        connection.close()


@asynccontextmanager
async def http_rig(
    data_dir: Path, *, limits: ServiceLimits | None = None
) -> AsyncIterator[HttpRig]:
    """Serve one node over ``SoloReplica``."""
    clock = SteppedClock()
    replica = SoloReplica(clock=clock, url="http://127.0.0.1:1")
    await replica.start()
    try:
        async with serving(replica, Facts(data_dir=data_dir), clock, limits=limits) as rig:
            yield rig
    finally:
        await replica.stop()


@asynccontextmanager
async def serving(
    replica: Replica,
    facts: Facts,
    clock: SteppedClock,
    *,
    limits: ServiceLimits | None = None,
    port: int = 0,
) -> AsyncIterator[HttpRig]:
    """Serve a replica that somebody else starts and stops."""
    public_url = f"http://127.0.0.1:{port}" if port else None
    app = build_app(
        replica=replica, config=facts, clock=clock, public_url=public_url, limits=limits
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession() as session:
            rig = HttpRig(f"http://{host}:{port}", app, replica, clock, session)
            async with session.get(rig.url + "/openapi.json") as response:
                rig.document = await response.json()
            yield rig
    finally:
        await runner.cleanup()


def backfill(start_ms: int = T0, bars: int = 60, **changes: object) -> dict[str, object]:
    """Return the body of a submit."""
    wanted = {"symbol": "BTC/USDT", "start_ms": start_ms, "end_ms": start_ms + bars * MINUTE_MS}
    return {"dataset": DATASET, "spec": SPEC, "wanted": [wanted], **changes}


def acquire(**changes: object) -> dict[str, object]:
    """Return the body of an acquire."""
    return {
        "worker": WORKER,
        "offers": [{"source": "ccxt:binance"}],
        "stores": ["questdb:*"],
        **changes,
    }


def ref(lease: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of a granted lease."""
    return {name: lease[name] for name in ("series", "start_ms", "end_ms", "fence")}


def covered(lease: Mapping[str, Any], digest: str = "ab" * 16) -> dict[str, Any]:
    """Return one item that completes a granted lease whole."""
    rows = (lease["end_ms"] - lease["start_ms"]) // MINUTE_MS
    done = {
        "start_ms": lease["start_ms"],
        "end_ms": lease["end_ms"],
        "rows": rows,
        "content_digest": digest,
    }
    return {"lease": ref(lease), "covered": [done], "final": True}


# ── Answers against the document ─────────────────────────────────────────────────────────────────


def check_answer(document: Mapping[str, Any], method: str, target: str, got: Got) -> None:
    """Fail unless the document describes this answer to this request."""
    operation = find_operation(document, method, target)
    if operation is None:
        check_schema(document, {"$ref": "#/components/schemas/Problem"}, got.body)
        assert got.headers["Content-Type"] == "application/problem+json"
        return
    responses = operation["responses"]
    described = responses.get(str(got.status), responses["default"])
    for name, header in described.get("headers", {}).items():
        if name != "Seamfill-Leader" and "text/" not in got.headers.get("Content-Type", ""):
            check_schema(document, header["schema"], int(got.headers[name]))
    if "content" not in described:
        assert got.raw == b""
        return
    media = got.headers["Content-Type"].split(";")[0]
    assert media in described["content"], f"{media} is not described for {got.status}"
    if media.endswith("json"):
        check_schema(document, described["content"][media]["schema"], got.body)


def find_operation(
    document: Mapping[str, Any], method: str, target: str
) -> Mapping[str, Any] | None:
    path = re.sub(r"^/v1/v1/leases", "/v1/leases", urlsplit(target).path)
    for template, item in document["paths"].items():
        pattern = re.sub(r"\\\{[a-z]+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in item:
            found: Mapping[str, Any] = item[method.lower()]
            return found
    return None


def check_schema(document: Mapping[str, Any], schema: Mapping[str, Any], value: object) -> None:
    """Validate; references are looked up in the document."""
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole).validate(value)
