"""``/v1/leases/*`` for native leases: bodies to operations, outcomes to results.

Owns the translation of acquire, renew, complete, fail, release, snooze and revoke. Pure. Must not
know aiohttp or who leads.

Invariants: one operation per item, in order, and one result per operation; a request's ``usage``
rides on the first operation only, or a source's counters would be applied several times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from seamfill.protocol import leases as wire
from seamfill.protocol.values import SeriesId
from seamfill_coordinator.calls import Answer, Incoming, Mutation, Undo, Wake
from seamfill_coordinator.machine import commands, views
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import (
    Already,
    Completed,
    Grant,
    Granted,
    Nothing,
    Outcome,
    Rejected,
    RejectReason,
    Released,
    Renewed,
    Reply,
    Requeued,
    Violated,
)
from seamfill_coordinator.machine.work_hint import may_grant
from seamfill_coordinator.problems import unexpected

__all__ = ["ACQUIRE", "COMPLETE", "FAIL", "RELEASE", "RENEW", "REVOKE", "SNOOZE", "renew_after_ms"]

_LEAST_WAIT_MS: Final = 20
_LOOK_AGAIN_MS: Final = 1_000


def renew_after_ms(ttl_ms: int) -> int:
    """Return when a holder should renew: at a third, so that two renewals may be lost."""
    return ttl_ms // 3


# ── Acquire ──────────────────────────────────────────────────────────────────────────────────────


def _acquire_operations(
    incoming: Incoming, machine: LeaseMachine
) -> tuple[commands.Operation, ...]:
    body = incoming.body_as(wire.AcquireRequest)
    return (
        commands.Acquire(
            worker=body.worker,
            offers=body.offers,
            stores=body.stores,
            max_windows=body.max_windows,
            ttl_ms=body.ttl_ms,
        ),
    )


def _acquire_answer(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
    match reply.outcomes[0]:
        case Granted(grants=grants):
            leases = tuple(_granted_lease(grant) for grant in grants)
            return Answer(status=200, body=wire.AcquireAnswer(leases=leases))
        case Nothing(retry_after_ms=wait_ms, why=why):
            body = wire.AcquireAnswer(leases=(), retry_after_ms=wait_ms, why=why)
            return Answer(status=200, body=body)
        case other:
            return unexpected(other)


def _granted_lease(grant: Grant) -> wire.GrantedLease:
    return wire.GrantedLease(
        series=SeriesId(dataset=grant.dataset, symbol=grant.symbol),
        start_ms=grant.start_ms,
        end_ms=grant.end_ms,
        gen=grant.gen,
        fence=grant.fence,
        ttl_ms=grant.ttl_ms,
        renew_after_ms=renew_after_ms(grant.ttl_ms),
        spec=grant.spec,
        cursor_ms=grant.cursor_ms,
        attempts=grant.attempts,
        budget_weight=grant.budget_weight,
        listed_from_ms=grant.listed_from_ms,
        delisted_at_ms=grant.delisted_at_ms,
    )


def _acquire_hold(incoming: Incoming, answer: Answer, waited_ms: int) -> int | None:
    left_ms = incoming.body_as(wire.AcquireRequest).wait_ms - waited_ms
    if left_ms <= 0 or answer.status != 200:
        return None
    granted = answer.peek(wire.AcquireAnswer)
    if granted is None or granted.leases:
        return None
    due_ms = left_ms if granted.retry_after_ms is None else granted.retry_after_ms
    return min(max(due_ms, _LEAST_WAIT_MS), left_ms)


def _acquire_ripe(incoming: Incoming, machine: LeaseMachine, waited_ms: int) -> int | None:
    body = incoming.body_as(wire.AcquireRequest)
    left_ms = body.wait_ms - waited_ms
    due_ms = views.next_due_ms(machine)
    if left_ms <= 0 or due_ms == 0 or may_grant(machine, body.offers, body.stores):
        return None
    # Looking again is cheap, and not everything that helps is an event (a breaker that closes).
    return max(_LEAST_WAIT_MS, min(left_ms, _LOOK_AGAIN_MS if due_ms is None else due_ms))


def _acquire_undo(incoming: Incoming, answer: Answer) -> Undo | None:
    granted = answer.peek(wire.AcquireAnswer) if answer.status == 200 else None
    if granted is None or not granted.leases:
        return None
    # Nobody was told of the fence, so nobody can be writing under it: no lock-delay is needed.
    items = tuple(
        wire.ReleaseItem(lease=lease.ref, no_write_in_flight=True) for lease in granted.leases
    )
    body = wire.ReleaseRequest(worker=incoming.body_as(wire.AcquireRequest).worker, leases=items)
    return Undo(mutation=RELEASE, target="/v1/leases/release", body=body)


# ── Lists of items ───────────────────────────────────────────────────────────────────────────────


def _renew_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[commands.Operation, ...]:
    body = incoming.body_as(wire.RenewRequest)
    return tuple(
        commands.Renew(
            lease=item.lease,
            ttl_ms=body.ttl_ms,
            cursor_ms=item.cursor_ms,
            usage=() if index else body.usage,
        )
        for index, item in enumerate(body.leases)
    )


def _complete_operations(
    incoming: Incoming, machine: LeaseMachine
) -> tuple[commands.Operation, ...]:
    body = incoming.body_as(wire.CompleteRequest)
    return tuple(
        commands.Complete(
            lease=item.lease,
            covered=item.covered,
            gaps=item.gaps,
            final=item.final,
            listed_from=item.listed_from,
            delisted_at=item.delisted_at,
            usage=() if index else body.usage,
        )
        for index, item in enumerate(body.leases)
    )


def _fail_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[commands.Operation, ...]:
    body = incoming.body_as(wire.FailRequest)
    return tuple(
        commands.Fail(
            lease=item.lease,
            code=item.code,
            retryable=item.retryable,
            delay_ms=item.delay_ms,
            detail=item.detail,
            usage=() if index else body.usage,
        )
        for index, item in enumerate(body.leases)
    )


def _release_operations(
    incoming: Incoming, machine: LeaseMachine
) -> tuple[commands.Operation, ...]:
    body = incoming.body_as(wire.ReleaseRequest)
    return tuple(
        commands.Release(lease=item.lease, no_write_in_flight=item.no_write_in_flight)
        for item in body.leases
    )


def _snooze_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[commands.Operation, ...]:
    body = incoming.body_as(wire.SnoozeRequest)
    return tuple(
        commands.Snooze(
            lease=item.lease,
            delay_ms=item.delay_ms,
            why=item.why,
            usage=() if index else body.usage,
        )
        for index, item in enumerate(body.leases)
    )


def _revoke_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[commands.Operation, ...]:
    body = incoming.body_as(wire.RevokeRequest)
    return tuple(commands.Revoke(lease=lease, reason=body.reason) for lease in body.leases)


def _results(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
    whole = next((no for no in reply.outcomes if _concerns_the_request(no)), None)
    if whole is not None:
        return unexpected(whole)
    results = tuple(_result(outcome, incoming) for outcome in reply.outcomes)
    return Answer(status=200, body=wire.ResultsAnswer(results=results))


def _concerns_the_request(outcome: Outcome) -> bool:
    return isinstance(outcome, Rejected) and outcome.reason in (
        RejectReason.SESSION_UNKNOWN,
        RejectReason.UNKNOWN_COMMAND,
    )


def _result(outcome: Outcome, incoming: Incoming) -> wire.ItemResult:
    match outcome:
        case Renewed(ttl_ms=ttl_ms, directive=directive):
            return wire.ItemResult(
                status="renewed",
                ttl_ms=ttl_ms,
                renew_after_ms=renew_after_ms(ttl_ms),
                directive=directive,
            )
        case Completed():
            return wire.ItemResult(status="completed")
        case Already():
            return wire.ItemResult(status="already", covered=True)
        case Requeued(delay_ms=delay_ms):
            return wire.ItemResult(status="requeued", retry_after_ms=delay_ms)
        case Violated(reason=reason):
            return wire.ItemResult(status="violated", reason=reason)
        case Released(delay_ms=delay_ms):
            revoked = isinstance(incoming.body, wire.RevokeRequest)
            return wire.ItemResult(
                status="revoked" if revoked else "released", retry_after_ms=delay_ms
            )
        case Rejected():
            return wire.ItemResult(
                status="refused",
                reason=outcome.reason,
                field=outcome.field,
                detail=outcome.detail or None,
                covered=outcome.covered,
                retry_after_ms=outcome.retry_after_ms,
            )
        case _:
            raise AssertionError(f"{type(outcome).__name__} is no outcome of a lease's item")


def _items(
    operations: Callable[[Incoming, LeaseMachine], tuple[commands.Operation, ...]],
) -> Mutation:
    return Mutation(operations=operations, answer=_results)


RENEW: Final = _items(_renew_operations)
COMPLETE: Final = _items(_complete_operations)
FAIL: Final = _items(_fail_operations)
RELEASE: Final = _items(_release_operations)
SNOOZE: Final = _items(_snooze_operations)
REVOKE: Final = _items(_revoke_operations)
ACQUIRE: Final = Mutation(
    operations=_acquire_operations,
    answer=_acquire_answer,
    hold=_acquire_hold,
    ripe=_acquire_ripe,
    wake=Wake.WORK,
    undo=_acquire_undo,
)
