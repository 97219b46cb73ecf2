"""Problem details (RFC 9457) with seamfill's extension members."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["PROBLEM_TYPE", "ClaimProblem", "Problem"]

PROBLEM_TYPE = "application/problem+json"


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error answer. ``code`` is stable; ``detail`` is for people and may change."""

    title: str
    status: int
    code: str
    type: str = "about:blank"
    detail: str | None = None
    instance: str | None = None
    field: str | None = None
    retryable: bool = False
    retry_after_ms: int | None = None
    in_doubt: bool = False
    leader: str | None = None
    term: int | None = None
    rev: int | None = None
    trace_id: str | None = None
    holder: str | None = None
    eta_ms: int | None = None


class ClaimProblem(Problem, frozen=True, kw_only=True):
    """An error on claim, complete or fail: the ratio is null, and never left out.

    The client that speaks these calls books an absent ``completion_ratio`` as success. The member
    has no default, so ``omit_defaults`` can not drop it.
    """

    completion_ratio: float | None
