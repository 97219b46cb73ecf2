"""Times as people write them, turned into epoch milliseconds or refused.

Owns the spellings that every door accepts: aware ``datetime`` (``pd.Timestamp`` is one), ISO 8601
with a zone, ``int`` milliseconds. Must not read a clock. Pure.

Naive times are refused, because guessing a zone moves history by hours; so are integers of another
unit, because a second read as a millisecond lands in January 1970 and simply finds no bars.
"""

from __future__ import annotations

import operator
from datetime import UTC, datetime, timedelta
from typing import Final

from seamfill.errors import InvalidInput

__all__ = ["TimeInput", "ceil_to_grid", "floor_to_grid", "format_ms", "parse_time", "to_ms"]

TimeInput = datetime | int | str

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
LATEST_MS: Final = 253_402_300_800_000

# Where integers of each unit lie between 1973 and 5138: the ranges do not overlap, so the unit of
# a plausible time can be told from its size alone.
_SECONDS_FROM: Final = 10**8
_MILLISECONDS_FROM: Final = 10**11
_MICROSECONDS_FROM: Final = 10**14
_NANOSECONDS_FROM: Final = 10**17


def to_ms(value: TimeInput, field: str, *, round_up: bool = False) -> int:
    """Return epoch ms UTC, fractions of a ms cut off (or rounded up).

    Raises ``InvalidInput`` naming ``field`` for naive times, other units and anything else.
    """
    if isinstance(value, datetime):
        return _from_datetime(value, field, round_up=round_up)
    if isinstance(value, str):
        return _from_text(value, field, round_up=round_up)
    if isinstance(value, bool):
        raise InvalidInput(field, "must be a time, not a bool")
    try:
        return _from_int(operator.index(value), field)
    except TypeError:
        raise InvalidInput(
            field,
            f"must be an aware datetime, ISO 8601 with a zone, or int milliseconds,"
            f" not {type(value).__name__}",
        ) from None


def parse_time(text: str, field: str) -> int:
    """Return epoch ms of what stands on a command line: ISO 8601 with a zone, or milliseconds."""
    stripped = text.strip()
    if stripped.isascii() and stripped.isdecimal() and len(stripped) == 4:
        raise InvalidInput(field, f"{stripped} looks like a year; write {stripped}-01-01T00:00:00Z")
    if stripped.removeprefix("-").isdecimal() and stripped.isascii() and len(stripped) < 25:
        return to_ms(int(stripped), field)
    return to_ms(stripped, field)


def floor_to_grid(ms: int, interval_ms: int) -> int:
    """Return the open time of the bar that contains this moment."""
    return ms - ms % interval_ms


def ceil_to_grid(ms: int, interval_ms: int) -> int:
    """Return the first open time that is not before this moment."""
    return -(-ms // interval_ms) * interval_ms


def format_ms(ms: int) -> str:
    """Return ISO 8601 in UTC, without a fraction where there is none."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    whole = moment.strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{ms % 1000:03d}" if ms % 1000 else ""
    return f"{whole}{fraction}Z"


def _from_datetime(value: datetime, field: str, *, round_up: bool) -> int:
    # NaT claims to be a datetime; like NaN it is the one that differs from itself.
    if value != value:
        raise InvalidInput(field, "must be a time, not NaT")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidInput(
            field, f"{value.isoformat()} has no time zone; write {value.isoformat()}Z for UTC"
        )
    since = value - _EPOCH
    micros = since // _MICROSECOND
    nanos = getattr(value, "nanosecond", 0)
    ms, rest = divmod(micros, 1000)
    if round_up and (rest or nanos):
        ms += 1
    return _bounded(ms, field)


def _from_text(value: str, field: str, *, round_up: bool) -> int:
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise InvalidInput(
            field,
            f"{value!r} is not a time; write 2021-04-20T20:40:00Z or epoch milliseconds",
        ) from None
    return _from_datetime(moment, field, round_up=round_up)


def _from_int(value: int, field: str) -> int:
    size = abs(value)
    if _SECONDS_FROM <= size < _MILLISECONDS_FROM:
        raise _wrong_unit(field, value, "seconds", value * 1000)
    if _MICROSECONDS_FROM <= size < _NANOSECONDS_FROM:
        raise _wrong_unit(field, value, "microseconds", value // 1000)
    if size >= _NANOSECONDS_FROM:
        raise _wrong_unit(field, value, "nanoseconds", value // 1_000_000)
    return _bounded(value, field)


def _wrong_unit(field: str, value: int, unit: str, meant_ms: int) -> InvalidInput:
    guess = f"{meant_ms} ({format_ms(meant_ms)})" if 0 <= meant_ms < LATEST_MS else "something else"
    return InvalidInput(field, f"{value} looks like {unit}; milliseconds are meant: {guess}?")


def _bounded(ms: int, field: str) -> int:
    if not 0 <= ms < LATEST_MS:
        raise InvalidInput(field, f"{ms} ms is before 1970 or after 9999")
    return ms
