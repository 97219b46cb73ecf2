"""The Seamless Data Provider: ask for a series and a range, get bars or the reason for each hole.

Owns what lives longer than one read: configuration, presets, the coordinator client, open stores,
the coverage last heard. Must not know phases or budgets: ``fetching`` runs a read.

Constructing does no I/O; ``async with`` does, and the provider then belongs to that event loop. It
adds no log handlers, sets no loop policy and opens no ports.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Final, NoReturn, Self

from seamfill.client import FINAL_STATES, CoordinatorClient
from seamfill.clock import Clock, SystemClock
from seamfill.config import Profile, SeamlessConfig
from seamfill.connectors import StoreReader, Venue
from seamfill.consulting import whole_coverage
from seamfill.errors import (
    CoordinatorUnavailable,
    InvalidInput,
    RequestRefused,
    SeamfillError,
    SeamlessSLAExceeded,
)
from seamfill.fetching import Fetching, serves_without_coordinator
from seamfill.logs import log_event
from seamfill.presets import Preset, Presets, load_presets, load_venues
from seamfill.protocol.backfills import BackfillRequest, BackfillView, CoverageAnswer, Wanted
from seamfill.protocol.values import DatasetSpec, SeriesId
from seamfill.read_plan import Strategy
from seamfill.read_request import ReadRequest
from seamfill.result import FetchResult
from seamfill.sla import Phase, SLAPolicy, sla_policy
from seamfill.times import TimeInput, ceil_to_grid, floor_to_grid, format_ms, to_ms
from seamfill.waiting import BudgetSpent, run_within

__all__ = ["BackfillStatus", "SeamlessDataProvider"]

BackfillStatus = BackfillView

MAX_LAST_KNOWN: Final = 256
HEALTH_TRIES: Final = 3
HEALTH_BACKOFF_MS: Final = 10_000

_LOG: Final = logging.getLogger("seamless.backfill")


@dataclass(frozen=True, slots=True)
class _Opened:
    """What exists only between ``__aenter__`` and ``__aexit__``."""

    loop: asyncio.AbstractEventLoop
    coordinator: CoordinatorClient
    presets: Presets
    venues: dict[str, Venue]
    stack: AsyncExitStack


class SeamlessDataProvider:
    """Serve bars whose completeness is agreed by the coordinators, filling holes on the way.

    ``config`` defaults to the environment. ``coordinator`` and ``storage`` replace what the
    configuration would open and stay the caller's to close. ``sla`` replaces the preset's policy.
    """

    def __init__(
        self,
        config: SeamlessConfig | None = None,
        *,
        coordinator: CoordinatorClient | None = None,
        storage: StoreReader | None = None,
        sla: SLAPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = config or SeamlessConfig.from_env()
        self._given_coordinator = coordinator
        self._given_storage = storage
        self._sla = sla
        self._clock = clock or SystemClock()
        self._open: _Opened | None = None
        self._stores: dict[str, StoreReader] = {}
        self._last_known: OrderedDict[SeriesId, CoverageAnswer] = OrderedDict()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a SeamlessDataProvider holds connections and belongs to one event loop; pass its"
            " SeamlessConfig to the other process and open a provider there"
        )

    async def __aenter__(self) -> Self:
        """Read presets, connect, check the coordinator's health.

        Raises ``InvalidInput`` (configuration, presets) and ``CoordinatorUnavailable``.
        """
        presets = load_presets(self._config.presets_file)
        venues = dict(load_venues(self._config.venues_file))
        async with AsyncExitStack() as stack:
            coordinator = self._given_coordinator
            if coordinator is None:
                coordinator = await stack.enter_async_context(self._build_client())
                await self._check_health(coordinator)
            self._open = _Opened(
                asyncio.get_running_loop(), coordinator, presets, venues, stack.pop_all()
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        opened, self._open = self._open, None
        for store in self._stores.values():
            await store.aclose()
        self._stores.clear()
        if opened is not None:
            await opened.stack.aclose()

    # --- reading --------------------------------------------------------------------------------

    async def fetch(
        self,
        series: SeriesId,
        start: TimeInput,
        end: TimeInput,
        *,
        strategy: Strategy | None = None,
        deadline: timedelta | int | None = None,
        as_of: TimeInput | None = None,
    ) -> FetchResult:
        """Return the bars of ``[start, end)``, filling what is missing as the strategy says.

        ``start`` is floored and ``end`` ceiled to the grid; bars that have not closed are left out.
        ``deadline`` (a timedelta, or ms) replaces the policy's total and backfill budgets.
        ``as_of`` is a coverage rev (int) or a time, and fixes values, not extent.

        Raises ``InvalidInput``, ``SeamlessSLAExceeded`` (a budget ran out), ``CoverageIncomplete``
        and ``BackfillViolated`` (bars without a proved reason), ``Restated``, ``StoreError``,
        ``RequestRefused`` and, under FAIL_FAST and AUTO_BACKFILL, ``CoordinatorUnavailable``.
        """
        opened = self._opened()
        begun_ms = self._clock.monotonic_ms()
        request = self._read_request(
            opened, series, start, end, strategy=strategy, deadline=deadline, as_of=as_of
        )
        answer = await self._consult(opened.coordinator, request, begun_ms)
        newest = answer or self._last_known.get(series)
        if newest is not None and newest.spec is not None:
            request = replace(request, spec=self._registered(request.spec, newest.spec))
        fetching = Fetching(
            request,
            coordinator=opened.coordinator,
            store=self._store_of(request, newest),
            clock=self._clock,
            begun_ms=begun_ms,
            newest=newest,
        )
        try:
            return await fetching.run(answer)
        finally:
            if request.as_of is None and fetching.newest is not None:
                self._remember(fetching.newest)

    async def coverage(
        self, series: SeriesId, start: TimeInput, end: TimeInput, *, as_of: TimeInput | None = None
    ) -> CoverageAnswer:
        """Return what the coordinators know of ``[start, end)``: verified, absent, in flight."""
        opened = self._opened()
        preset = opened.presets.preset(series.dataset)
        start_ms, end_ms = _range(start, end, preset.interval_ms)
        return await opened.coordinator.coverage(series, start_ms, end_ms, as_of=_as_of(as_of))

    async def ensure(
        self,
        series: SeriesId,
        start: TimeInput,
        end: TimeInput,
        *,
        timeout: timedelta | int | None = None,  # noqa: ASYNC109 (bounds the wait by our clock)
    ) -> BackfillStatus:
        """Have the range filled, outside of any SLA, and return the finished backfill.

        Joins work that is already under way. ``timeout`` (a timedelta, or ms) bounds the wait, not
        the backfill; without one it waits as long as it takes. Raises ``SeamlessSLAExceeded``.
        """
        opened = self._opened()
        preset = opened.presets.preset(series.dataset)
        preset.check_symbol(series.symbol)
        start_ms, end_ms = _range(start, end, preset.interval_ms)
        known = await opened.coordinator.coverage(series, start_ms, end_ms, in_flight=False)
        spec = self._spec(opened, preset)
        if known.spec is not None:
            spec = self._registered(spec, known.spec)
        plan = await opened.coordinator.submit(
            BackfillRequest(
                dataset=series.dataset,
                spec=spec,
                wanted=(Wanted(symbol=series.symbol, start_ms=start_ms, end_ms=end_ms),),
                window_bars=preset.backfill.window_bars,
            )
        )
        watching = _watch_to_end(opened.coordinator, plan.id)
        if timeout is None:
            return await watching
        budget_ms = _milliseconds(timeout, "timeout")
        try:
            return await run_within(self._clock, budget_ms, watching)
        except BudgetSpent:
            raise SeamlessSLAExceeded(
                f"backfill {plan.id} of {series.dataset} {series.symbol} did not end within"
                f" {budget_ms} ms and goes on; see: coordinator backfill watch {plan.id}",
                phase=Phase.BACKFILL_WAIT.value,
                node_id=f"{series.dataset}:{series.symbol}",
                elapsed_ms=budget_ms,
                budget_ms=budget_ms,
                backfill_id=plan.id,
            ) from None

    # --- preparing a read -----------------------------------------------------------------------

    def _read_request(
        self,
        opened: _Opened,
        series: SeriesId,
        start: TimeInput,
        end: TimeInput,
        *,
        strategy: Strategy | None,
        deadline: timedelta | int | None,
        as_of: TimeInput | None,
    ) -> ReadRequest:
        preset = opened.presets.preset(series.dataset)
        preset.check_symbol(series.symbol)
        start_ms, end_ms = _range(start, end, preset.interval_ms)
        policy = self._sla or sla_policy(preset.sla_preset)
        if deadline is not None:
            policy = policy.with_deadline(_milliseconds(deadline, "deadline"))
        return ReadRequest(
            series=series,
            spec=self._spec(opened, preset),
            start_ms=start_ms,
            end_ms=end_ms,
            strategy=Strategy(strategy or Strategy.SEAMLESS),
            policy=policy,
            as_of=_as_of(as_of),
            mode=preset.backfill.mode,
            window_bars=preset.backfill.window_bars,
        )

    async def _consult(
        self, coordinator: CoordinatorClient, request: ReadRequest, begun_ms: int
    ) -> CoverageAnswer | None:
        """Ask for the coverage; None when it can not be had and the strategy serves without it."""
        spent_ms = self._clock.monotonic_ms() - begun_ms
        left_ms = max(1, request.policy.total_deadline_ms - spent_ms)
        serves = serves_without_coordinator(request.strategy)
        # Half of what is left stays for the storage that is served instead.
        budget_ms = min(request.policy.max_wait_storage_ms, left_ms // 2) if serves else left_ms
        asking = whole_coverage(coordinator, request)
        try:
            return await run_within(self._clock, max(1, budget_ms), asking)
        except CoordinatorUnavailable as exc:
            if not serves:
                raise
            log_event(
                _LOG,
                "coordinator.unreachable",
                level=logging.WARNING,
                node_id=request.node_id,
                reason=exc.message,
            )
            return None
        except BudgetSpent:
            if serves:
                return None
            raise request.exceeded(
                Phase.TOTAL,
                budget_ms=request.policy.total_deadline_ms,
                elapsed_ms=self._clock.monotonic_ms() - begun_ms,
                backfill_id=None,
                view=None,
            ) from None

    def _spec(self, opened: _Opened, preset: Preset) -> DatasetSpec:
        store = self._config.store
        if store is None and self._given_storage is not None:
            store = getattr(self._given_storage, "name", None)
        return preset.dataset_spec(opened.venues, store=store)

    def _registered(self, ours: DatasetSpec, registered: DatasetSpec) -> DatasetSpec:
        """Return the dataset's registered identity, or refuse a preset that contradicts it.

        The store is the registered one unless the caller insists on another, which is refused: a
        dataset keeps the store of its first backfill.
        """
        for name in ("kind", "interval_ms", "source", "dense", "store"):
            if name == "store" and self._config.store is None:
                continue
            mine, theirs = getattr(ours, name), getattr(registered, name)
            if mine != theirs:
                raise InvalidInput(
                    name, f"{mine!r} contradicts {theirs!r}, with which the dataset is registered"
                )
        return registered

    def _store_of(self, request: ReadRequest, newest: CoverageAnswer | None) -> StoreReader:
        try:
            return self._store(request.spec)
        except InvalidInput as exc:
            if newest is not None:
                raise
            # Where the dataset is really kept only the coordinators know; the preset's storage was
            # a guess, and must not be what the caller is told to repair.
            raise CoordinatorUnavailable(
                f"{request.subject}: no coordinator told where the dataset is kept, and the"
                f" preset's storage can not be opened instead ({exc.message});"
                " see `coordinator status`"
            ) from exc

    def _store(self, spec: DatasetSpec) -> StoreReader:
        if self._given_storage is not None:
            return self._given_storage
        if spec.store not in self._stores:
            # Imported here: psycopg and pyarrow are only paid for by those who read from them.
            from seamfill.sources.registry import open_reader

            self._stores[spec.store] = open_reader(spec.store, os.environ)
        return self._stores[spec.store]

    def _remember(self, answer: CoverageAnswer) -> None:
        self._last_known[answer.series] = answer
        self._last_known.move_to_end(answer.series)
        while len(self._last_known) > MAX_LAST_KNOWN:
            self._last_known.popitem(last=False)

    # --- starting -------------------------------------------------------------------------------

    def _opened(self) -> _Opened:
        if self._open is None:
            raise SeamfillError("the provider is not open; use `async with SeamlessDataProvider()`")
        if self._open.loop is not asyncio.get_running_loop():
            raise SeamfillError(
                "the provider belongs to another event loop; open one on this loop instead"
            )
        return self._open

    def _build_client(self) -> CoordinatorClient:
        config = self._config
        if not config.coordinator_urls:
            raise InvalidInput(
                "SEAMFILL_COORDINATOR_URL",
                "no coordinator is configured; set it (or QMTL_SEAMLESS_COORDINATOR_URL) to"
                " http://host:port, several separated by commas",
            )
        return CoordinatorClient(
            config.coordinator_urls,
            token=config.token,
            ca_file=config.ca_file,
            timeout_s=config.request_timeout_s,
            clock=self._clock,
        )

    async def _check_health(self, coordinator: CoordinatorClient) -> None:
        """Start only with a coordinator that answers; production is more patient than a desk."""
        tries = HEALTH_TRIES if self._config.profile is Profile.PROD else 1
        for last in range(1, tries + 1):
            try:
                await coordinator.cluster()
                return
            except (CoordinatorUnavailable, RequestRefused):
                if last == tries:
                    raise
                await self._clock.sleep_ms(HEALTH_BACKOFF_MS)


def _range(start: TimeInput, end: TimeInput, interval_ms: int) -> tuple[int, int]:
    """Return the half-open range on the grid that contains what was asked for."""
    start_ms = floor_to_grid(to_ms(start, "start"), interval_ms)
    end_ms = ceil_to_grid(to_ms(end, "end", round_up=True), interval_ms)
    if end_ms <= start_ms:
        raise InvalidInput("end", f"{format_ms(end_ms)} is not after start {format_ms(start_ms)}")
    return start_ms, end_ms


def _as_of(value: TimeInput | None) -> int | str | None:
    """Return a rev as it is, and a time in the one spelling that the API takes."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    return format_ms(to_ms(value, "as_of"))


def _milliseconds(value: timedelta | int, field: str) -> int:
    ms = value // timedelta(milliseconds=1) if isinstance(value, timedelta) else value
    if isinstance(ms, bool) or not isinstance(ms, int) or ms <= 0:
        raise InvalidInput(field, f"{value!r} must be a positive timedelta or number of ms")
    return ms


async def _watch_to_end(coordinator: CoordinatorClient, backfill_id: str) -> BackfillView:
    async for view in coordinator.watch(backfill_id):
        if view.state in FINAL_STATES:
            return view
    raise CoordinatorUnavailable(f"the watch of backfill {backfill_id} ended early")
