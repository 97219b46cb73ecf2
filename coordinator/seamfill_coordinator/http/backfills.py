"""``/v1/backfills``: submit, look, pause, resume, cancel, retry.

Owns the translation of these calls. Pure. Watching one is in ``watch``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta

from seamfill.errors import InvalidInput
from seamfill.protocol.backfills import (
    BackfillAnswer,
    BackfillPlan,
    BackfillRequest,
    RetryRequest,
)
from seamfill.protocol.values import Body
from seamfill_coordinator.calls import Answer, Incoming, Mutation, Read
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import (
    CancelBackfill,
    Operation,
    PauseBackfill,
    ResumeBackfill,
    Submit,
)
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Accepted, Done, RejectReason, Reply
from seamfill_coordinator.machine.resubmitting import resubmission
from seamfill_coordinator.problems import Refused, problem, unexpected

__all__ = [
    "CANCEL",
    "GET_BACKFILL",
    "LIST_BACKFILLS",
    "PAUSE",
    "RESUME",
    "RETRY",
    "SUBMIT",
    "BackfillsQuery",
    "found_backfill",
]

Limit = Annotated[int, Meta(ge=1, le=10_000)]


class BackfillsQuery(Body, frozen=True):
    active: bool = False
    """Only those that are not finished."""
    limit: Limit = 1_000


def closed_before_ms(interval_ms: int, wall_ms: int) -> int:
    """Return the end of the last bar that has closed: what lies beyond is not history yet."""
    return wall_ms - wall_ms % interval_ms


def _submit_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[Operation, ...]:
    body = incoming.body_as(BackfillRequest)
    for index, wanted in enumerate(body.wanted):
        if wanted.end_ms <= wanted.start_ms:
            raise InvalidInput(f"wanted[{index}].end_ms", "must be after start_ms")
    return (_submit(body, incoming.arrived_wall_ms),)


def _submit(body: BackfillRequest, wall_ms: int) -> Submit:
    return Submit(
        backfill_id=body.id or "",
        dataset=body.dataset,
        spec=body.spec,
        wanted=body.wanted,
        closed_before_ms=closed_before_ms(body.spec.interval_ms, wall_ms),
        window_bars=body.window_bars,
        priority=body.priority,
        deadline_ms=body.deadline_ms,
        redo=body.redo,
        dry_run=body.dry_run,
    )


def _submit_answer(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
    match reply.outcomes[0]:
        case Accepted() as accepted:
            return Answer(status=200, body=_plan(accepted))
        case other:
            return unexpected(other)


def _plan(accepted: Accepted) -> BackfillPlan:
    return BackfillPlan(
        id=accepted.backfill_id,
        start_ms=accepted.start_ms,
        end_ms=accepted.end_ms,
        requested_start_ms=accepted.requested_start_ms,
        requested_end_ms=accepted.requested_end_ms,
        windows=accepted.windows,
        bars=accepted.bars,
        already_covered=accepted.already_covered,
        already_gap=accepted.already_gap,
        already_violated=accepted.already_violated,
        repeated=accepted.repeated,
        dry_run=accepted.dry_run,
    )


def _retry_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[Operation, ...]:
    backfill_id = incoming.path["id"]
    redo = incoming.body_as(RetryRequest).redo
    body = resubmission(machine, backfill_id, redo)
    if body is None:
        raise Refused(problem(RejectReason.NOT_FOUND, f"no backfill {backfill_id!r} is known"))
    return (_submit(body, incoming.arrived_wall_ms),)


def _by_id(operation: Callable[[str], Operation]) -> Mutation:
    def operations(incoming: Incoming, machine: LeaseMachine) -> tuple[Operation, ...]:
        return (operation(incoming.path["id"]),)

    return Mutation(operations=operations, answer=_changed)


def _changed(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
    match reply.outcomes[0]:
        case Done():
            return found_backfill(incoming, machine)
        case other:
            return unexpected(other)


def found_backfill(incoming: Incoming, machine: LeaseMachine) -> Answer:
    """Return the backfill that the path names. Raises ``Refused`` when there is none."""
    backfill_id = incoming.path["id"]
    view = views.backfill(machine, backfill_id)
    if view is None:
        raise Refused(problem(RejectReason.NOT_FOUND, f"no backfill {backfill_id!r} is known"))
    return Answer(status=200, body=BackfillAnswer(backfill=view))


def _list_view(incoming: Incoming, machine: LeaseMachine) -> Answer:
    query = incoming.query_as(BackfillsQuery)
    body = views.backfills(machine, active_only=query.active, limit=query.limit)
    return Answer(status=200, body=body)


SUBMIT: Final = Mutation(operations=_submit_operations, answer=_submit_answer)
RETRY: Final = Mutation(operations=_retry_operations, answer=_submit_answer, reads_state=True)
PAUSE: Final = _by_id(lambda backfill_id: PauseBackfill(backfill_id=backfill_id))
RESUME: Final = _by_id(lambda backfill_id: ResumeBackfill(backfill_id=backfill_id))
CANCEL: Final = _by_id(lambda backfill_id: CancelBackfill(backfill_id=backfill_id))
GET_BACKFILL: Final = Read(view=found_backfill)
LIST_BACKFILLS: Final = Read(view=_list_view)
