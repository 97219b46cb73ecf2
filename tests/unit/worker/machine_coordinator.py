"""The real lease machine behind the worker's six calls, in this process and on a given clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from seamfill.clock import Clock
from seamfill.errors import RequestRefused, SeamfillError
from seamfill.protocol.backfills import BackfillPlan, BackfillRequest, CoverageAnswer, Wanted
from seamfill.protocol.leases import (
    AcquireAnswer,
    AcquireRequest,
    CompleteRequest,
    FailRequest,
    ReleaseRequest,
    RenewRequest,
    ResultsAnswer,
    RevokeRequest,
    SnoozeRequest,
)
from seamfill.protocol.problem import Problem
from seamfill.protocol.values import DatasetSpec, SeriesId
from seamfill_coordinator.calls import Incoming, Mutation
from seamfill_coordinator.http.backfills import SUBMIT
from seamfill_coordinator.http.native_leases import (
    ACQUIRE,
    COMPLETE,
    FAIL,
    RELEASE,
    RENEW,
    REVOKE,
    SNOOZE,
)
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import Command, Operation, Request, Stamp
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Reply

T = TypeVar("T", bound=Struct)
TICK_MS = 250


class MachineCoordinator:
    """``sent`` remembers every request by name. ``fail(name, …)`` lets the next calls fail."""

    def __init__(self, clock: Clock) -> None:
        self.machine = LeaseMachine()
        self.sent: list[tuple[str, Struct]] = []
        self._clock = clock
        self._stamped_ms = clock.monotonic_ms()
        self._faults: list[tuple[str, SeamfillError, bool]] = []
        self.before: Callable[[str], None] = lambda name: None

    def fail(
        self, name: str, error: SeamfillError, *, times: int = 1, applied: bool = False
    ) -> None:
        """Let calls of this name (``*``: any) raise; ``applied``: after they took effect."""
        self._faults += [(name, error, applied)] * times

    def heal(self) -> None:
        self._faults.clear()

    def names(self) -> list[str]:
        return [name for name, _ in self.sent]

    # --- the worker's six -----------------------------------------------------------------------

    async def acquire(self, request: AcquireRequest) -> AcquireAnswer:
        return self._call("acquire", ACQUIRE, request, AcquireAnswer)

    async def renew(self, request: RenewRequest) -> ResultsAnswer:
        return self._call("renew", RENEW, request, ResultsAnswer)

    async def complete(self, request: CompleteRequest) -> ResultsAnswer:
        return self._call("complete", COMPLETE, request, ResultsAnswer)

    async def fail_leases(self, request: FailRequest) -> ResultsAnswer:
        return self._call("fail", FAIL, request, ResultsAnswer)

    async def release(self, request: ReleaseRequest) -> ResultsAnswer:
        return self._call("release", RELEASE, request, ResultsAnswer)

    async def snooze(self, request: SnoozeRequest) -> ResultsAnswer:
        return self._call("snooze", SNOOZE, request, ResultsAnswer)

    # --- the test's own -------------------------------------------------------------------------

    def submit(
        self, dataset: str, spec: DatasetSpec, start_ms: int, end_ms: int, *, window_bars: int,
        symbols: tuple[str, ...],
    ) -> BackfillPlan:  # fmt: skip
        wanted = tuple(Wanted(symbol=name, start_ms=start_ms, end_ms=end_ms) for name in symbols)
        body = BackfillRequest(
            dataset=dataset, spec=spec, wanted=wanted, window_bars=window_bars, id="bf"
        )
        return self._call("submit", SUBMIT, body, BackfillPlan)

    def revoke(self, request: RevokeRequest) -> ResultsAnswer:
        return self._call("revoke", REVOKE, request, ResultsAnswer)

    def apply(self, operation: Operation) -> None:
        self._apply((operation,))

    def coverage(self, series: SeriesId) -> CoverageAnswer:
        return views.coverage(self.machine, series, None, None)

    def _call(self, name: str, mutation: Mutation, request: Struct, kind: type[T]) -> T:
        self.before(name)
        self.sent.append((name, request))
        fault = next((one for one in self._faults if one[0] in (name, "*")), None)
        if fault is not None:
            self._faults.remove(fault)
            if not fault[2]:
                raise fault[1]
        incoming = Incoming(
            method="POST", target=name, body=request, arrived_wall_ms=self._clock.wall_ms()
        )
        reply = self._apply(mutation.operations(incoming, self.machine))
        answer = mutation.answer(incoming, reply, self.machine)
        if fault is not None:
            raise fault[1]
        if isinstance(answer.body, Problem):
            problem = answer.body
            raise RequestRefused(problem.title, status=problem.status, reason=problem.code)
        assert isinstance(answer.body, kind)
        return answer.body

    def _apply(self, operations: tuple[Operation, ...]) -> Reply:
        now_ms = self._clock.monotonic_ms()
        while now_ms - self._stamped_ms > TICK_MS:
            self._stamped_ms += TICK_MS
            self.machine.apply(self._command((), self._stamped_ms))
        self._stamped_ms = now_ms
        applied = self.machine.apply(self._command((Request(operations=operations),), now_ms))
        return applied.replies[0]

    def _command(self, requests: tuple[Request, ...], at_ms: int) -> Command:
        stamp = Stamp(term=1, reign_ms=at_ms, wall_ms=self._clock.wall_ms())
        return Command(version=1, stamp=stamp, requests=requests)


class WorkerSide:
    """The coordinator as ``seamfill_worker.held.Coordinator`` spells it."""

    def __init__(self, inner: MachineCoordinator) -> None:
        self.acquire = inner.acquire
        self.renew = inner.renew
        self.complete = inner.complete
        self.fail = inner.fail_leases
        self.release = inner.release
        self.snooze = inner.snooze
