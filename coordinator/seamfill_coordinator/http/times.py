"""Times as people and programs write them in a query: epoch milliseconds or ISO 8601 with a zone.

Pure. Invariant: a time without a zone is refused, never guessed; the error names the parameter.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from msgspec import Meta

from seamfill.errors import InvalidInput

__all__ = ["MAX_TIME_MS", "TimeText", "parse_range", "parse_time"]

MAX_TIME_MS: Final = 253_402_300_800_000
TimeText = Annotated[
    str,
    Meta(
        max_length=64,
        description="Epoch milliseconds, or ISO 8601 with a time zone.",
        examples=["1618959600000", "2021-04-20T23:00:00Z"],
    ),
]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# A plus sign that nobody escaped arrives as a space.
_LOST_PLUS: Final = re.compile(r"^(\S+T\S+) (\d{2}:?\d{2})$")


def parse_time(field: str, text: str) -> int:
    """Return epoch ms. Raises ``InvalidInput`` naming the field."""
    if text.isascii() and text.isdigit():
        return _in_range(field, int(text))
    try:
        moment = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
    except ValueError as exc:
        message = f"{text!r} is neither epoch milliseconds nor ISO 8601"
        raise InvalidInput(field, message) from exc
    if moment.tzinfo is None:
        raise InvalidInput(field, f"{text!r} has no time zone; write {text}Z if it is UTC")
    try:
        return _in_range(field, (moment - _EPOCH) // timedelta(milliseconds=1))
    except OverflowError as exc:
        raise InvalidInput(field, f"{text!r} is out of range") from exc


def parse_range(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    """Return a half-open range; either end may be open. Raises when it ends before it starts."""
    start_ms = None if start is None else parse_time("start", start)
    end_ms = None if end is None else parse_time("end", end)
    if start_ms is not None and end_ms is not None and end_ms <= start_ms:
        raise InvalidInput("end", "must be after start")
    return start_ms, end_ms


def _in_range(field: str, time_ms: int) -> int:
    if not 0 <= time_ms <= MAX_TIME_MS:
        raise InvalidInput(field, f"{time_ms} ms is not between 1970 and 9999")
    return time_ms
