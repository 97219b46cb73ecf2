"""One ``fetch`` in progress: the phases of a plan, each under its budget.

Owns the order coverage → backfill → storage → verification, and what a missed budget or an absent
coordinator means for it. Must not decide what a situation calls for (``read_plan`` does), word
errors (``read_request``) or keep anything after the fetch.

Invariants: every wait is bounded by its phase's budget and by what is left of the total; rows are
served only for ranges whose count and digest agree with the coverage they were read under.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from seamfill.assembling import assemble
from seamfill.bars import Bars
from seamfill.client import FINAL_STATES, CoordinatorClient
from seamfill.clock import Clock
from seamfill.connectors import GenRange, StoreReader
from seamfill.consulting import whole_coverage
from seamfill.errors import (
    CoordinatorUnavailable,
    OutcomeUnknown,
    RequestRefused,
    SeamlessSLAExceeded,
    StoreUnavailable,
)
from seamfill.intervals import IntervalSet, TimeRange
from seamfill.logs import log_event
from seamfill.presets import BackfillMode
from seamfill.protocol.backfills import (
    BackfillPlan,
    BackfillRequest,
    BackfillView,
    CoverageAnswer,
    Wanted,
)
from seamfill.protocol.values import Redo
from seamfill.read_plan import (
    Segment,
    Strategy,
    Survey,
    Verdict,
    find_lost,
    judge,
    plan_read,
    survey,
    tolerates,
)
from seamfill.read_request import ReadRequest
from seamfill.result import CoverageKnowledge, FetchResult
from seamfill.sla import Phase
from seamfill.waiting import BudgetSpent, run_within

__all__ = ["Fetching", "serves_without_coordinator"]

# More rows than this are digested in a thread: 0.5 µs a row would hold up the loop for long.
DIGEST_INLINE_ROWS: Final = 2_000
MAX_WANTED: Final = 2_000
CANCEL_WITHIN_MS: Final = 2_000

_SLA_LOG: Final = logging.getLogger("seamless.sla")
_BACKFILL_LOG: Final = logging.getLogger("seamless.backfill")

T = TypeVar("T")


class _Unreachable(Exception):
    """The coordinator could not be asked, and the strategy serves without it."""


class Fetching:
    """Runs one read. ``run`` may be called once.

    ``begun_ms``: when the caller's patience began, on the clock's monotonic scale. ``newest`` is
    the last coverage heard, for readers that come when no coordinator answers.
    """

    def __init__(
        self,
        request: ReadRequest,
        *,
        coordinator: CoordinatorClient,
        store: StoreReader,
        clock: Clock,
        begun_ms: int,
        newest: CoverageAnswer | None,
    ) -> None:
        self._request = request
        self._coordinator = coordinator
        self._store = store
        self._clock = clock
        self._begun_ms = begun_ms
        self._end_ms = request.end_ms
        self._plan: BackfillPlan | None = None
        self._progress: BackfillView | None = None
        self._out_of_time = False
        # In mode ``sync`` the backfill has to be found again when the fetch is cancelled before it
        # heard of its id, so the id is chosen here.
        is_sync = request.mode is BackfillMode.SYNC
        self._own_id = f"fetch-{uuid.uuid4().hex}" if is_sync else None
        self._has_submitted = False
        self.newest = newest

    async def run(self, answer: CoverageAnswer | None) -> FetchResult:
        """Return the result; ``answer`` is the coverage consulted first, None when unreachable.

        Raises as ``SeamlessDataProvider.fetch`` documents.
        """
        try:
            if answer is None:
                return await self._without_coordinator()
            return await self._with_coordinator(answer)
        except _Unreachable:
            return await self._without_coordinator()
        except asyncio.CancelledError:
            await self._cancel_own_backfill()
            raise

    # --- with a coordinator ---------------------------------------------------------------------

    async def _with_coordinator(self, answer: CoverageAnswer) -> FetchResult:
        request = self._request
        found = self._survey(answer)
        plan = plan_read(found, request.strategy, request.policy, left_ms=self._left_ms())
        if plan.submit:
            whole = (TimeRange(request.start_ms, request.end_ms),)
            await self._backfill(whole, None, plan.backfill_wait_ms)
            answer = await self._consult()
            found = self._survey(answer)
        elif found.unfilled:
            await self._clip_to_closed()
            found = self._survey(answer)
        self._raise_unless_served(found)
        answer, found, bars, lost = await self._read_verified(answer)
        if len(lost):
            answer, found, bars, lost = await self._refill(answer, found, bars, lost)
        return self._result(found, bars, lost, CoverageKnowledge.CURRENT, answer)

    async def _consult(self) -> CoverageAnswer:
        """Ask for the coverage again, within what is left."""
        asking = whole_coverage(self._coordinator, self._request)
        budget_ms = self._request.policy.total_deadline_ms
        try:
            self.newest = await self._phase(Phase.TOTAL, budget_ms, asking, grace=True)
        except CoordinatorUnavailable as exc:
            self._go_on_without(exc)
            raise
        return self.newest

    async def _clip_to_closed(self) -> None:
        """Do not call a bar missing that has not closed yet: let the coordinator clip a dry run."""
        whole = (TimeRange(self._request.start_ms, self._request.end_ms),)
        asking = self._coordinator.submit(self._backfill_request(whole, None, dry_run=True))
        plan = await self._phase(Phase.TOTAL, self._request.policy.total_deadline_ms, asking)
        self._clip(plan)

    def _clip(self, plan: BackfillPlan) -> None:
        self._end_ms = max(self._request.start_ms, min(self._end_ms, plan.end_ms))

    def _raise_unless_served(self, found: Survey) -> None:
        request = self._request
        match judge(found, request.strategy, request.policy, out_of_time=self._out_of_time):
            case Verdict.COMPLETE | Verdict.PARTIAL:
                return
            case Verdict.OVER_BUDGET:
                raise self._exceeded(Phase.BACKFILL_WAIT, self._backfill_budget_ms())
            case Verdict.VIOLATED:
                raise request.violated(found)
            case Verdict.UNFILLED:
                raise request.unfilled(found)

    # --- backfill -------------------------------------------------------------------------------

    async def _backfill(
        self, wanted: tuple[TimeRange, ...], redo: Redo | None, wait_ms: int
    ) -> None:
        """Submit, and wait up to ``wait_ms`` (0: do not wait).

        A read that raises when its bars are late does so here; one that serves around them notes
        that the time is up.
        """
        self._check_sync_gap(wanted)
        until_ms = self._clock.monotonic_ms() + (wait_ms or self._left_ms())
        self._has_submitted = redo is None
        try:
            self._plan = await run_within(
                self._clock,
                until_ms - self._clock.monotonic_ms(),
                self._coordinator.submit(self._backfill_request(wanted, redo)),
            )
            if redo is None:
                self._clip(self._plan)
            self._log_requested(self._plan)
            if wait_ms:
                await run_within(
                    self._clock, until_ms - self._clock.monotonic_ms(), self._follow(self._plan.id)
                )
        except BudgetSpent:
            self._out_of_time = True
            if not tolerates(self._request.strategy, self._request.policy):
                raise self._exceeded(Phase.BACKFILL_WAIT, self._backfill_budget_ms()) from None
        except (CoordinatorUnavailable, OutcomeUnknown) as exc:
            self._go_on_without(exc)
            raise

    def _backfill_request(
        self, wanted: tuple[TimeRange, ...], redo: Redo | None, *, dry_run: bool = False
    ) -> BackfillRequest:
        request = self._request
        return BackfillRequest(
            dataset=request.series.dataset,
            spec=request.spec,
            wanted=tuple(
                Wanted(symbol=request.series.symbol, start_ms=each.start_ms, end_ms=each.end_ms)
                for each in wanted[:MAX_WANTED]
            ),
            id=self._own_id if redo is None and not dry_run else None,
            window_bars=request.window_bars,
            # The caller's deadline travels along, and orders the work among equals.
            deadline_ms=self._clock.wall_ms() + self._left_ms(),
            redo=redo,
            dry_run=dry_run,
        )

    async def _follow(self, backfill_id: str) -> None:
        async for view in self._coordinator.watch(backfill_id):
            self._progress = view
            if view.state in FINAL_STATES:
                return

    def _check_sync_gap(self, wanted: tuple[TimeRange, ...]) -> None:
        allowed = self._request.policy.max_sync_gap_bars
        if allowed is None or self._request.mode is not BackfillMode.SYNC:
            return
        bars = self._request.bars(sum(each.duration_ms for each in wanted))
        if bars > allowed:
            raise self._request.too_wide(bars, allowed)

    async def _cancel_own_backfill(self) -> None:
        """In mode ``sync`` a backfill does not outlive the fetch that wanted it."""
        if self._own_id is None or not self._has_submitted:
            return
        cancelling = self._coordinator.cancel(self._own_id)
        try:
            await run_within(self._clock, CANCEL_WITHIN_MS, cancelling)
        except (BudgetSpent, CoordinatorUnavailable, OutcomeUnknown, RequestRefused) as exc:
            log_event(
                _BACKFILL_LOG,
                "backfill.cancel_failed",
                level=logging.WARNING,
                node_id=self._request.node_id,
                backfill_id=self._own_id,
                reason=str(exc) or type(exc).__name__,
            )

    # --- storage --------------------------------------------------------------------------------

    async def _read_verified(
        self, answer: CoverageAnswer
    ) -> tuple[CoverageAnswer, Survey, Bars, IntervalSet]:
        """Read what coverage promises; once more when the facts moved while we were reading."""
        found = self._survey(answer)
        bars = await self._read(found.segments)
        lost = await self._compare(bars, found.segments)
        if not len(lost):
            return answer, found, bars, lost
        newer = await self._consult()
        if newer.coverage_rev == answer.coverage_rev:
            return answer, found, bars, lost
        found = self._survey(newer)
        bars = await self._read(found.segments)
        return newer, found, bars, await self._compare(bars, found.segments)

    async def _read(self, segments: Sequence[Segment]) -> Bars:
        if not segments:
            return Bars.empty()
        reading = self._read_patiently([segment.range for segment in segments])
        budget_ms = self._request.policy.max_wait_storage_ms
        return await self._phase(Phase.STORAGE_WAIT, budget_ms, reading, grace=True)

    async def _read_patiently(self, ranges: Sequence[GenRange]) -> Bars:
        """Read, and come back to a store that can not be reached while the phase lasts."""
        policy = self._request.policy
        until_ms = self._clock.monotonic_ms() + policy.max_wait_storage_ms
        while True:
            try:
                return await self._store.read(self._request.series, ranges)
            except StoreUnavailable as exc:
                # The store's own error says more than a missed budget would.
                if self._clock.monotonic_ms() + policy.retry_backoff_ms >= until_ms:
                    raise
                log_event(
                    _SLA_LOG,
                    "storage.retried",
                    level=logging.WARNING,
                    node_id=self._request.node_id,
                    reason=exc.message,
                )
                await self._clock.sleep_ms(policy.retry_backoff_ms)

    async def _compare(self, bars: Bars, segments: tuple[Segment, ...]) -> IntervalSet:
        spec = self._request.spec
        if len(bars) <= DIGEST_INLINE_ROWS:
            return find_lost(bars, segments, interval_ms=spec.interval_ms, is_dense=spec.dense)
        return await asyncio.to_thread(
            find_lost, bars, segments, interval_ms=spec.interval_ms, is_dense=spec.dense
        )

    async def _refill(
        self, answer: CoverageAnswer, found: Survey, bars: Bars, lost: IntervalSet
    ) -> tuple[CoverageAnswer, Survey, Bars, IntervalSet]:
        """Have verified bars that the store has lost fetched again, exactly those."""
        request = self._request
        log_event(
            _BACKFILL_LOG,
            "coverage.lost",
            level=logging.WARNING,
            node_id=request.node_id,
            interval=request.spec.interval_ms // 1000,
            start=int(lost.starts[0]),
            end=int(lost.ends[-1]),
            bars=request.bars(lost.total),
        )
        # On a sparse series absence says nothing about single bars, and values of the past can not
        # be fetched any more: there an operator must look.
        can_refill = request.spec.dense and request.as_of is None
        if can_refill and request.strategy is not Strategy.FAIL_FAST:
            waits = request.strategy is not Strategy.PARTIAL_FILL
            wait_ms = min(request.policy.max_wait_backfill_ms, self._left_ms()) if waits else 0
            # A verified bar is only granted again at a new generation (``redo=missing`` reopens
            # proved gaps), which also keeps what is left of the old rows out of the new ones.
            await self._backfill(tuple(lost), Redo.RESTATED, wait_ms)
            answer, found, bars, lost = await self._read_verified(await self._consult())
        if len(lost) and not tolerates(request.strategy, request.policy):
            raise request.mismatch(lost)
        self._raise_unless_served(found)
        return answer, found, bars, lost

    # --- without a coordinator ------------------------------------------------------------------

    async def _without_coordinator(self) -> FetchResult:
        """Serve storage by what was last known, never calling it complete."""
        if self.newest is not None:
            found = self._survey(self.newest)
            bars = await self._read(found.segments)
            lost = await self._compare(bars, found.segments)
            return self._result(found, bars, lost, CoverageKnowledge.LAST_KNOWN, self.newest)
        start_ms, end_ms = self._request.start_ms, self._end_ms
        # Without any coverage the first generation is the only one that surely means something.
        blind = Segment(start_ms=start_ms, end_ms=end_ms, gen=0, rows=None, content_digest=None)
        found = Survey(
            start_ms=start_ms,
            end_ms=end_ms,
            segments=(),
            gaps=(),
            violated=(),
            unfilled=(TimeRange(start_ms, end_ms),),
        )
        bars = await self._read((blind,))
        return self._result(found, bars, IntervalSet.empty(), CoverageKnowledge.NONE, None)

    def _go_on_without(self, exc: Exception) -> None:
        if serves_without_coordinator(self._request.strategy):
            raise _Unreachable from exc

    # --- shared by the phases -------------------------------------------------------------------

    def _survey(self, answer: CoverageAnswer) -> Survey:
        if answer.restated:
            raise self._request.restated(tuple(answer.restated))
        spec = self._request.spec
        return survey(
            answer,
            self._request.start_ms,
            self._end_ms,
            interval_ms=spec.interval_ms,
            is_dense=spec.dense,
        )

    def _result(
        self,
        found: Survey,
        bars: Bars,
        lost: IntervalSet,
        knowledge: CoverageKnowledge,
        answer: CoverageAnswer | None,
    ) -> FetchResult:
        return assemble(
            self._request,
            found,
            bars,
            lost,
            knowledge=knowledge,
            answer=answer,
            backfill_id=self._plan.id if self._plan else None,
        )

    def _left_ms(self) -> int:
        spent_ms = self._clock.monotonic_ms() - self._begun_ms
        return max(0, self._request.policy.total_deadline_ms - spent_ms)

    async def _phase(
        self, phase: Phase, budget_ms: int, work: Coroutine[Any, Any, T], *, grace: bool = False
    ) -> T:
        """Run one phase within its budget and what is left of the total.

        ``grace``: a read that serves around missing bars keeps a quarter of its whole time, at most
        the storage budget, for serving after its patience has ended.
        """
        policy, left_ms = self._request.policy, self._left_ms()
        if grace and tolerates(self._request.strategy, policy):
            left_ms = max(left_ms, min(policy.max_wait_storage_ms, policy.total_deadline_ms // 4))
        try:
            return await run_within(self._clock, min(budget_ms, left_ms), work)
        except BudgetSpent:
            if budget_ms <= left_ms:
                raise self._exceeded(phase, budget_ms) from None
            raise self._exceeded(Phase.TOTAL, policy.total_deadline_ms) from None

    def _backfill_budget_ms(self) -> int:
        policy = self._request.policy
        return min(policy.max_wait_backfill_ms, policy.total_deadline_ms)

    def _exceeded(self, phase: Phase, budget_ms: int) -> SeamlessSLAExceeded:
        error = self._request.exceeded(
            phase,
            budget_ms=budget_ms,
            elapsed_ms=self._clock.monotonic_ms() - self._begun_ms,
            backfill_id=self._plan.id if self._plan else None,
            view=self._progress,
        )
        log_event(
            _SLA_LOG,
            "sla.exceeded",
            level=logging.WARNING,
            node_id=error.node_id,
            interval=self._request.spec.interval_ms // 1000,
            start=self._request.start_ms,
            end=self._request.end_ms,
            phase=error.phase,
            elapsed_ms=error.elapsed_ms,
            budget_ms=error.budget_ms,
            backfill_id=error.backfill_id,
        )
        return error

    def _log_requested(self, plan: BackfillPlan) -> None:
        log_event(
            _BACKFILL_LOG,
            "backfill.requested",
            node_id=self._request.node_id,
            interval=self._request.spec.interval_ms // 1000,
            start=plan.start_ms,
            end=plan.end_ms,
            backfill_id=plan.id,
        )


def serves_without_coordinator(strategy: Strategy) -> bool:
    """Whether history is served, marked incomplete, when no coordinator can be reached."""
    return strategy in (Strategy.SEAMLESS, Strategy.PARTIAL_FILL)
