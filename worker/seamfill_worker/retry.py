"""What to do when a source or a store did not deliver: ask again, hand back, or give up.

Owns the policy from error to lease operation. Must not know how either is carried out. Pure.

The three answers are never merged. ``Again`` stays inside the lease; ``GiveBack`` is a Snooze, uses
no attempt, and is for what no window can help (429, maintenance, a store that is down); ``GiveUp``
is a Fail, uses an attempt, and its code names what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from seamfill.errors import (
    SeamfillError,
    SourceError,
    SourceRateLimited,
    StoreNotVisible,
    StoreUnavailable,
)

__all__ = [
    "DETAIL_CHARS",
    "TRIES",
    "Again",
    "Decision",
    "GiveBack",
    "GiveUp",
    "after_source_error",
    "after_store_error",
]

TRIES: Final = 4
"""How often one page or one flush is tried within one lease."""
DETAIL_CHARS: Final = 500
_FIRST_DELAY_MS: Final = 250
_STORE_DOWN_MS: Final = 5_000
_DELAY_MS_MAX: Final = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Try the same once more after ``delay_ms``, under the same lease."""

    delay_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """Snooze the lease: nobody could do better before ``delay_ms`` have passed."""

    delay_ms: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Fail the lease: an attempt was used, and ``code`` says on what."""

    code: str
    retryable: bool
    detail: str
    delay_ms: int = 0


Decision = Again | GiveBack | GiveUp


def after_source_error(error: SourceError, *, tries: int) -> Decision:
    """Decide after the ``tries``-th failure of one question (1 = the first)."""
    if isinstance(error, SourceRateLimited):
        why = "source_banned" if error.banned else error.code
        return GiveBack(delay_ms=min(max(error.retry_after_ms, 1_000), _DELAY_MS_MAX), why=why)
    if error.retryable and tries < TRIES:
        return Again(delay_ms=_FIRST_DELAY_MS * 2 ** (tries - 1))
    return _give_up(error)


def after_store_error(error: SeamfillError, *, tries: int) -> Decision:
    """Decide after the ``tries``-th failure of one flush (1 = the first).

    A store that is down is nobody's attempt: the windows wait until it is back, however long that
    takes, instead of running out of attempts in fifteen seconds. A store that *refuses* (another
    table, a full disk) needs a person; it uses attempts so that the backfill ends and says why.
    """
    if error.retryable and tries < TRIES:
        return Again(delay_ms=_FIRST_DELAY_MS * 2 ** (tries - 1))
    if isinstance(error, StoreUnavailable | StoreNotVisible):
        return GiveBack(delay_ms=_STORE_DOWN_MS, why=error.code)
    return _give_up(error)


def _give_up(error: SeamfillError) -> GiveUp:
    return GiveUp(
        code=error.code, retryable=error.retryable, detail=error.message[:DETAIL_CHARS].strip()
    )
