"""``GET /v1/backfills/{id}/watch``: progress as server-sent events.

Owns the stream. Served from this node's own copy, so that it lives on when the leader changes.

Invariants: the first event is not older than anything acknowledged before the request; ``id`` is
the rev it speaks of and only grows; the last event is ``finished``, unless the backfill was
forgotten before (then asking again says 404); at most ``MAX_WATCHERS`` streams are open on a node.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec
from aiohttp import web

from seamfill_coordinator.calls import Incoming
from seamfill_coordinator.http.backfills import GET_BACKFILL
from seamfill_coordinator.http.endpoints import Node
from seamfill_coordinator.http.respond import respond, stamp_headers
from seamfill_coordinator.machine import views
from seamfill_coordinator.problems import Refused, problem

__all__ = ["MAX_WATCHERS", "watch"]

MAX_WATCHERS: Final = 256
LOOK_MS: Final = 200
HEARTBEAT_MS: Final = 10_000
CATCH_UP_MS: Final = 2_000
_FINISHED: Final = frozenset({"complete", "incomplete", "cancelled"})


async def watch(node: Node, incoming: Incoming, request: web.Request) -> web.StreamResponse:
    """Stream the backfill's view whenever it changes, until it is finished."""
    if node.metrics.watchers >= MAX_WATCHERS:
        raise Refused(problem("too_many_watchers", f"{MAX_WATCHERS} on this node"))
    looked_up = replace(incoming, target=request.rel_url.path.removesuffix("/watch"))
    first = await node.service.read(GET_BACKFILL, looked_up)
    if first.status != 200:
        # The leader's own words, relayed: "not found", with its trace id.
        stamp = first.stamp or node.service.stamp()
        return respond(first, stamp=stamp, trace_id="", has_ratio=False)
    await _catch_up(node, 0 if first.stamp is None else first.stamp.rev)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            **stamp_headers(node.service.stamp()),
        }
    )
    node.metrics.watchers += 1
    try:
        await response.prepare(request)
        await _stream(node, incoming, response)
        await response.write_eof()
    except ConnectionResetError:
        pass  # The watcher has gone; there is nobody to tell.
    finally:
        node.metrics.watchers -= 1
    return response


async def _catch_up(node: Node, rev: int) -> None:
    """Wait until this node's copy has what the leader has already shown."""
    until_ms = node.clock.monotonic_ms() + CATCH_UP_MS
    while node.service.replica.machine.rev < rev:
        if node.clock.monotonic_ms() >= until_ms:
            raise Refused(problem("not_ready", "this node lags behind the leader"))
        await node.clock.sleep_ms(LOOK_MS / 10)


async def _stream(node: Node, incoming: Incoming, response: web.StreamResponse) -> None:
    backfill_id = incoming.path["id"]
    sent: bytes | None = None
    sent_ms = node.clock.monotonic_ms()
    while not node.closing.is_set() and not incoming.is_client_gone():
        machine = node.service.replica.machine
        view = views.backfill(machine, backfill_id)
        if view is None:
            return
        data = msgspec.json.encode(view)
        now_ms = node.clock.monotonic_ms()
        if view.state in _FINISHED:
            await response.write(_event("finished", machine.rev, data))
            return
        if data != sent:
            await response.write(_event("progress", machine.rev, data))
            sent, sent_ms = data, now_ms
        elif now_ms - sent_ms >= HEARTBEAT_MS:
            # A comment: keeps proxies from closing the stream, and finds out who has gone.
            await response.write(b": still here\n\n")
            sent_ms = now_ms
        await node.clock.sleep_ms(LOOK_MS)


def _event(name: str, rev: int, data: bytes) -> bytes:
    return b"event: %s\nid: %d\ndata: %s\n\n" % (name.encode(), rev, data)
