"""Talks to other nodes: sends a call on to the leader, and asks peers for their view.

Owns the one HTTP client of a node. Must not decide who leads or what is tried again.

Invariants: redirects are not followed; a call sent on says that it is (so that it is never sent on
again) and for which cluster; connection refused is "nothing was done", a lost answer is not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from seamfill.protocol.cluster import ClusterAnswer, MemberView
from seamfill.protocol.headers import IDEMPOTENCY_KEY, LEADER, RECOVERY, REV, TERM
from seamfill.protocol.problem import Problem
from seamfill_coordinator.calls import Answer, Identity, Incoming, StateStamp
from seamfill_coordinator.http.headers import (
    ABANDONED,
    CLUSTER,
    PROXIED_BY,
    PROXIED_FOR,
    PROXIED_URL,
)
from seamfill_coordinator.replication import NotLeader, Overloaded, ProposalOutcomeUnknown

__all__ = ["PeerClient"]

CONNECT_TIMEOUT_S: Final = 0.3
PEER_VIEW_TIMEOUT_S: Final = 0.5
MAX_CONNECTIONS: Final = 512


@dataclass(slots=True)
class PeerClient:
    """Implements ``LeaderGateway`` over HTTP."""

    node_id: str
    cluster_id: str
    public_url: str | None = None
    _session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the client; belongs to the running loop."""
        connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def forward(
        self, incoming: Incoming, url: str, *, identity: Identity | None, timeout_ms: int
    ) -> Answer:
        """See ``LeaderGateway.forward``."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(
            total=max(timeout_ms, 1) / 1000, sock_connect=CONNECT_TIMEOUT_S
        )
        try:
            async with self._session.request(
                incoming.method,
                URL(url.rstrip("/") + incoming.target, encoded=True),
                data=incoming.raw or None,
                headers=self._headers(incoming, identity),
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                payload = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NotLeader(None) from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ProposalOutcomeUnknown(f"the leader's answer was lost: {exc}") from exc
        return _relayed(response, payload)

    def _headers(self, incoming: Incoming, identity: Identity | None) -> dict[str, str]:
        headers = {
            PROXIED_BY: self.node_id,
            PROXIED_FOR: incoming.remote,
            CLUSTER: self.cluster_id,
            "Content-Type": "application/json",
        }
        if self.public_url is not None:
            headers[PROXIED_URL] = self.public_url
        if identity is not None:
            headers[IDEMPOTENCY_KEY] = f"{identity.client}:{identity.sequence}:{identity.low}"
        if incoming.rev_floor:
            headers[REV] = str(incoming.rev_floor)
        if incoming.recovery is not None:
            headers[RECOVERY] = str(incoming.recovery)
        if incoming.if_none_match is not None:
            headers["If-None-Match"] = incoming.if_none_match
        if incoming.is_abandoned:
            headers[ABANDONED] = "true"
        return headers

    async def view_of(self, member: str, url: str | None) -> MemberView:
        """Return how a peer sees itself; "not healthy" when it does not say in time."""
        silent = MemberView(id=member, url=url, role="unknown", healthy=False)
        if url is None or self._session is None:
            return silent
        try:
            async with (
                asyncio.timeout(PEER_VIEW_TIMEOUT_S),
                self._session.get(
                    url.rstrip("/") + "/v1/cluster?peers=false",
                    headers={CLUSTER: self.cluster_id},
                    allow_redirects=False,
                ) as response,
            ):
                answer = msgspec.json.decode(await response.read(), type=ClusterAnswer)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError):
            return silent
        return answer.self_view if answer.node_id == member else silent


def _relayed(response: aiohttp.ClientResponse, payload: bytes) -> Answer:
    stamp = _stamp(response)
    if stamp is None or response.status == 421:
        # Whoever answered is no coordinator of this cluster: a stale address. Nothing was done.
        raise NotLeader(None)
    if response.status in (503, 504):
        raise _no(response.status, payload)
    retry_after_s = response.headers.get("Retry-After", "")
    return Answer(
        status=response.status,
        payload=payload,
        retry_after_ms=int(retry_after_s) * 1000 if retry_after_s.isdigit() else None,
        etag=response.headers.get("ETag"),
        stamp=stamp,
    )


def _stamp(response: aiohttp.ClientResponse) -> StateStamp | None:
    try:
        return StateStamp(
            rev=int(response.headers[REV]),
            term=int(response.headers[TERM]),
            leader_url=response.headers.get(LEADER),
            recovery=int(response.headers[RECOVERY]),
        )
    except (KeyError, ValueError):
        return None


def _no(status: int, payload: bytes) -> Exception:
    try:
        body = msgspec.json.decode(payload, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ProposalOutcomeUnknown(f"the leader answered {status} without a reason")
    if status == 504 or body.in_doubt:
        return ProposalOutcomeUnknown(body.detail or body.title)
    if body.code == "overloaded":
        return Overloaded(body.detail or body.title)
    return NotLeader(body.leader)
