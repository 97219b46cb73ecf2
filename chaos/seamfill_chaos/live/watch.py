"""A watch over all nodes of a cluster: what each says of itself, several times a second.

Owns the polling of ``/v1/cluster`` and what must hold whatever happens: no two nodes lead in one
term, and two nodes that applied the same index have the same state digest. Must not know what is
done to the cluster. A node that does not answer says nothing, which is no violation.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from seamfill_chaos.live.processes import ProcessFailed

__all__ = ["NodeView", "Watch"]

POLL_S: Final = 0.1
ANSWER_TIMEOUT: Final = aiohttp.ClientTimeout(total=1.0)
ODD_ANSWERS: Final = (aiohttp.ClientError, TimeoutError, OSError, KeyError)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What one node said of itself, and when we asked."""

    asked_s: float
    node_id: str
    leader: str | None
    term: int
    is_ready: bool
    is_leader: bool
    """It leads, has committed in its term, and thinks that a quorum hears it."""
    applied: int
    committed: int


class Watch:
    """Polls the nodes at ``urls`` for as long as the ``async with`` block lasts."""

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        connector: Callable[[], aiohttp.BaseConnector | None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.violations: list[str] = []
        self.views: dict[str, NodeView] = {}
        """The newest view of each node that ever answered."""
        self.agreed: set[int] = set()
        """Indexes at which at least two nodes showed the same state digest."""
        self._urls = dict(urls)
        self._connector = connector
        self._now_s = now_s
        self._leaders: dict[int, str] = {}
        self._digests: dict[int, tuple[str, str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Watch:
        self._http = aiohttp.ClientSession(connector=self._connector(), timeout=ANSWER_TIMEOUT)
        self._tasks = [
            asyncio.create_task(self._poll(node_id, url)) for node_id, url in self._urls.items()
        ]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    @property
    def digests(self) -> dict[int, str]:
        """Index → state digest, as the first node told it."""
        return {index: digest for index, (_, digest) in self._digests.items()}

    @property
    def terms(self) -> int:
        """How many terms had a leader that was ready."""
        return len(self._leaders)

    @property
    def last_leader(self) -> str:
        """Return who led when it was last heard of a leader; "" before the first."""
        return self._leaders[max(self._leaders)] if self._leaders else ""

    async def leader(self, timeout_s: float = 20.0) -> str:
        """Return the leader that a majority follows, once there is one."""
        return (await self.until_converged(timeout_s=timeout_s, quorum_only=True))[0]

    async def until_converged(
        self, *, timeout_s: float = 30.0, quorum_only: bool = False
    ) -> tuple[str, float]:
        """Wait until all nodes are ready under one leader and have applied all that was committed
        anywhere when this was called; return the leader and how long it took.

        ``quorum_only``: a majority is enough. Raises ``ProcessFailed`` after ``timeout_s``.
        """
        began_s = self._now_s()
        wanted = len(self._urls) // 2 + 1 if quorum_only else len(self._urls)
        goal: int | None = None
        while self._now_s() - began_s < timeout_s:
            for task in self._tasks:
                if task.done():
                    task.result()  # whatever ended it must not look like a silent node
            fresh = [view for view in self.views.values() if view.asked_s >= began_s]
            if len(fresh) >= wanted:
                # The first round of answers says how far they have to come.
                goal = max(view.committed for view in fresh) if goal is None else goal
                leader = _common_leader(fresh, wanted, goal)
                if leader is not None:
                    return leader, self._now_s() - began_s
            await asyncio.sleep(POLL_S / 4)
        raise ProcessFailed(f"not converged after {timeout_s:g} s: {self.views}")

    async def _poll(self, node_id: str, url: str) -> None:
        while True:
            asked_s = self._now_s()
            with contextlib.suppress(*ODD_ANSWERS):
                async with self._http.get(f"{url}/v1/cluster", params={"peers": "false"}) as answer:
                    if answer.status == 200:
                        self._note(node_id, asked_s, await answer.json())
            await asyncio.sleep(POLL_S)

    def _note(self, node_id: str, asked_s: float, document: dict[str, Any]) -> None:
        own = document["self_view"]
        view = NodeView(
            asked_s=asked_s,
            node_id=node_id,
            leader=document["leader"],
            term=document["term"],
            is_ready=document["ready"],
            is_leader=document["ready"] and document["leader"] == node_id,
            applied=own["applied_index"],
            committed=own["commit_index"],
        )
        self.views[node_id] = view
        if view.is_leader:
            other = self._leaders.setdefault(view.term, node_id)
            if other != node_id:
                self.violations.append(f"term {view.term} has two leaders: {other} and {node_id}")
        for index, digest in (own["digests"] or {}).items():
            self._compare(node_id, int(index), digest)

    def _compare(self, node_id: str, index: int, digest: str) -> None:
        # Also what was compared before: a node that started again applied its log anew.
        first, known = self._digests.setdefault(index, (node_id, digest))
        if known != digest:
            self.violations.append(f"{first} and {node_id} differ at index {index}")
        elif first != node_id:
            self.agreed.add(index)


def _common_leader(views: list[NodeView], wanted: int, goal: int) -> str | None:
    """Return whom at least ``wanted`` ready nodes follow in one term, if they reached the goal."""
    terms = {view.term for view in views if view.is_leader}
    for term in terms:
        followers = [
            view for view in views if view.is_ready and view.term == term and view.applied >= goal
        ]
        leaders = [view.node_id for view in followers if view.is_leader]
        if leaders and len(followers) >= wanted:
            return leaders[0]
    return None
