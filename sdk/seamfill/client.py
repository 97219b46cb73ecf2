"""Everything that can be asked of a coordinator cluster, as typed calls.

Owns the paths, parameters and bodies of ``/v1``. Must not know how a node is chosen or when a
request is repeated: ``coordinator_link`` does. Constructing a client does no I/O; use it with
``async with`` on one event loop.

Every call raises one of three kinds of "no" (``seamfill.errors``): ``CoordinatorUnavailable`` (not
done, safe to repeat), ``RequestRefused`` (a definite no), ``OutcomeUnknown`` (may have been done).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote

import msgspec

from seamfill.clock import Clock, SystemClock
from seamfill.coordinator_link import CoordinatorLink, Reply, Retry
from seamfill.errors import CoordinatorUnavailable, OutcomeUnknown
from seamfill.protocol.backfills import (
    BackfillAnswer,
    BackfillPlan,
    BackfillRequest,
    BackfillsAnswer,
    BackfillView,
    CoverageAnswer,
    RetryRequest,
    ViolationsAnswer,
)
from seamfill.protocol.cluster import (
    ClusterAnswer,
    HealthAnswer,
    ReadyAnswer,
    SnapshotAnswer,
    SourcesAnswer,
    WorkersAnswer,
)
from seamfill.protocol.compat import FailClaimRequest, FinishAnswer, InspectAnswer
from seamfill.protocol.leases import (
    AcquireAnswer,
    AcquireRequest,
    CompleteRequest,
    FailRequest,
    LeaseExplanation,
    LeasesAnswer,
    ReleaseRequest,
    RenewRequest,
    ResultsAnswer,
    RevokeRequest,
    SnoozeRequest,
)
from seamfill.protocol.values import Redo, SeriesId

__all__ = ["FINAL_STATES", "CoordinatorClient"]

FINAL_STATES: Final = frozenset({"complete", "incomplete", "cancelled"})
SNAPSHOT_WAIT_MS: Final = 60_000
WATCH_IDLE_MS: Final = 15_000
WATCH_FIRST_PAUSE_MS: Final = 100
WATCH_MAX_PAUSE_MS: Final = 2_000

T = TypeVar("T")


class CoordinatorClient:
    """Talk to a cluster of coordinators by any of their URLs.

    ``urls``: one or several base URLs, or one string with commas. ``timeout_s`` bounds a call over
    all its attempts; long polls and watches add what they were asked to wait. Mutations carry an
    idempotency key of a session that is opened by the first of them, so their retries are exact.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        ca_file: Path | None = None,
        timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._timeout_ms = int(timeout_s * 1000)
        self._link = CoordinatorLink(
            urls, token=token, ca_file=ca_file, timeout_ms=self._timeout_ms, clock=self._clock
        )

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._link.__aexit__(kind, error, trace)

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the configured URLs."""
        return self._link.urls

    @property
    def rev(self) -> int:
        """Return the highest rev seen so far; every later read is at least as new."""
        return self._link.rev

    # --- leases ---------------------------------------------------------------------------------

    async def acquire(self, request: AcquireRequest) -> AcquireAnswer:
        """Ask for windows to fill; waits at the coordinator up to ``request.wait_ms``."""
        return await self._post(
            "/v1/leases/acquire", request, AcquireAnswer, extra_wait_ms=request.wait_ms
        )

    async def renew(self, request: RenewRequest) -> ResultsAnswer:
        """Extend leases; results stand in the order of the items."""
        return await self._post("/v1/leases/renew", request, ResultsAnswer)

    async def complete(self, request: CompleteRequest) -> ResultsAnswer:
        """Report what was written and read back."""
        return await self._post("/v1/leases/complete", request, ResultsAnswer)

    async def fail(self, request: FailRequest) -> ResultsAnswer:
        """Give leases up with a reason."""
        return await self._post("/v1/leases/fail", request, ResultsAnswer)

    async def release(self, request: ReleaseRequest) -> ResultsAnswer:
        """Give leases back without using an attempt."""
        return await self._post("/v1/leases/release", request, ResultsAnswer)

    async def snooze(self, request: SnoozeRequest) -> ResultsAnswer:
        """Give leases back until later."""
        return await self._post("/v1/leases/snooze", request, ResultsAnswer)

    async def revoke(self, request: RevokeRequest) -> ResultsAnswer:
        """End leases now, as an operator; a later complete of them is refused."""
        return await self._post("/v1/leases/revoke", request, ResultsAnswer)

    async def fail_claim(self, request: FailClaimRequest) -> FinishAnswer:
        """Give up a compatibility claim by its key and token."""
        return await self._post("/v1/leases/fail", request, FinishAnswer)

    async def leases(
        self,
        *,
        dataset: str | None = None,
        symbol: str | None = None,
        worker: str | None = None,
        limit: int = 1000,
    ) -> LeasesAnswer:
        """List live leases and those in their lock-delay."""
        params = _params(dataset=dataset, symbol=symbol, worker=worker, limit=limit)
        return await self._get("/v1/leases", LeasesAnswer, params)

    async def inspect(self, key: str) -> InspectAnswer:
        """Tell what is known of a lease key, native or compatibility."""
        return await self._get("/v1/leases/inspect", InspectAnswer, {"key": key})

    async def explain(self, series: SeriesId, ts_ms: int) -> LeaseExplanation:
        """Tell in a sentence who works on a bar, or why nobody does."""
        params = _params(dataset=series.dataset, symbol=series.symbol, ts=ts_ms)
        return await self._get("/v1/leases/explain", LeaseExplanation, params)

    # --- backfills ------------------------------------------------------------------------------

    async def submit(self, request: BackfillRequest) -> BackfillPlan:
        """Ask for ranges to be filled (or only planned, with ``dry_run``)."""
        return await self._post("/v1/backfills", request, BackfillPlan)

    async def backfill(self, backfill_id: str) -> BackfillView:
        """Return one backfill's progress."""
        answer = await self._get(f"/v1/backfills/{_segment(backfill_id)}", BackfillAnswer)
        return answer.backfill

    async def backfills(self, *, active_only: bool = False, limit: int = 1000) -> BackfillsAnswer:
        """List backfills, newest last."""
        params = _params(limit=limit) | ({"active": "true"} if active_only else {})
        return await self._get("/v1/backfills", BackfillsAnswer, params)

    async def watch(self, backfill_id: str) -> AsyncIterator[BackfillView]:
        """Yield a backfill's progress whenever it changes, the last one in a final state.

        Comes back by itself when a node goes away, without yielding an older state. Raises
        ``CoordinatorUnavailable`` when no node could be reached for the client's timeout, and
        ``RequestRefused`` when the backfill does not exist. Cancel to stop watching.
        """
        path = f"/v1/backfills/{_segment(backfill_id)}/watch"
        last: BackfillView | None = None
        pause_ms = WATCH_FIRST_PAUSE_MS
        silent_since_ms = self._clock.monotonic_ms()
        while True:
            try:
                async for data in self._link.events(path, idle_ms=WATCH_IDLE_MS):
                    view = msgspec.json.decode(data, type=BackfillView)
                    silent_since_ms, pause_ms = self._clock.monotonic_ms(), WATCH_FIRST_PAUSE_MS
                    # Another node may lag behind the one before; progress never runs backwards.
                    if last is None or (view != last and not _is_older(view, last)):
                        last = view
                        yield view
                    if view.state in FINAL_STATES:
                        return
            except CoordinatorUnavailable:
                if self._clock.monotonic_ms() - silent_since_ms >= self._timeout_ms:
                    raise
            await self._clock.sleep_ms(pause_ms)
            pause_ms = min(2 * pause_ms, WATCH_MAX_PAUSE_MS)

    async def cancel(self, backfill_id: str) -> BackfillView:
        """Stop wanting what this backfill wants; what others want as well goes on."""
        return await self._change(backfill_id, "cancel")

    async def pause(self, backfill_id: str) -> BackfillView:
        """Grant nothing more for this backfill until it is resumed."""
        return await self._change(backfill_id, "pause")

    async def resume(self, backfill_id: str) -> BackfillView:
        """Go on with a paused backfill."""
        return await self._change(backfill_id, "resume")

    async def retry(self, backfill_id: str, redo: Redo = Redo.FAILED) -> BackfillPlan:
        """Redo what a finished backfill could not fill, as a new backfill."""
        path = f"/v1/backfills/{_segment(backfill_id)}/retry"
        return await self._post(path, RetryRequest(redo=redo), BackfillPlan)

    async def _change(self, backfill_id: str, verb: str) -> BackfillView:
        path = f"/v1/backfills/{_segment(backfill_id)}/{verb}"
        return (await self._post(path, None, BackfillAnswer)).backfill

    # --- coverage -------------------------------------------------------------------------------

    async def coverage(
        self,
        series: SeriesId,
        start_ms: int | None = None,
        end_ms: int | None = None,
        *,
        as_of: int | str | None = None,
        in_flight: bool = True,
    ) -> CoverageAnswer:
        """Tell what is verified, proved absent, violated and in flight in ``[start_ms, end_ms)``.

        ``as_of``: a rev, or a time in ISO 8601 with zone (the newest rev at that time).
        """
        params = _params(
            dataset=series.dataset, symbol=series.symbol, start=start_ms, end=end_ms, as_of=as_of
        )
        params["in_flight"] = "true" if in_flight else "false"
        return await self._get("/v1/coverage", CoverageAnswer, params)

    async def violations(self, *, limit: int = 1000) -> ViolationsAnswer:
        """List bars that could neither be filled nor be proved absent."""
        return await self._get("/v1/violations", ViolationsAnswer, _params(limit=limit))

    # --- workers, sources, cluster --------------------------------------------------------------

    async def workers(self) -> WorkersAnswer:
        """List known workers."""
        return await self._get("/v1/workers", WorkersAnswer)

    async def drain_worker(self, worker_id: str) -> None:
        """Grant this worker nothing more, and tell it to stop at its next renewal."""
        await self._send(f"/v1/workers/{_segment(worker_id)}/drain", None)

    async def sources(self) -> SourcesAnswer:
        """List sources with their budgets and breakers."""
        return await self._get("/v1/sources", SourcesAnswer)

    async def pause_source(self, source: str) -> None:
        """Grant no window of this source until it is resumed."""
        await self._send(f"/v1/sources/{_segment(source)}/pause", None)

    async def resume_source(self, source: str) -> None:
        """Grant windows of this source again."""
        await self._send(f"/v1/sources/{_segment(source)}/resume", None)

    async def cluster(self, url: str | None = None) -> ClusterAnswer:
        """Return a node's own view of the cluster: of ``url``, or of any node that answers."""
        if url is None:
            return await self._get("/v1/cluster", ClusterAnswer)
        return _decode(await self._link.ask_node(url, "/v1/cluster"), ClusterAnswer)

    async def save_snapshot(self) -> SnapshotAnswer:
        """Have the node that answers write a snapshot to its own disk; safe to repeat.

        Name one URL to say which. A large state takes a few seconds.
        """
        reply = await self._link.request(
            "POST",
            "/v1/cluster/snapshot",
            retry=Retry.READ,  # it changes nothing in the cluster
            body=b"{}",
            extra_wait_ms=SNAPSHOT_WAIT_MS,
        )
        return _decode(reply, SnapshotAnswer)

    async def health(self, url: str) -> HealthAnswer:
        """Ask one node whether it is healthy."""
        reply = await self._link.ask_node(url, "/health", accept=frozenset({503}))
        return _decode(reply, HealthAnswer)

    async def ready(self, url: str) -> ReadyAnswer:
        """Ask one node whether it could serve a request now, check by check."""
        reply = await self._link.ask_node(url, "/readyz?verbose", accept=frozenset({503}))
        return _decode(reply, ReadyAnswer)

    # --- plumbing -------------------------------------------------------------------------------

    async def _get(self, path: str, kind: type[T], params: Mapping[str, str] | None = None) -> T:
        reply = await self._link.request("GET", path, retry=Retry.READ, params=params)
        return _decode(reply, kind)

    async def _post(
        self, path: str, body: msgspec.Struct | None, kind: type[T], *, extra_wait_ms: int = 0
    ) -> T:
        reply = await self._send(path, body, extra_wait_ms=extra_wait_ms)
        try:
            return _decode(reply, kind)
        except CoordinatorUnavailable as exc:
            # It was accepted by something: it can not be called "not done".
            raise OutcomeUnknown(exc.message) from exc

    async def _send(
        self, path: str, body: msgspec.Struct | None, *, extra_wait_ms: int = 0
    ) -> Reply:
        data = b"{}" if body is None else msgspec.json.encode(body)
        return await self._link.request(
            "POST", path, retry=Retry.SESSION, body=data, extra_wait_ms=extra_wait_ms
        )


def _decode(reply: Reply, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.DecodeError as exc:
        # Read or not, nothing can be concluded; the usual cause is a URL of something else.
        raise CoordinatorUnavailable(
            f"{reply.url} answered with something that is not a coordinator's answer: {exc}"
        ) from exc


def _is_older(view: BackfillView, than: BackfillView) -> bool:
    """Whether a view can only have been taken before another one of the same backfill."""
    return than.state in FINAL_STATES and view.state not in FINAL_STATES


def _params(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _segment(text: str) -> str:
    return quote(text, safe="")
