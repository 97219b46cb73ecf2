"""A scripted HTTP server: what a coordinator may answer, one answer after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

Step = web.Response | Literal["reset", "hang"]


@dataclass
class ScriptedServer:
    """Answers requests other than ``/v1/sessions`` from ``script``; keeps what it was sent."""

    script: deque[web.Response | str] = field(default_factory=deque)
    seen: list[tuple[str, str]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    floors: list[str | None] = field(default_factory=list)
    sessions: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/sessions":
            self.sessions += 1
            return web.json_response({"client": str(self.sessions), "expires_after_ms": 600_000})
        self.seen.append((request.method, request.path_qs))
        self.keys.append(request.headers.get("Idempotency-Key"))
        self.floors.append(request.headers.get("Seamfill-Rev"))
        step = self.script.popleft()
        if isinstance(step, web.Response):
            return step
        assert request.transport is not None
        if step == "reset":
            request.transport.abort()
            return web.Response()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(step.encode())
        request.transport.close()
        return stream


@asynccontextmanager
async def scripted(*steps: web.Response | str) -> AsyncIterator[ScriptedServer]:
    """Serve the steps on a free loopback port."""
    server = ScriptedServer(deque(steps))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}"
        yield server
    finally:
        await runner.cleanup()
