"""The leases in this worker's hands, and the coordinator as the worker sees it.

Owns what is known of each held lease: grant, trust, how far it came. Must not do anything with
them: ``runner``, ``heartbeat`` and ``flush`` do.

Invariant: a lease leaves the table exactly once, and its ``stage`` only moves forward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from seamfill.errors import SeamfillError
from seamfill.protocol.leases import (
    AcquireAnswer,
    AcquireRequest,
    CompleteRequest,
    FailRequest,
    GrantedLease,
    ReleaseRequest,
    RenewRequest,
    ResultsAnswer,
    SnoozeRequest,
)
from seamfill.protocol.values import LeaseRef
from seamfill_worker.trust import Trust

__all__ = ["Coordinator", "Held", "HeldLeases", "Stage", "WorkerReplaced", "node_id"]

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))


class WorkerReplaced(SeamfillError):
    """Another process runs under this worker's id; this one has to end. Give each its own id."""

    code = "worker_replaced"


class Coordinator(Protocol):
    """The six calls a worker makes. ``seamfill.client.CoordinatorClient`` is the real one.

    Each raises ``CoordinatorUnavailable``, ``RequestRefused`` or ``OutcomeUnknown``.
    """

    async def acquire(self, request: AcquireRequest) -> AcquireAnswer: ...

    async def renew(self, request: RenewRequest) -> ResultsAnswer: ...

    async def complete(self, request: CompleteRequest) -> ResultsAnswer: ...

    async def fail(self, request: FailRequest) -> ResultsAnswer: ...

    async def release(self, request: ReleaseRequest) -> ResultsAnswer: ...

    async def snooze(self, request: SnoozeRequest) -> ResultsAnswer: ...


class Stage(IntEnum):
    """How far a held lease has come."""

    FETCHING = 0
    FETCHED = 1
    WRITING = 2
    REPORTING = 3
    GONE = 4


@dataclass(slots=True, eq=False)
class Held:
    """One lease. Changed by the runner's tasks on one loop, never by two at once."""

    grant: GrantedLease
    trust: Trust
    granted_at_ms: int
    cursor_ms: int | None = None
    stage: Stage = Stage.FETCHING
    fetching: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def ref(self) -> LeaseRef:
        return self.grant.ref

    @property
    def is_gone(self) -> bool:
        return self.stage is Stage.GONE

    def facts(self) -> dict[str, Any]:  # Any: they are spread into log_event's keywords
        """Return what every log line of ``seamless.backfill`` carries."""
        return {
            "node_id": node_id(self.grant),
            "interval": self.grant.spec.interval_ms // 1000,
            "start": self.grant.start_ms,
            "end": self.grant.end_ms,
            "fence": self.grant.fence,
        }


class HeldLeases:
    """All leases in hand, by fence."""

    def __init__(self) -> None:
        self._by_fence: dict[int, Held] = {}

    def __len__(self) -> int:
        return len(self._by_fence)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._by_fence.values()))

    def add(self, held: Held) -> None:
        self._by_fence[held.grant.fence] = held

    def drop(self, held: Held) -> bool:
        """Let a lease go and stop fetching for it; False when it was gone already."""
        if self._by_fence.pop(held.grant.fence, None) is None:
            return False
        held.stage = Stage.GONE
        if held.fetching is not None and held.fetching is not asyncio.current_task():
            held.fetching.cancel()
        return True

    def in_stage(self, stage: Stage) -> list[Held]:
        return [held for held in self if held.stage is stage]


def node_id(grant: GrantedLease) -> str:
    """Return the data plane's name of a series: ``ohlcv:binance:BTC/USDT:1m``."""
    venue = grant.spec.source.partition(":")[2]
    return f"{grant.spec.kind}:{venue}:{grant.series.symbol}:{_interval(grant.spec.interval_ms)}"


def _interval(interval_ms: int) -> str:
    for unit_ms, name in _UNITS:
        if interval_ms % unit_ms == 0:
            return f"{interval_ms // unit_ms}{name}"
    return f"{interval_ms}ms"
