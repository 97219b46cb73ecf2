"""What every group of operations needs: noting a changed row, an event, a refusal; checking input.

Owns the bookkeeping between operations and the caches in ``model.State``. Must not know what any
operation does. Invariant: a row that differs from what ``digest_sum`` last added is in ``dirty``.
"""

from __future__ import annotations

import re
from typing import Final

from seamfill_coordinator.machine.model import DIGEST_MODULUS, Row, State
from seamfill_coordinator.machine.outcomes import Event, Rejected, RejectReason

__all__ = [
    "MAX_TIME_MS",
    "clamp",
    "emit",
    "forget",
    "invalid",
    "is_name",
    "refused",
    "shorten",
    "touch",
]

MAX_TIME_MS: Final = 253_402_300_800_000
_MAX_NAME: Final = 200
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f|\ud800-\udfff]")
"""Control characters, the separator of native keys, and half characters that can not be encoded.

Spelled out instead of ``str.isprintable``: that one follows the interpreter's Unicode tables, and
nodes with different Pythons must agree."""


def touch(state: State, row: Row) -> None:
    """Note that ``row`` changed (or is new) since the last digest point."""
    if not row.is_dirty:
        row.is_dirty = True
        state.dirty.append(row)


def forget(state: State, row: Row) -> None:
    """Take a row that leaves its table out of the digest."""
    row.is_gone = True
    if row.row_digest:  # most rows that leave were never in it
        state.digest_sum = (state.digest_sum - row.row_digest) % DIGEST_MODULUS


def emit(state: State, name: str, facts: tuple[tuple[str, str | int | float | None], ...]) -> None:
    """Record something worth telling."""
    state.new_events.append(Event(rev=state.rev, clock_ms=state.clock_ms, name=name, facts=facts))


def invalid(field: str, detail: str) -> Rejected:
    """Refuse bad input, naming the field."""
    return Rejected(reason=RejectReason.INVALID, field=field, detail=detail)


def refused(reason: RejectReason, detail: str) -> Rejected:
    """Refuse with a reason and a sentence."""
    return Rejected(reason=reason, detail=detail)


def is_name(text: str) -> bool:
    """Tell whether ``text`` may be a name: 1–200 characters, none of them control or ``|``."""
    return 0 < len(text) <= _MAX_NAME and _UNFIT.search(text) is None


def shorten(text: str, limit: int) -> str:
    """Cut free text to its limit and replace what no encoder takes."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")


def clamp(value: int, low: int, high: int) -> int:
    """Return ``value`` brought into [low, high]."""
    return low if value < low else min(value, high)
