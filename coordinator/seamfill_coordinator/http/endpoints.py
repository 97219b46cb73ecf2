"""What an HTTP endpoint is: one row of the route table.

Owns the shapes. From one row come the route, the decoding of its requests and its part of the
OpenAPI document, so they can not disagree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aiohttp import web
from msgspec import Struct

from seamfill.clock import Clock
from seamfill.protocol.values import Body
from seamfill_coordinator.calls import Answer, Incoming, Mutation, Read
from seamfill_coordinator.service import Coordinator

if TYPE_CHECKING:
    from seamfill_coordinator.http.forward import PeerClient
    from seamfill_coordinator.http.metrics import Metrics

__all__ = [
    "Alternative",
    "Endpoint",
    "Local",
    "Node",
    "NodeFacts",
    "Nothing",
    "Streamed",
]


class ListenAddress(Protocol):
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class NodeFacts(Protocol):
    """What the HTTP layer needs of a node's configuration."""

    @property
    def node_id(self) -> str: ...
    @property
    def cluster_id(self) -> str: ...
    @property
    def data_dir(self) -> Path: ...
    @property
    def metrics_listen(self) -> ListenAddress | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What handlers that answer for this node itself may use."""

    service: Coordinator
    facts: NodeFacts
    clock: Clock
    peers: PeerClient
    metrics: Metrics
    public_url: str | None
    """Where others reach this node."""
    started_ms: int
    closing: asyncio.Event = field(default_factory=asyncio.Event)


class Nothing(Body, frozen=True):
    """No body, or no query parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """Answered by this node from what it knows itself."""

    handle: Callable[[Node, Incoming], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """Answered by this node with something else than one JSON document."""

    handle: Callable[[Node, Incoming, web.Request], Awaitable[web.StreamResponse]]
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One body that an endpoint accepts, what is done with it, and what a 200 carries."""

    body: type[Struct]
    call: Mutation | Read | Local | Streamed
    answer: type[Struct] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A method and an address. ``alternatives`` are told apart by the members of the body."""

    method: str
    path: str
    name: str
    """Operation id in OpenAPI and label in metrics: unique, stable."""
    tag: str
    summary: str
    alternatives: tuple[Alternative, ...]
    query: type[Struct] = Nothing
    is_probe: bool = False
    """Answers 503 with the same body as 200, and HEAD too."""
    has_ratio: bool = False
    """Errors carry ``completion_ratio`` (the compatibility calls)."""
