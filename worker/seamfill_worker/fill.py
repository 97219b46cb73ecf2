"""One window, from a granted lease to a verdict: carries out what the plan asks.

Owns the I/O of fetching: pacing, concurrency within the venue's limit, repeated tries. The plan
(``plan``) decides what to ask; ``retry`` decides after an error. Must not write or report anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeGuard, TypeVar, assert_never

from seamfill.clock import Clock
from seamfill.connectors import Page, Source
from seamfill.errors import SourceError, SourceRateLimited
from seamfill.logs import log_event
from seamfill.protocol.leases import GrantedLease
from seamfill.protocol.values import Usage
from seamfill_worker.held import Held
from seamfill_worker.pacing import Pacer
from seamfill_worker.plan import fill
from seamfill_worker.questions import (
    Answered,
    AskClock,
    AskPage,
    AskTrading,
    ClockRead,
    Question,
    Reply,
    Trading,
    Verdict,
    Window,
)
from seamfill_worker.retry import Again, Decision, GiveBack, GiveUp, after_source_error
from seamfill_worker.telemetry import WorkerMetrics

__all__ = ["Venued", "window_of"]

_LOG: Final = logging.getLogger("seamless.backfill")
T = TypeVar("T")
_BeginningKey = tuple[str, str, int, int]

_BEGINNING_KEPT_MS: Final = 60_000
_BEGINNINGS_KEPT: Final = 1_000


class Venued:
    """A source with what one process must respect about its venue: pace and concurrency.

    ``usage`` holds what the venue's counters said last, until a report takes it along.
    """

    def __init__(self, source: Source, *, clock: Clock, metrics: WorkerMetrics) -> None:
        venue = source.venue
        self.source = source
        self._clock = clock
        self._metrics = metrics
        self._slots = asyncio.Semaphore(venue.max_concurrent)
        self._pacer = Pacer(
            weight_per_minute=venue.weight_per_minute, page_weight=venue.page_weight
        )
        self._usage: Usage | None = None
        self._beginnings: dict[_BeginningKey, _Beginning] = {}

    def take_usage(self) -> tuple[Usage, ...]:
        """Return what the venue said since the last call, for the next report."""
        usage, self._usage = self._usage, None
        return () if usage is None else (usage,)

    async def fetch_window(self, held: Held) -> Verdict | GiveBack | GiveUp:
        """Ask what the plan asks until there is a verdict, or a reason to let the lease go."""
        steps = fill(window_of(held.grant, self.source))
        budget = _Budget(held.grant.budget_weight, self.source.venue.page_weight)
        reply: Reply | None = None
        begun: set[Question] = set()
        while True:
            try:
                question = next(steps) if reply is None else steps.send(reply)
            except StopIteration as done:
                verdict: Verdict = done.value
                return verdict
            answer: Reply | GiveBack | GiveUp
            if _is_beginning(question, held.grant) and question not in begun:
                begun.add(question)
                answer = await self._beginning(held, question, budget)
            else:
                answer = await self._answer(held, question, budget)
            if isinstance(answer, GiveBack | GiveUp):
                steps.close()
                return answer
            reply = answer

    async def _answer(
        self, held: Held, question: Question, budget: _Budget
    ) -> Reply | GiveBack | GiveUp:
        match question:
            case AskPage():
                return await self._tries(held, lambda: self._page(held, question, budget))
            case AskClock():
                return await self._tries(held, self._clock_read)
            case AskTrading():
                return await self._tries(held, lambda: self._trading(held.grant))
        assert_never(question)

    async def _beginning(
        self, held: Held, question: AskPage, budget: _Budget
    ) -> Answered | GiveBack | GiveUp:
        """Ask about a symbol's first bars once for all windows that want to know it now.

        A series that was listed late has many windows before its first bar, and they are granted
        together: each would ask the same. A window that asks again (its answers disagreed) gets an
        answer of its own, so that a passing lie is not passed on.
        """
        series = held.grant.series
        key = (series.dataset, series.symbol, question.start_ms, question.limit_bars)
        known = self._beginnings.setdefault(key, _Beginning())
        async with known.asking:
            heard = known.answer
            if (
                heard is not None
                and heard.sent_ms >= question.not_before_ms
                and self._clock.monotonic_ms() - heard.at_ms <= _BEGINNING_KEPT_MS
            ):
                return heard
            answer = await self._tries(held, lambda: self._page(held, question, budget))
            if isinstance(answer, Answered):
                known.answer = answer
            if len(self._beginnings) > _BEGINNINGS_KEPT:
                self._beginnings.pop(next(iter(self._beginnings)))
            return answer

    async def _tries(self, held: Held, ask: Callable[[], Awaitable[T]]) -> T | GiveBack | GiveUp:
        """Ask until it answers or ``retry`` says to stop."""
        tries = 0
        while True:
            try:
                return await ask()
            except SourceError as error:
                tries += 1
                decision = self._after(error, tries)
                log_event(
                    _LOG,
                    "source.failed",
                    level=logging.WARNING,
                    **held.facts(),
                    code=error.code,
                    detail=error.message,
                    tries=tries,
                )
                if not isinstance(decision, Again):
                    return decision
                await self._clock.sleep_ms(decision.delay_ms)

    def _after(self, error: SourceError, tries: int) -> Decision:
        decision = after_source_error(error, tries=tries)
        self._metrics.source_error(error.code)
        if isinstance(error, SourceRateLimited):
            status = 418 if error.banned else 429
            self._pacer.hold(error.retry_after_ms, now_ms=self._clock.monotonic_ms())
            self._usage = Usage(
                source=self.source.name,
                penalty_ms=min(error.retry_after_ms, 86_400_000),
                status=status,
            )
        return decision

    async def _page(self, held: Held, question: AskPage, budget: _Budget) -> Answered:
        grant = held.grant
        await self._wait_until(question.not_before_ms)
        async with self._slots:
            await self._admitted(budget)
            sent_ms = self._clock.monotonic_ms()
            page = await self.source.fetch(
                grant.series.symbol,
                grant.spec.interval_ms,
                start_ms=question.start_ms,
                limit_bars=question.limit_bars,
            )
        at_ms = self._clock.monotonic_ms()
        self._heard(page, at_ms)
        if len(page.bars):
            held.cursor_ms = min(grant.end_ms, int(page.bars.ts_ms[-1]) + grant.spec.interval_ms)
        return Answered(ask=question, page=page, sent_ms=sent_ms, at_ms=at_ms)

    async def _clock_read(self) -> ClockRead:
        return ClockRead(await self.source.server_time_ms())

    async def _trading(self, grant: GrantedLease) -> Trading:
        return Trading(await self.source.is_trading(grant.series.symbol))

    async def _wait_until(self, at_ms: int) -> None:
        while (now_ms := self._clock.monotonic_ms()) < at_ms:
            await self._clock.sleep_ms(at_ms - now_ms)

    async def _admitted(self, budget: _Budget) -> None:
        granted = budget.covers_next()
        while True:
            wait_ms = self._pacer.wait_ms(
                weight=budget.page_weight, granted=granted, now_ms=self._clock.monotonic_ms()
            )
            if wait_ms == 0:
                budget.spend()
                return
            await self._clock.sleep_ms(wait_ms)

    def _heard(self, page: Page, now_ms: int) -> None:
        usage = page.usage
        # A penalty waits until it was reported; an ordinary counter must not push it out.
        if self._usage is None or self._usage.penalty_ms is None:
            self._usage = usage
        if usage.used_weight is not None:
            self._pacer.observed(
                used_weight=usage.used_weight,
                server_time_ms=page.asked.server_time_ms,
                now_ms=now_ms,
            )


class _Beginning:
    """The last answer to one question about a symbol's first bars, and who is asking it."""

    __slots__ = ("answer", "asking")

    def __init__(self) -> None:
        self.answer: Answered | None = None
        self.asking = asyncio.Lock()


def _is_beginning(question: Question, grant: GrantedLease) -> TypeGuard[AskPage]:
    """Tell whether the answer is about the symbol's first bars, and not about this window."""
    return (
        isinstance(question, AskPage)
        and question.start_ms <= grant.spec.interval_ms
        and question.start_ms < grant.start_ms
    )


class _Budget:
    """The weight that came with a lease, spent page by page."""

    __slots__ = ("_left", "page_weight")

    def __init__(self, granted: int, page_weight: int) -> None:
        self._left = granted
        self.page_weight = page_weight

    def covers_next(self) -> bool:
        return self._left >= self.page_weight

    def spend(self) -> None:
        self._left -= self.page_weight


def window_of(grant: GrantedLease, source: Source) -> Window:
    """Return what the plan needs to know of a granted lease."""
    return Window(
        start_ms=grant.start_ms,
        end_ms=grant.end_ms,
        interval_ms=grant.spec.interval_ms,
        page_bars=source.venue.page_bars,
        settle_ms=source.venue.settle_ms,
        dense=grant.spec.dense,
        listed_from_ms=grant.listed_from_ms,
        delisted_at_ms=grant.delisted_at_ms,
    )
