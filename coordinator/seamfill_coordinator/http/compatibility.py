"""The three calls of the client that already exists in the field, and ``inspect``.

Owns that client's contract, to the letter (http-api.md, "Compatibility"). Pure. Must not know
aiohttp or how keys are parsed (the machine does).

Invariants: every answer on these addresses, errors included, carries ``completion_ratio``, because
that client books its absence as success; a token has no colon; a 200 on claim always has a lease.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from seamfill.errors import InvalidInput
from seamfill.lease_key import NATIVE_PREFIX, rejoin
from seamfill.protocol.compat import (
    ClaimAnswer,
    ClaimLease,
    ClaimRequest,
    FailClaimRequest,
    FinishAnswer,
    FinishRequest,
)
from seamfill.protocol.problem import ClaimProblem, Problem
from seamfill.protocol.values import Body
from seamfill_coordinator.calls import Answer, Incoming, Mutation, Read, Undo, Wake
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import Claim, CompleteClaim, FailClaim, Operation
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Claimed, ClaimFinished, Reply
from seamfill_coordinator.problems import unexpected

__all__ = [
    "CLAIM",
    "COMPLETE_CLAIM",
    "FAIL_CLAIM",
    "INSPECT",
    "InspectRequest",
    "with_completion_ratio",
]

DEFAULT_LEASE_MS: Final = 120_000
MAX_LEASE_MS: Final = 600_000
HOLD_MS: Final = 1_000
"""A refused claim is held this long at most: that client's poller asks again without a pause."""


class InspectRequest(Body, frozen=True):
    """Ask what is known about a key: a compatibility key, or ``native:…``."""

    key: Annotated[str, Meta(min_length=1, max_length=1000)]


def with_completion_ratio(problem: Problem) -> ClaimProblem:
    """Return the problem as that client must get it: with an explicit null."""
    members = {name: getattr(problem, name) for name in Problem.__struct_fields__}
    return ClaimProblem(completion_ratio=None, **members)


def _claim_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[Operation, ...]:
    body = incoming.body_as(ClaimRequest)
    _refuse_native(body.key)
    lease_ms = body.lease_ms or DEFAULT_LEASE_MS
    # The machine clamps too; here it keeps a huge integer out of the log's 64 bits.
    return (Claim(key=body.key, lease_ms=min(lease_ms, MAX_LEASE_MS), holder=incoming.remote),)


def _claim_answer(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
    match reply.outcomes[0]:
        case Claimed(token=token, ttl_ms=ttl_ms, completion_ratio=ratio):
            lease = ClaimLease(
                token=token, lease_until_ms=incoming.arrived_wall_ms + ttl_ms, ttl_ms=ttl_ms
            )
            return Answer(status=200, body=ClaimAnswer(lease=lease, completion_ratio=ratio))
        case other:
            return unexpected(other)


def _claim_hold(incoming: Incoming, answer: Answer, waited_ms: int) -> int | None:
    refused = answer.peek(Problem) if answer.status == 409 else None
    if refused is None or refused.retry_after_ms is None:
        return None
    # Only when the other lease ends within our patience: otherwise waiting would change nothing.
    # One more millisecond, because a lease has ended only after its deadline.
    wait_ms = refused.retry_after_ms + 1
    return wait_ms if waited_ms + wait_ms <= HOLD_MS else None


def _claim_undo(incoming: Incoming, answer: Answer) -> Undo | None:
    granted = answer.peek(ClaimAnswer) if answer.status == 200 else None
    if granted is None:
        return None
    body = FailClaimRequest(
        key=incoming.body_as(ClaimRequest).key, token=granted.lease.token, reason="abandoned"
    )
    return Undo(mutation=FAIL_CLAIM, target="/v1/leases/fail", body=body)


def _complete_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[Operation, ...]:
    body = incoming.body_as(FinishRequest)
    key, token = _key_and_token(body.key, body.token)
    return (CompleteClaim(key=key, token=token),)


def _fail_operations(incoming: Incoming, machine: LeaseMachine) -> tuple[Operation, ...]:
    body = incoming.body_as(FailClaimRequest)
    key, token = _key_and_token(body.key, body.token)
    return (FailClaim(key=key, token=token, reason=body.reason, abandoned=incoming.is_abandoned),)


def _key_and_token(key: str, token: str) -> tuple[str, str]:
    """Return key and token as meant.

    That client's recovery script splits ``KEY:TOKEN`` at the first colon, so most of the key
    arrives in the token. No token of ours has a colon: join them and split once from the right.
    """
    key, token = rejoin(key, token) or (key, token)
    if not token:
        raise InvalidInput("token", "is empty")
    _refuse_native(key)
    return key, token


def _refuse_native(key: str) -> None:
    if key.startswith(NATIVE_PREFIX):
        raise InvalidInput("key", "native leases are renewed, completed and released as such")


def _finish_answer(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
    failed = isinstance(incoming.body, FailClaimRequest)
    match reply.outcomes[0]:
        case ClaimFinished(completion_ratio=ratio):
            body = FinishAnswer(status="failed" if failed else "completed", completion_ratio=ratio)
            return Answer(status=200, body=body)
        case other:
            return unexpected(other)


def _inspect_view(incoming: Incoming, machine: LeaseMachine) -> Answer:
    by_get = isinstance(incoming.query, InspectRequest)
    asked = incoming.query_as(InspectRequest) if by_get else incoming.body_as(InspectRequest)
    return Answer(
        status=200, body=views.inspect(machine, asked.key, wall_ms=incoming.arrived_wall_ms)
    )


COMPLETE_CLAIM: Final = Mutation(operations=_complete_operations, answer=_finish_answer)
FAIL_CLAIM: Final = Mutation(operations=_fail_operations, answer=_finish_answer)
CLAIM: Final = Mutation(
    operations=_claim_operations,
    answer=_claim_answer,
    hold=_claim_hold,
    wake=Wake.CLAIM,
    undo=_claim_undo,
)
INSPECT: Final = Read(view=_inspect_view)
