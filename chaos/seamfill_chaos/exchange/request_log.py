"""What the exchange was asked: the newest requests in full, and counts of all of them.

Pure. The control surface shows it; tests conclude from it what a client did and did not fetch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

REQUESTS_KEPT = 10_000
PATHS_COUNTED = 64
OTHER_PATHS = "other"


@dataclass(slots=True, kw_only=True)
class Request:
    """Record one request. `status` is None until an answer began, and 0 when none was given.

    `lies` names the lies told, in order, as `{"index", "kind"}`; `lie` is the first one's kind.
    """

    number: int
    at_ms: int
    path: str
    query: str
    status: int | None = None
    rows: int | None = None
    lie: str | None = None
    lies: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Count:
    total: int = 0
    rows: int = 0
    by_status: dict[str, int] = field(default_factory=dict)


class RequestLog:
    """Keep the newest `REQUESTS_KEPT` requests and count all, by path and status."""

    def __init__(self) -> None:
        self._kept: deque[Request] = deque(maxlen=REQUESTS_KEPT)
        self._counts: dict[str, _Count] = {}
        self._arrived = 0

    def open(self, path: str, query: str, at_ms: int) -> Request:
        """Record an arriving request and number it, from 1."""
        self._arrived += 1
        request = Request(number=self._arrived, at_ms=at_ms, path=path, query=query)
        self._kept.append(request)
        self._count(path).total += 1
        return request

    def close(self, request: Request, status: int, rows: int | None = None) -> None:
        """Record how the request was answered; status 0 when the connection was cut instead."""
        request.status, request.rows = status, rows
        count = self._count(request.path)
        count.by_status[str(status)] = count.by_status.get(str(status), 0) + 1
        count.rows += rows or 0

    def document(self, *, after: int = 0) -> dict[str, Any]:
        """Return the kept requests with a number above `after`, and the counts of all."""
        return {
            "total": self._arrived,
            "paths": {path: asdict(count) for path, count in self._counts.items()},
            "requests": [asdict(request) for request in self._kept if request.number > after],
        }

    def _count(self, path: str) -> _Count:
        # A client that makes up paths must not grow the table without bound.
        if path not in self._counts and len(self._counts) >= PATHS_COUNTED:
            path = OTHER_PATHS
        return self._counts.setdefault(path, _Count())
