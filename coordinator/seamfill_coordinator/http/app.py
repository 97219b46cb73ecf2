"""Builds the aiohttp application of one node.

Owns the way of an HTTP request: decode, call the service, encode, and see whether anybody got it.
Must not know what the calls mean.

Invariants: every answer, whatever goes wrong, is JSON with a problem's members and carries the
state's place in its headers (except the streams); at most ``MAX_IN_FLIGHT`` requests are held.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from seamfill.clock import Clock
from seamfill.errors import InvalidInput
from seamfill.logs import log_event
from seamfill.protocol.problem import Problem
from seamfill_coordinator.calls import Answer, Incoming, Mutation, Read
from seamfill_coordinator.http.decode import MAX_BODY_BYTES, read_incoming
from seamfill_coordinator.http.endpoints import (
    Endpoint,
    Local,
    Node,
    NodeFacts,
    Streamed,
)
from seamfill_coordinator.http.forward import PeerClient
from seamfill_coordinator.http.headers import PROXIED_URL
from seamfill_coordinator.http.metrics import Metrics, metrics_response
from seamfill_coordinator.http.openapi import openapi_document
from seamfill_coordinator.http.respond import problem_response, respond
from seamfill_coordinator.http.routes import ALIAS_PREFIX, ENDPOINTS
from seamfill_coordinator.problems import CODES, Refused, invalid_input, problem
from seamfill_coordinator.replication import Replica
from seamfill_coordinator.service import Coordinator, ServiceLimits

__all__ = ["NODE", "build_app"]

_log = logging.getLogger("seamfill.coordinator.http")

MAX_IN_FLIGHT: Final = 4_096
NODE: Final = web.AppKey("node", Node)
_TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$")
_HTTP_CODES: Final = {
    404: "no_such_resource",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


def build_app(
    *,
    replica: Replica,
    config: NodeFacts,
    clock: Clock,
    public_url: str | None = None,
    limits: ServiceLimits | None = None,
) -> web.Application:
    """Return the application of one node: all handlers, metrics and background work.

    ``public_url``: where others reach this node, for their calls and for ``/v1/cluster``.
    """
    peers = PeerClient(node_id=config.node_id, cluster_id=config.cluster_id, public_url=public_url)
    service = Coordinator(
        replica=replica,
        clock=clock,
        gateway=peers,
        limits=limits,
    )
    metrics = Metrics()
    metrics.attach(service)
    node = Node(
        service=service,
        facts=config,
        clock=clock,
        peers=peers,
        metrics=metrics,
        public_url=public_url,
        started_ms=clock.monotonic_ms(),
    )
    operations: dict[object, str] = {}
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_edge(node, operations)])
    app[NODE] = node
    _add_routes(app, node, operations)
    app.on_shutdown.append(_let_go)
    app.cleanup_ctx.append(_running)
    if config.metrics_listen is not None:
        app.cleanup_ctx.append(_metrics_port)
    return app


def _add_routes(app: web.Application, node: Node, operations: dict[object, str]) -> None:
    """Route every endpoint; note in ``operations`` which handler is which, for the metrics."""
    for endpoint in ENDPOINTS:
        handler = _handler(endpoint, node)
        operations[handler] = endpoint.name
        app.router.add_route(endpoint.method, endpoint.path, handler)
        if endpoint.is_probe:
            app.router.add_route("HEAD", endpoint.path, handler)
        if endpoint.path.startswith("/v1/leases"):
            app.router.add_route(endpoint.method, ALIAS_PREFIX + endpoint.path, handler)

    async def openapi(request: web.Request) -> web.Response:
        return web.Response(body=_document(), content_type="application/json")

    app.router.add_get("/openapi.json", openapi)


@cache
def _document() -> bytes:
    return msgspec.json.encode(openapi_document(ENDPOINTS))


# ── Life ─────────────────────────────────────────────────────────────────────────────────────────


async def _running(app: web.Application) -> AsyncIterator[None]:
    node = app[NODE]
    await node.peers.open()
    try:
        async with node.service.running():
            yield
    finally:
        await node.peers.close()


async def _let_go(app: web.Application) -> None:
    """Answer whoever is parked or watching, so that stopping does not wait for them."""
    node = app[NODE]
    node.closing.set()
    node.service.waiting_room.close()


async def _metrics_port(app: web.Application) -> AsyncIterator[None]:
    """Serve ``/metrics`` on a port of its own, for networks that scrape elsewhere."""
    node = app[NODE]
    assert node.facts.metrics_listen is not None
    address = node.facts.metrics_listen

    async def metrics(request: web.Request) -> web.Response:
        return metrics_response(node.metrics)

    scraped = web.Application()
    scraped.router.add_get("/metrics", metrics)
    runner = web.AppRunner(scraped, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
        yield
    finally:
        await runner.cleanup()


# ── One request ──────────────────────────────────────────────────────────────────────────────────


def _handler(endpoint: Endpoint, node: Node) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await _handle(endpoint, node, request)

    return handle


async def _handle(endpoint: Endpoint, node: Node, request: web.Request) -> web.StreamResponse:
    try:
        incoming, alternative = await read_incoming(
            request,
            endpoint,
            cluster_id=node.facts.cluster_id,
            wall_ms=node.clock.wall_ms(),
        )
        if incoming.proxied_by and (url := request.headers.get(PROXIED_URL)):
            node.service.note_member(incoming.proxied_by, url)
        match alternative.call:
            case Streamed(handle=stream):
                return await stream(node, incoming, request)
            case Local(handle=local):
                answer = await local(node, incoming)
            case Read() as read:
                answer = await node.service.read(read, incoming)
            case Mutation() as mutation:
                answer = await node.service.mutate(mutation, incoming)
                return await _deliver(endpoint, node, request, mutation, incoming, answer)
    except Refused as refused:
        return _refuse(endpoint, node, request, refused.problem)
    except InvalidInput as wrong:
        return _refuse(endpoint, node, request, invalid_input(wrong))
    return _response(endpoint, node, request, answer)


async def _deliver(
    endpoint: Endpoint,
    node: Node,
    request: web.Request,
    mutation: Mutation,
    incoming: Incoming,
    answer: Answer,
) -> web.StreamResponse:
    """Send the answer here rather than on return, to learn whether it could be sent."""
    response = _response(endpoint, node, request, answer)
    if mutation.undo is None:
        return response
    try:
        await response.prepare(request)
        await response.write_eof()
    except (ConnectionResetError, asyncio.CancelledError) as gone:
        node.service.give_back(mutation, incoming, answer)
        if isinstance(gone, asyncio.CancelledError):
            raise
    return response


def _response(endpoint: Endpoint, node: Node, request: web.Request, answer: Answer) -> web.Response:
    return respond(
        answer,
        stamp=answer.stamp or node.service.stamp(),
        trace_id=_trace_id(request),
        has_ratio=endpoint.has_ratio,
    )


def _refuse(endpoint: Endpoint, node: Node, request: web.Request, wrong: Problem) -> web.Response:
    return problem_response(
        wrong,
        stamp=node.service.stamp(),
        trace_id=_trace_id(request),
        has_ratio=endpoint.has_ratio,
    )


def _trace_id(request: web.Request) -> str:
    """Return the caller's trace id (W3C traceparent), or a new one."""
    found = _TRACEPARENT.match(request.headers.get("traceparent", ""))
    return found[1] if found else uuid.uuid4().hex


def _edge(node: Node, operations: Mapping[object, str]) -> Middleware:
    """Return the outermost layer: bounds what is held, counts, and leaves nothing unanswered."""
    in_flight = 0

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal in_flight
        if in_flight >= MAX_IN_FLIGHT:
            return _plain_problem(node, request, problem("overloaded", retry_after_ms=1_000))
        began_ms = node.clock.monotonic_ms()
        in_flight += 1
        try:
            response = await _answered(node, request, handler)
        finally:
            in_flight -= 1
        seconds = (node.clock.monotonic_ms() - began_ms) / 1000
        node.metrics.observe_request(
            operations.get(request.match_info.handler, "none"), response.status, seconds
        )
        return response

    return edge


async def _answered(node: Node, request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as exc:
        return _from_aiohttp(node, request, exc)
    except Exception as exc:
        trace_id = _trace_id(request)
        log_event(
            _log,
            "http.bug",
            level=logging.ERROR,
            exc=exc,
            trace_id=trace_id,
            method=request.method,
            path=request.path,
        )
        return _plain_problem(node, request, problem("internal_error"), trace_id)


def _from_aiohttp(node: Node, request: web.Request, exc: web.HTTPException) -> web.Response:
    code = _HTTP_CODES.get(exc.status)
    wrong = problem(code or "bad_request", f"{request.method} {request.path}: {exc.reason}")
    response = _plain_problem(node, request, wrong)
    if "Allow" in exc.headers:
        response.headers["Allow"] = exc.headers["Allow"]
    return response


def _plain_problem(
    node: Node, request: web.Request, wrong: Problem, trace_id: str | None = None
) -> web.Response:
    # The compatibility client books an absent ratio as success, whatever the status says.
    has_ratio = request.path.startswith(("/v1/leases/", ALIAS_PREFIX + "/v1/leases/"))
    assert wrong.code in CODES
    return problem_response(
        wrong,
        stamp=node.service.stamp(),
        trace_id=trace_id or _trace_id(request),
        has_ratio=has_ratio,
    )
