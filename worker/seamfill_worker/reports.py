"""Telling the coordinator what became of leases, and keeping at it while that makes sense.

Owns the six calls' retry policy and what each answer means for a lease in hand. Must not fetch or
write. ``OutcomeUnknown`` is met by repeating the same request: Complete and Fail are safe to
repeat, and a repeated Release or Snooze is at worst answered *stale*.

Invariant: whatever is said about a lease, it is said under its own fence; a refusal ends it here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from seamfill.clock import Clock
from seamfill.errors import CoordinatorUnavailable, OutcomeUnknown, RequestRefused
from seamfill.logs import log_event
from seamfill.protocol.leases import (
    CompleteItem,
    CompleteRequest,
    FailItem,
    FailRequest,
    ItemResult,
    ReleaseItem,
    ReleaseRequest,
    ResultsAnswer,
    SnoozeItem,
    SnoozeRequest,
)
from seamfill.protocol.values import Usage, WorkerIdentity
from seamfill_worker.held import Coordinator, Held, HeldLeases, WorkerReplaced
from seamfill_worker.retry import DETAIL_CHARS, GiveBack, GiveUp
from seamfill_worker.telemetry import WorkerMetrics

__all__ = ["Reports"]

T = TypeVar("T")
_REPLACED: Final = "worker_replaced"
_FIRST_DELAY_MS: Final = 100
_DELAY_MS_MAX: Final = 2_000
_LOG: Final = logging.getLogger("seamless.backfill")


class Reports:
    """Completes, fails, snoozes and releases held leases."""

    def __init__(
        self,
        coordinator: Coordinator,
        identity: WorkerIdentity,
        held: HeldLeases,
        *,
        clock: Clock,
        metrics: WorkerMetrics,
    ) -> None:
        self._coordinator = coordinator
        self._identity = identity
        self._held = held
        self._clock = clock
        self._metrics = metrics

    async def complete(
        self, items: Sequence[tuple[Held, CompleteItem]], usage: tuple[Usage, ...]
    ) -> list[Held]:
        """Report facts; return the leases whose completion counts and that keep a rest."""
        request = CompleteRequest(
            worker=self._identity, leases=tuple(item for _, item in items), usage=usage
        )
        leases = [held for held, _ in items]
        answer = await self._insist(lambda: self._coordinator.complete(request), leases)
        if answer is None:
            return []
        keeping = []
        for (held, item), result in zip(items, answer.results, strict=True):
            if result.status == "refused":
                await self._completion_refused(held, result)
                continue
            self._completed(held, item)
            if item.final:
                self._held.drop(held)
            else:
                keeping.append(held)
        return keeping

    async def give_up(self, held: Held, why: GiveUp, usage: tuple[Usage, ...] = ()) -> None:
        """Fail a lease: an attempt was used, or the rest can not be proved."""
        item = FailItem(
            lease=held.ref,
            code=why.code,
            retryable=why.retryable,
            delay_ms=why.delay_ms,
            detail=why.detail[:DETAIL_CHARS],
        )
        request = FailRequest(worker=self._identity, leases=(item,), usage=usage)
        self._metrics.failed(why.code)
        log_event(
            _LOG,
            "window.failed",
            level=logging.WARNING,
            **held.facts(),
            code=why.code,
            retryable=why.retryable,
            detail=why.detail,
        )
        await self._end(held, lambda: self._coordinator.fail(request))

    async def give_back(self, held: Held, why: GiveBack, usage: tuple[Usage, ...] = ()) -> None:
        """Snooze a lease: nobody could do better now."""
        item = SnoozeItem(lease=held.ref, delay_ms=why.delay_ms, why=why.why)
        request = SnoozeRequest(worker=self._identity, leases=(item,), usage=usage)
        self._metrics.handed_back(why.why)
        log_event(_LOG, "window.snoozed", **held.facts(), why=why.why, delay_ms=why.delay_ms)
        await self._end(held, lambda: self._coordinator.snooze(request))

    async def release(self, leases: Sequence[Held], *, no_write_in_flight: bool) -> None:
        """Hand leases back without using an attempt."""
        if not leases:
            return
        items = tuple(
            ReleaseItem(lease=held.ref, no_write_in_flight=no_write_in_flight) for held in leases
        )
        request = ReleaseRequest(worker=self._identity, leases=items)
        for held in leases:
            log_event(_LOG, "window.released", **held.facts())
            self._metrics.handed_back("released")
        await self._insist(lambda: self._coordinator.release(request), leases)
        for held in leases:
            self._held.drop(held)

    def lost(self, held: Held, reason: str, *, covered: bool | None = None) -> None:
        """Let a lease go that the coordinator no longer counts as ours."""
        if self._held.drop(held):
            self._metrics.lost(reason)
            log_event(
                _LOG,
                "window.lost",
                level=logging.WARNING,
                **held.facts(),
                reason=reason,
                covered=covered,
            )

    async def _end(self, held: Held, call: Callable[[], Awaitable[ResultsAnswer]]) -> None:
        answer = await self._insist(call, [held])
        if answer is None:
            return
        result = answer.results[0]
        if result.status == "refused":
            self._raise_if_replaced(result.reason)
            self.lost(held, result.reason or "refused", covered=result.covered)
        self._held.drop(held)

    async def _completion_refused(self, held: Held, result: ItemResult) -> None:
        reason = result.reason or "refused"
        self._raise_if_replaced(reason)
        if reason in ("stale_fence", "expired"):
            self.lost(held, reason, covered=result.covered)
            return
        # The lease is still ours, but what we found contradicts what the cluster knows.
        detail = f"{reason}: {result.detail or ''} {result.field or ''}".strip()
        await self.give_up(held, GiveUp(code=reason, retryable=True, detail=detail))

    def _completed(self, held: Held, item: CompleteItem) -> None:
        rows = sum(span.rows for span in item.covered)
        facts = held.facts()
        interval_ms = held.grant.spec.interval_ms
        for gap in item.gaps:
            self._metrics.gap(gap.reason.value, (gap.end_ms - gap.start_ms) // interval_ms)
        self._metrics.completed(
            str(facts["node_id"]),
            interval_s=interval_ms // 1000,
            end_ms=held.grant.end_ms,
            rows=rows,
        )
        self._metrics.repaired(self._clock.monotonic_ms() - held.granted_at_ms)
        log_event(
            _LOG,
            "window.completed",
            **facts,
            rows=rows,
            gaps=[(gap.start_ms, gap.end_ms, gap.reason.value) for gap in item.gaps],
            final=item.final,
        )

    async def _insist(self, call: Callable[[], Awaitable[T]], leases: Sequence[Held]) -> T | None:
        """Repeat a call until it is answered or trust in all of its leases has ended.

        None: nobody heard of it, or it was refused; the leases are dropped, and the coordinator
        will end them by itself.
        """
        delay_ms = _FIRST_DELAY_MS
        while True:
            try:
                return await call()
            except (CoordinatorUnavailable, OutcomeUnknown) as error:
                until_ms = max(held.trust.until_ms for held in leases)
                if self._clock.monotonic_ms() + delay_ms >= until_ms:
                    self._lose_all(leases, error.code)
                    return None
                await self._clock.sleep_ms(delay_ms)
                delay_ms = min(2 * delay_ms, _DELAY_MS_MAX)
            except RequestRefused as refusal:
                self._raise_if_replaced(refusal.reason)
                self._lose_all(leases, refusal.reason)
                return None

    def _lose_all(self, leases: Sequence[Held], reason: str) -> None:
        for held in leases:
            self.lost(held, reason)

    @staticmethod
    def _raise_if_replaced(reason: str | None) -> None:
        if reason == _REPLACED:
            raise WorkerReplaced
