"""Reads lies from TOML: `[[lie]]` tables become `seamfill_chaos.faults.Lie` values.

Pure: text in, values out. Every field is checked, and an unknown one is refused: a misspelt lie
would otherwise never be told, and the test that relies on it would prove nothing.
The format is described in `docs/reference/lies.md`.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from seamfill.errors import SeamfillError
from seamfill_chaos.faults import (
    Act,
    DropBars,
    DuplicateBars,
    Empty,
    Hang,
    Html200,
    Lie,
    LieKind,
    OffGrid,
    OutOfRange,
    PartialLast,
    Reset,
    Restate,
    Selection,
    Span,
    Status,
    Truncate,
)

DEFAULT_PATH = "/api/v3/klines"
LIES_MAX = 256
NUMBERS_MAX = 10_000
INTEGER_MAX = 2**53
COUNT_MAX = 1_000
HANG_S_MAX = 3_600.0
BODY_CHARS_MAX = 65_536


class LiesInvalid(SeamfillError):
    """The description of the lies can not be used; the message names the lie and its field."""

    code = "lies_invalid"


def parse_lies(text: str) -> tuple[Lie, ...]:
    """Return the lies in the order of the text. Raises LiesInvalid."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LiesInvalid(f"not TOML: {error}") from error
    unknown = sorted(document.keys() - {"lie"})
    if unknown:
        raise LiesInvalid(f"{unknown[0]}: unknown; the lies are [[lie]] tables")
    tables = document.get("lie", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise LiesInvalid("lie: must be [[lie]] tables")
    if len(tables) > LIES_MAX:
        raise LiesInvalid(f"lie: {len(tables)} are more than {LIES_MAX}")
    return tuple(_parse(index, table) for index, table in enumerate(tables, 1))


def _parse(index: int, table: dict[str, Any]) -> Lie:
    kinds = [kind.value for kind in LieKind]
    name = table.get("kind")
    if name not in kinds:
        what = "is missing" if name is None else f"{name!r} is unknown"
        raise LiesInvalid(f"lie {index}: kind: {what}; one of {', '.join(kinds)}")
    kind = LieKind(name)
    fields = _Fields(index, kind, {**table})
    fields.take("kind")
    lie = Lie(
        index=index,
        kind=kind,
        path=fields.text("path", DEFAULT_PATH, starts="/"),
        symbol=fields.text("symbol", None),
        selection=_selection(fields),
        # Read last: some acts look at the range too.
        span=(span := fields.span()),
        act=_ACTS[kind](fields, span),
    )
    fields.end()
    return lie


def _selection(fields: _Fields) -> Selection:
    when = fields.take("when")
    if isinstance(when, dict):
        # `when = { every = 10 }` and `when = { start = …, end = … }` mean the same as these
        # fields beside it; whichever way it is written, one place has to hold it.
        fields.adopt("when", when, ("requests", "every", "start", "end"))
        when = fields.take("requests")
    numbers: frozenset[int] | None = None
    if when is not None:
        listed = when if isinstance(when, list) else [when]
        if not listed or len(listed) > NUMBERS_MAX or not all(_is_count(n) for n in listed):
            raise fields.wrong(
                "when", "must list request numbers from 1, or be a table with every, start, end"
            )
        numbers = frozenset(listed)
    return Selection(
        numbers=numbers,
        every=fields.integer("every", None, least=1),
        from_number=fields.integer("from_request", 1, least=1),
    )


def _status(fields: _Fields, span: Span) -> Act:
    code = fields.integer("code", None, least=200, most=599)
    if code is None:
        raise fields.wrong("code", "is missing")
    headers = fields.take("headers", {})
    if not isinstance(headers, dict) or not all(
        isinstance(value, str | int) and _is_header(f"{name}{value}")
        for name, value in headers.items()
    ):
        raise fields.wrong("headers", "must be a table of names and printable values")
    body = fields.take("body")
    if isinstance(body, dict):
        body = json.dumps(body)
    if body is not None and (not isinstance(body, str) or len(body) > BODY_CHARS_MAX):
        raise fields.wrong("body", f"must be a text of at most {BODY_CHARS_MAX} signs, or a table")
    pairs = tuple((name, str(value)) for name, value in headers.items())
    return Status(code=code, headers=pairs, body=body)


def _truncate(fields: _Fields, span: Span) -> Act:
    return Truncate(
        keep=fields.number("keep", 0.5, above=0.0, below=1.0), short=fields.flag("short")
    )


def _hang(fields: _Fields, span: Span) -> Act:
    return Hang(seconds=fields.number("seconds", 30.0, above=0.0, below=HANG_S_MAX))


def _empty(fields: _Fields, span: Span) -> Act:
    body = fields.text("body", "")
    if body not in ("", "[]"):
        raise fields.wrong("body", 'must be "" or "[]"')
    return Empty(body=body)


def _drop_bars(fields: _Fields, span: Span) -> Act:
    return DropBars(bars_ms=fields.times("bars"), span=span, count=_count(fields, "count", 1))


def _duplicate_bars(fields: _Fields, span: Span) -> Act:
    return DuplicateBars(bars_ms=fields.times("bars"), span=span, count=_count(fields, "count", 1))


def _restate(fields: _Fields, span: Span) -> Act:
    factor = fields.number("factor", 1.001, above=0.0, below=1_000.0)
    if factor == 1.0:
        raise fields.wrong("factor", "1 changes nothing")
    return Restate(factor=factor, span=span)


def _off_grid(fields: _Fields, span: Span) -> Act:
    shift_ms = fields.integer("shift_ms", 30_000, least=-86_400_000, most=86_400_000)
    if shift_ms % 60_000 == 0:
        raise fields.wrong("shift_ms", "must not be whole minutes, which are on the grid")
    return OffGrid(shift_ms=shift_ms)


def _out_of_range(fields: _Fields, span: Span) -> Act:
    before, after = _count(fields, "before", 1, least=0), _count(fields, "after", 1, least=0)
    if before == after == 0:
        raise fields.wrong("before", "and after are both 0, which changes nothing")
    return OutOfRange(before=before, after=after)


def _count(fields: _Fields, name: str, default: int, *, least: int = 1) -> int:
    count: int = fields.integer(name, default, least=least, most=COUNT_MAX)
    return count


_ACTS: dict[LieKind, Callable[[_Fields, Span], Act]] = {
    LieKind.STATUS: _status,
    LieKind.HTML_200: lambda fields, span: Html200(),
    LieKind.TRUNCATE: _truncate,
    LieKind.HANG: _hang,
    LieKind.RESET: lambda fields, span: Reset(),
    LieKind.EMPTY: _empty,
    LieKind.DROP_BARS: _drop_bars,
    LieKind.DUPLICATE_BARS: _duplicate_bars,
    LieKind.PARTIAL_LAST: lambda fields, span: PartialLast(),
    LieKind.RESTATE: _restate,
    LieKind.OFF_GRID: _off_grid,
    LieKind.OUT_OF_RANGE: _out_of_range,
}


class _Fields:
    """Take one lie's fields by name and type; what nobody took is an error."""

    def __init__(self, index: int, kind: LieKind, table: dict[str, Any]) -> None:
        self._where = f'lie {index} ("{kind.value}")'
        self._table = table

    def wrong(self, name: str, what: str) -> LiesInvalid:
        return LiesInvalid(f"{self._where}: {name}: {what}")

    def take(self, name: str, default: object = None) -> Any:
        return self._table.pop(name, default)

    def adopt(self, name: str, inner: dict[str, Any], allowed: tuple[str, ...]) -> None:
        for key, value in inner.items():
            if key not in allowed:
                raise self.wrong(f"{name}.{key}", f"unknown; known are {', '.join(allowed)}")
            if key in self._table:
                raise self.wrong(f"{name}.{key}", "is given twice")
            self._table[key] = value

    def end(self) -> None:
        for name in self._table:
            raise self.wrong(name, "unknown for this kind")

    def text(self, name: str, default: Any, *, starts: str = "") -> Any:
        value = self.take(name, default)
        if value is not default and not (isinstance(value, str) and value.startswith(starts)):
            raise self.wrong(name, f"must be a text{f' that starts with {starts}' * bool(starts)}")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def integer(self, name: str, default: Any, *, least: int, most: int = INTEGER_MAX) -> Any:
        value = self.take(name)
        if value is None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, f"must be an integer from {least} to {most}, not {value!r}")
        return value

    def number(self, name: str, default: float, *, above: float, below: float) -> float:
        value = self.take(name, default)
        if type(value) not in (int, float) or not math.isfinite(value) or not above < value < below:
            raise self.wrong(name, f"must be a number between {above} and {below}, not {value!r}")
        return float(value)

    def span(self) -> Span:
        start_ms, end_ms = self._time("start"), self._time("end")
        if start_ms is not None and end_ms is not None and end_ms <= start_ms:
            raise self.wrong("end", "must be later than start")
        return Span(start_ms=start_ms, end_ms=end_ms)

    def times(self, name: str) -> tuple[int, ...]:
        values = self.take(name, [])
        if not isinstance(values, list) or len(values) > NUMBERS_MAX:
            raise self.wrong(name, "must list times")
        return tuple(self._parse_time(name, value) for value in values)

    def _time(self, name: str) -> int | None:
        value = self.take(name)
        return None if value is None else self._parse_time(name, value)

    def _parse_time(self, name: str, value: object) -> int:
        if type(value) is int and 0 <= value <= INTEGER_MAX:
            return value
        moment: datetime | None = value if isinstance(value, datetime) else None
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                moment = None
        if moment is None or moment.tzinfo is None:
            raise self.wrong(
                name, f"{value!r} is neither ISO 8601 with a zone nor epoch milliseconds"
            )
        return round(moment.timestamp() * 1_000)


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= INTEGER_MAX


def _is_header(text: str) -> bool:
    return text.isascii() and text.isprintable()
