"""Every error answer: which status a code has, and how a refusal becomes a problem (RFC 9457).

Owns the table of codes. Must not know aiohttp. Codes are stable: clients switch on them; titles and
details are for people.

Invariants: a 503 means that nothing was done and nothing will be (or that it is undone without the
client's help); a 504 means that nobody knows yet, and always says ``in_doubt``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from seamfill.errors import InvalidInput, SeamfillError
from seamfill.protocol.problem import Problem
from seamfill_coordinator.calls import Answer
from seamfill_coordinator.machine.outcomes import Outcome, Rejected, RejectReason

__all__ = ["CODES", "ProblemCode", "Refused", "invalid_input", "problem", "refusal", "unexpected"]


@dataclass(frozen=True, slots=True)
class ProblemCode:
    status: int
    title: str
    retryable: bool = False


CODES: Final[dict[str, ProblemCode]] = {
    # The request itself
    "malformed_json": ProblemCode(400, "The body is not JSON"),
    "invalid_input": ProblemCode(400, "A value is not usable"),
    "no_such_resource": ProblemCode(404, "There is nothing at this address"),
    "method_not_allowed": ProblemCode(405, "This address does not know the method"),
    "request_timeout": ProblemCode(408, "The body did not arrive in time", retryable=True),
    "too_large": ProblemCode(413, "The body is too large"),
    "unsupported_media_type": ProblemCode(415, "The body must be application/json"),
    "misdirected": ProblemCode(421, "This node belongs to another cluster"),
    "bad_request": ProblemCode(400, "The request can not be understood"),
    # What the machine refuses
    RejectReason.UNKNOWN_COMMAND: ProblemCode(400, "The cluster does not know this command"),
    RejectReason.INVALID: ProblemCode(400, "A value is not usable"),
    RejectReason.NOT_FOUND: ProblemCode(404, "There is no such thing"),
    RejectReason.SPEC_CONFLICT: ProblemCode(409, "The dataset is registered differently"),
    RejectReason.BACKFILL_CONFLICT: ProblemCode(409, "The id belongs to another backfill"),
    RejectReason.WORKER_REPLACED: ProblemCode(409, "A newer process has this worker's id"),
    RejectReason.STALE_FENCE: ProblemCode(409, "The lease has ended"),
    RejectReason.EXPIRED: ProblemCode(409, "The lease has expired"),
    RejectReason.RESULT_CONFLICT: ProblemCode(409, "The result contradicts what is known"),
    RejectReason.HELD: ProblemCode(409, "Somebody else holds it", retryable=True),
    RejectReason.WRONG_STATE: ProblemCode(409, "Not possible in its present state"),
    RejectReason.SESSION_UNKNOWN: ProblemCode(409, "The session has ended"),
    RejectReason.LIMIT_EXCEEDED: ProblemCode(429, "A limit is reached", retryable=True),
    "too_many_watchers": ProblemCode(429, "Too many streams are open", retryable=True),
    "recovered": ProblemCode(409, "The cluster was recovered since that state"),
    # The cluster
    "internal_error": ProblemCode(500, "The coordinator has a bug"),
    "no_leader": ProblemCode(503, "The cluster has no leader", retryable=True),
    "not_leader": ProblemCode(503, "This node does not lead", retryable=True),
    "not_committed": ProblemCode(503, "The cluster did not commit in time", retryable=True),
    "overloaded": ProblemCode(503, "Too many requests are waiting", retryable=True),
    "not_ready": ProblemCode(503, "The node is not ready", retryable=True),
    "snapshot_not_saved": ProblemCode(503, "This node wrote no snapshot", retryable=True),
    "outcome_unknown": ProblemCode(504, "It may or may not have happened", retryable=True),
}
_IN_DOUBT: Final = frozenset({"outcome_unknown", RejectReason.SESSION_UNKNOWN})


class Refused(SeamfillError):
    """The call was refused; the problem says why."""

    code = "refused"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title)
        self.problem = problem


def problem(
    code: str,
    detail: str | None = None,
    *,
    field: str | None = None,
    retry_after_ms: int | None = None,
    holder: str | None = None,
    eta_ms: int | None = None,
) -> Problem:
    """Return the problem with this code; status, title and flags come from the table."""
    entry = CODES[code]
    return Problem(
        title=entry.title,
        status=entry.status,
        code=code,
        detail=detail,
        field=field,
        retryable=entry.retryable,
        retry_after_ms=retry_after_ms,
        in_doubt=code in _IN_DOUBT,
        holder=holder,
        eta_ms=eta_ms,
    )


def invalid_input(error: InvalidInput) -> Problem:
    """Return the problem of a wrong value, naming the field."""
    return problem("invalid_input", error.message, field=error.field)


def refusal(rejected: Rejected) -> Answer:
    """Return the answer to a refused operation."""
    body = problem(
        rejected.reason,
        rejected.detail or None,
        field=rejected.field,
        retry_after_ms=rejected.retry_after_ms,
        holder=rejected.holder,
        eta_ms=rejected.retry_after_ms if rejected.reason is RejectReason.HELD else None,
    )
    return Answer(status=body.status, body=body, retry_after_ms=rejected.retry_after_ms)


def unexpected(outcome: Outcome) -> Answer:
    """Return the answer for anything but the outcome a call hoped for.

    Only a refusal is possible here; another outcome is our own bug and ends as a 500.
    """
    assert isinstance(outcome, Rejected), type(outcome).__name__
    return refusal(outcome)
