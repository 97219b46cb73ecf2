"""Lies: which request is answered wrongly, and in what way. Decided by number.

Pure: counts requests and says which lies to tell; `faults_file` reads them from text, and what a
lie does to an answer is up to the exchange.
A lie's *candidates* are the requests that match its path prefix and, where given, its symbol and
its time range. Candidates are numbered from 1, for each lie on its own, and the lie is told to
those that its selection picks: listed numbers, every n-th, from the n-th on, or all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class LieKind(Enum):
    """Name what is wrong with an answer."""

    STATUS = "status"
    HTML_200 = "html_200"
    TRUNCATE = "truncate"
    HANG = "hang"
    RESET = "reset"
    EMPTY = "empty"
    DROP_BARS = "drop_bars"
    DUPLICATE_BARS = "duplicate_bars"
    PARTIAL_LAST = "partial_last"
    RESTATE = "restate"
    OFF_GRID = "off_grid"
    OUT_OF_RANGE = "out_of_range"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Hold a half-open time range; an absent end is unbounded."""

    start_ms: int | None = None
    end_ms: int | None = None

    @property
    def is_everything(self) -> bool:
        """Tell whether the range has no bounds at all."""
        return self.start_ms is None and self.end_ms is None

    def holds(self, ts_ms: int) -> bool:
        """Tell whether the time lies in the range."""
        return (self.start_ms is None or ts_ms >= self.start_ms) and (
            self.end_ms is None or ts_ms < self.end_ms
        )

    def overlaps(self, start_ms: int, end_ms: int) -> bool:
        """Tell whether the half-open range `[start_ms, end_ms)` has a time in common with it."""
        return (self.start_ms is None or end_ms > self.start_ms) and (
            self.end_ms is None or start_ms < self.end_ms
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Answer with this HTTP status; without a body, the one Binance sends with that status."""

    code: int
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Html200:
    """Answer 200 with an HTML page, as a proxy in between would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Send this share of the body; `short` promises the whole and cuts the connection."""

    keep: float = 0.5
    short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Say nothing for so long, then close the connection."""

    seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Reset the connection instead of answering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """Answer 200 with this body: nothing at all, or `[]`."""

    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropBars:
    """Leave bars out: the named ones, those of the range, or `count` from the middle."""

    bars_ms: tuple[int, ...] = ()
    span: Span = Span()
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateBars:
    """Send bars twice, chosen as in `DropBars`."""

    bars_ms: tuple[int, ...] = ()
    span: Span = Span()
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialLast:
    """Send the last row half filled, as if it were final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restate:
    """Multiply the values of the range's bars; everything without a range."""

    factor: float = 1.001
    span: Span = Span()


@dataclass(frozen=True, slots=True, kw_only=True)
class OffGrid:
    """Shift the times of all rows."""

    shift_ms: int = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfRange:
    """Add so many rows before the asked start and from the asked end on."""

    before: int = 1
    after: int = 1


RowAct: TypeAlias = DropBars | DuplicateBars | PartialLast | Restate | OffGrid | OutOfRange
"""Acts on the rows of an answer; several may be told at once, in the order of the file."""

Act: TypeAlias = Status | Html200 | Truncate | Hang | Reset | Empty | RowAct
"""All acts. Of those that are no `RowAct`, an answer can suffer one: the first of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Pick candidates by number: the listed ones, every n-th, or from the n-th on."""

    numbers: frozenset[int] | None = None
    every: int | None = None
    from_number: int = 1

    def picks(self, number: int) -> bool:
        """Tell whether the candidate with this number is picked."""
        return (
            number >= self.from_number
            and (self.numbers is None or number in self.numbers)
            and (self.every is None or number % self.every == 0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    """Hold one lie: whom it is told (path, symbol, range, selection) and what it does.

    `index` is its place in the file, from 1, for messages and logs.
    """

    index: int
    kind: LieKind
    path: str
    symbol: str | None
    span: Span
    selection: Selection
    act: Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Describe a request to the lies; symbol and range only where it asks for bars."""

    path: str
    symbol: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None


class LieBook:
    """Number each lie's candidates and pick the lies to tell."""

    def __init__(self, lies: tuple[Lie, ...]) -> None:
        self.lies = lies
        self._seen = [0] * len(lies)

    def pick(self, asked: Asked) -> tuple[Lie, ...]:
        """Count the request and return the lies to tell, in the order of the file."""
        picked = []
        for place, lie in enumerate(self.lies):
            if not _is_candidate(lie, asked):
                continue
            self._seen[place] += 1
            if lie.selection.picks(self._seen[place]):
                picked.append(lie)
        return tuple(picked)


def _is_candidate(lie: Lie, asked: Asked) -> bool:
    if not asked.path.startswith(lie.path):
        return False
    if lie.symbol is not None and lie.symbol != asked.symbol:
        return False
    if asked.start_ms is None or asked.end_ms is None:
        # Not a request for bars: there is no row to lie about, and no range to compare.
        return lie.span.is_everything and not isinstance(lie.act, RowAct)
    return lie.span.overlaps(asked.start_ms, asked.end_ms)
