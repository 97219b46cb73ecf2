"""What callers want: short leases on a few keys that all of them want, and windows to fill.

Owns the choice of the next operation. Must not know how it reaches the cluster (``callers.py``) or
whether the answers are right.

Keys and ttls are few and short, so that callers meet: most claims are refused, many leases expire
in their holder's hands, and old tokens come back.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import (
    CoveredRange,
    DatasetSpec,
    LeaseRef,
    SeriesId,
    SourceOffer,
    WorkerIdentity,
)
from seamfill_chaos.sim.callers import Caller
from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_coordinator.machine.commands import (
    Acquire,
    Claim,
    Complete,
    CompleteClaim,
    Fail,
    FailClaim,
    Operation,
    Release,
    Renew,
    Submit,
)
from seamfill_coordinator.machine.outcomes import Claimed, Grant, Granted, Nothing, Rejected

__all__ = ["KEYS", "Claimer", "Filler", "WorkloadPlan"]

KEYS: Final = (
    "node:60:0:120::",
    "node:60:60:180",
    "ohlcv:sim:BTC/USDT:1m:60:0:240:w:",
    "an opaque key",
    "another opaque key",
)
MINUTE_MS: Final = 60_000
WINDOW_BARS: Final = 10
SPEC: Final = DatasetSpec(
    kind="ohlcv", interval_ms=MINUTE_MS, source="ccxt:sim", store="parquet:main", dense=True
)
OFFERS: Final = (SourceOffer(source=SPEC.source),)
_KEPT: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPlan:
    """How much is asked; about 20 operations a second in all."""

    claimers: int = 12
    fillers: int = 4
    think_s: float = 0.8
    """Mean pause of one caller between two operations."""
    together: float = 0.9
    """How often a caller waits for the next beat, at which others ask too: what arrives together
    shares commands, and meets in them."""
    without_session: float = 0.2
    """How many of the claims carry no identity."""
    nearby_reads: float = 0.3
    """How many of the reads may be answered by any node."""


_BEAT_S: Final = 0.8


async def _think(loop: VirtualLoop, rng: random.Random, plan: WorkloadPlan) -> None:
    """Wait until it is time for a caller's next operation."""
    if rng.random() < plan.together:
        await asyncio.sleep(_BEAT_S - loop.now % _BEAT_S)
    else:
        await asyncio.sleep(rng.expovariate(1 / plan.think_s))


async def _may_ask(
    caller: Caller, loop: VirtualLoop, rng: random.Random, plan: WorkloadPlan, until_s: float
) -> bool:
    """Wait for a caller's next turn, at which it has a session; False when its time is over."""
    while True:
        await _think(loop, rng, plan)
        if loop.now >= until_s:
            return False
        if caller.has_session or await caller.open_session():
            return True


class Claimer:
    """Claims keys, completes or fails what it holds, at times with a token of the past."""

    def __init__(
        self, caller: Caller, *, loop: VirtualLoop, rng: random.Random, plan: WorkloadPlan
    ) -> None:
        self._caller = caller
        self._loop = loop
        self._rng = rng
        self._plan = plan
        self._tokens: list[tuple[str, str]] = []

    async def run(self, until_s: float) -> None:
        """Ask one thing after the other until then."""
        while await _may_ask(self._caller, self._loop, self._rng, self._plan, until_s):
            await self._ask_once()

    async def _ask_once(self) -> None:
        rng, caller = self._rng, self._caller
        lot = rng.random()
        if lot < 0.2:
            key = rng.choice(KEYS)
            nearby = rng.random() < self._plan.nearby_reads
            await (caller.read_nearby(key) if nearby else caller.read(key))
        elif lot < 0.6 or not self._tokens:
            await self._claim()
        else:
            key, token = self._tokens.pop(rng.randrange(len(self._tokens)))
            if rng.random() < 0.25:
                self._tokens.append((key, token))  # it will be tried once more: a stale one then
            await caller.do(self._ending(key, token))

    async def _claim(self) -> None:
        rng = self._rng
        key = rng.choice(KEYS)
        claim = Claim(key=key, lease_ms=rng.choice((1_000, 1_500, 3_000)), holder=self._caller.name)
        in_session = rng.random() >= self._plan.without_session
        outcomes = await self._caller.do(claim, in_session=in_session)
        if outcomes is not None and isinstance(outcomes[0], Claimed):
            self._tokens = [*self._tokens, (key, outcomes[0].token)][-_KEPT:]

    def _ending(self, key: str, token: str) -> Operation:
        if self._rng.random() < 0.3:
            return CompleteClaim(key=key, token=token)
        return FailClaim(key=key, token=token, reason="had enough")


class Filler:
    """A worker: acquires windows, renews them, completes them; submits more when none are left."""

    def __init__(
        self, caller: Caller, *, loop: VirtualLoop, rng: random.Random, plan: WorkloadPlan
    ) -> None:
        self._caller = caller
        self._loop = loop
        self._rng = rng
        self._plan = plan
        self._boot = 0
        self._symbols = 0
        self._held: list[Grant] = []

    async def run(self, until_s: float) -> None:
        """Work until then."""
        while await _may_ask(self._caller, self._loop, self._rng, self._plan, until_s):
            goes_on = self._held and self._rng.random() < 0.8
            await (self._go_on() if goes_on else self._acquire())

    async def _acquire(self) -> None:
        outcomes = await self._caller.do(
            Acquire(
                worker=WorkerIdentity(id=self._caller.name, boot=str(self._boot)),
                offers=OFFERS,
                stores=("parquet:*",),
                max_windows=self._rng.randint(1, 3),
                ttl_ms=10_000,
            )
        )
        match outcomes:
            case (Granted(grants=grants),):
                self._held.extend(grants)
            case (Nothing(why="no_work"),):
                await self._submit()
            case (Rejected(),):
                self._boot += 1

    async def _submit(self) -> None:
        self._symbols += 1
        wanted = Wanted(
            symbol=f"{self._caller.name}-{self._symbols}",
            start_ms=100 * MINUTE_MS,
            end_ms=(100 + 12 * WINDOW_BARS) * MINUTE_MS,
        )
        await self._caller.do(
            Submit(
                backfill_id="",
                dataset="sim",
                spec=SPEC,
                wanted=(wanted,),
                closed_before_ms=0,
                window_bars=WINDOW_BARS,
                priority=0,
                deadline_ms=None,
                redo=None,
                dry_run=False,
            )
        )

    async def _go_on(self) -> None:
        rng = self._rng
        place = rng.randrange(len(self._held))
        grant = self._held[place]
        lease = LeaseRef(
            series=SeriesId(dataset=grant.dataset, symbol=grant.symbol),
            start_ms=grant.start_ms,
            end_ms=grant.end_ms,
            fence=grant.fence,
        )
        lot = rng.random()
        if lot < 0.3:
            await self._caller.do(Renew(lease=lease, ttl_ms=10_000, cursor_ms=grant.start_ms))
            return
        if lot < 0.9 or rng.random() < 0.5:
            # One in ten is forgotten and expires, as if its worker had died.
            del self._held[place]
        if lot < 0.75:
            await self._caller.do(_whole(lease, rng))
        elif lot < 0.85:
            await self._caller.do(Release(lease=lease, no_write_in_flight=True))
        elif lot < 0.9:
            await self._caller.do(Fail(lease=lease, code="source_error", retryable=True))


def _whole(lease: LeaseRef, rng: random.Random) -> Complete:
    covered = CoveredRange(
        start_ms=lease.start_ms,
        end_ms=lease.end_ms,
        rows=(lease.end_ms - lease.start_ms) // MINUTE_MS,
        content_digest=f"{rng.getrandbits(128):032x}",
    )
    return Complete(lease=lease, covered=(covered,))
