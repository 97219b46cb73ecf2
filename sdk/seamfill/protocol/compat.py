"""Bodies of the three calls that an existing SDK already makes, to the letter.

Keys carry epoch *seconds* and closed ranges (``seamfill.lease_key``); everything here is that
client's vocabulary, not ours. Answers have no ``protocol`` member of their own use to that client;
it ignores what it does not know.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from seamfill.protocol.values import Answer, Body, Part

__all__ = [
    "ClaimAnswer",
    "ClaimLease",
    "ClaimRefused",
    "ClaimRequest",
    "FailClaimRequest",
    "FinishAnswer",
    "FinishRequest",
    "InspectAnswer",
]

Key = Annotated[str, Meta(min_length=1, max_length=1000)]
Token = Annotated[str, Meta(min_length=1, max_length=100)]


class ClaimRequest(Body, frozen=True):
    """``lease_ms`` 0 means 120 000; other values are clamped to 1–600 s."""

    key: Key
    lease_ms: Annotated[int, Meta(ge=0)] = 120_000


class ClaimLease(Part, frozen=True):
    token: str
    """The fence as a string, without a colon."""
    lease_until_ms: int
    """Wall clock at the request's arrival + remaining ttl; for information."""
    ttl_ms: int


class ClaimAnswer(Answer, frozen=True):
    lease: ClaimLease
    completion_ratio: float | None


class ClaimRefused(Answer, frozen=True):
    """Body members added to the problem of a 409 on claim."""

    completion_ratio: float | None
    holder: str | None = None
    eta_ms: int | None = None


class FinishRequest(Body, frozen=True):
    key: Key
    token: Token


class FailClaimRequest(Body, frozen=True):
    key: Key
    token: Token
    reason: Annotated[str, Meta(max_length=2000)] = ""


class FinishAnswer(Answer, frozen=True):
    """``completion_ratio`` is always explicit: its absence means success to that client."""

    status: Literal["completed", "failed"]
    completion_ratio: float | None


class InspectAnswer(Answer, frozen=True):
    """What is known about a key: a live claim, its holder, how long it lasts, what is done."""

    key: str
    held: bool
    token: str | None = None
    holder: str | None = None
    remaining_ms: int | None = None
    lease_until_ms: int | None = None
    completion_ratio: float | None = None
    overlaps: tuple[str, ...] = ()
