"""Renewing held leases before trust in them runs low, and hearing what the coordinator wants.

Owns when to renew and what a directive means. Must not know fetching or stores. One list request
renews everything that is near its time, with the cursors as hints for a next holder.

Invariant: trust is only ever extended by a granted renewal, counted from before it was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, assert_never

from seamfill.clock import Clock
from seamfill.errors import CoordinatorUnavailable, OutcomeUnknown, RequestRefused
from seamfill.logs import log_event
from seamfill.protocol.leases import ItemResult, RenewItem, RenewRequest
from seamfill.protocol.values import Directive, WorkerIdentity
from seamfill_worker.held import Coordinator, Held, HeldLeases, Stage, WorkerReplaced
from seamfill_worker.reports import Reports

__all__ = ["Heartbeat"]

_LOOK_MS: Final = 500
"""How often the table is looked at: leases come and go between two renewals."""
_ITEMS_MAX: Final = 256
_LOG: Final = logging.getLogger("seamless.backfill")


class Heartbeat:
    """Renews at the time each grant names (a third of the ttl). ``on_drain`` is called once."""

    def __init__(
        self,
        coordinator: Coordinator,
        identity: WorkerIdentity,
        held: HeldLeases,
        reports: Reports,
        *,
        ttl_ms: int,
        clock: Clock,
        on_drain: Callable[[], None],
    ) -> None:
        self._coordinator = coordinator
        self._identity = identity
        self._held = held
        self._reports = reports
        self._ttl_ms = ttl_ms
        self._clock = clock
        self._on_drain = on_drain

    async def run(self) -> None:
        """Renew for as long as the task lives."""
        while True:
            now_ms = self._clock.monotonic_ms()
            # One that is due takes the others along that soon would be: one request for all.
            soon_ms = now_ms + self._ttl_ms // 12
            if any(held.trust.renew_at_ms <= now_ms for held in self._held):
                due = [held for held in self._held if held.trust.renew_at_ms <= soon_ms]
                await self.renew(due)
            await self._clock.sleep_ms(_LOOK_MS)

    async def renew(self, leases: Sequence[Held]) -> None:
        """Renew these leases now; on no answer trust stays as it is, and ends by itself."""
        for at in range(0, len(leases), _ITEMS_MAX):
            await self._renew_some(leases[at : at + _ITEMS_MAX])

    async def _renew_some(self, leases: Sequence[Held]) -> None:
        request = RenewRequest(
            worker=self._identity,
            leases=tuple(RenewItem(lease=held.ref, cursor_ms=held.cursor_ms) for held in leases),
            ttl_ms=self._ttl_ms,
        )
        sent_at_ms = self._clock.monotonic_ms()
        try:
            answer = await self._coordinator.renew(request)
        except (CoordinatorUnavailable, OutcomeUnknown) as error:
            log_event(_LOG, "lease.not_renewed", level=logging.WARNING, reason=error.code)
            return
        except RequestRefused as refusal:
            if refusal.reason == "worker_replaced":
                raise WorkerReplaced from refusal
            log_event(_LOG, "lease.not_renewed", level=logging.WARNING, reason=refusal.reason)
            return
        for held, result in zip(leases, answer.results, strict=True):
            await self._heard(held, result, sent_at_ms)

    async def _heard(self, held: Held, result: ItemResult, sent_at_ms: int) -> None:
        if result.status == "refused":
            if result.reason == "worker_replaced":
                raise WorkerReplaced
            # Facts on their way are left to the answer to their completion: after mere expiry the
            # fence decides there, not the deadline. So is a running write, which trust ends.
            is_late = result.reason == "expired" and held.stage is Stage.WRITING
            if held.stage < Stage.REPORTING and not is_late:
                self._reports.lost(held, result.reason or "refused", covered=result.covered)
            return
        ttl_ms = result.ttl_ms or self._ttl_ms
        held.trust = held.trust.renewed(
            sent_at_ms=sent_at_ms,
            ttl_ms=ttl_ms,
            renew_after_ms=result.renew_after_ms or ttl_ms // 3,
        )
        await self._obey(held, result.directive or Directive.CONTINUE)

    async def _obey(self, held: Held, directive: Directive) -> None:
        match directive:
            case Directive.CONTINUE:
                return
            case Directive.DRAIN:
                self._on_drain()
            case Directive.CANCEL | Directive.PAUSE:
                # What is fetched already costs nothing more and still counts; only stop fetching.
                if held.stage is Stage.FETCHING:
                    log_event(_LOG, "window.stopped", **held.facts(), directive=directive.value)
                    if held.fetching is not None:
                        held.fetching.cancel()
                    await self._reports.release([held], no_write_in_flight=True)
            case _:
                assert_never(directive)
