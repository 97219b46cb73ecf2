"""The words between the plan of a window and whoever drives it: questions, answers, verdicts.

Owns values only. Pure.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeVar

from seamfill.bars import Bars
from seamfill.connectors import Page
from seamfill.protocol.values import GapRange, ListingDate

__all__ = [
    "PROOF_DISTANCE_MS",
    "Answered",
    "AskClock",
    "AskPage",
    "AskTrading",
    "ClockRead",
    "Filled",
    "Inconsistent",
    "Question",
    "Reply",
    "Rest",
    "Span",
    "Steps",
    "Trading",
    "Unclosed",
    "Unproved",
    "Verdict",
    "Window",
    "ask",
    "ask_clock",
    "ask_trading",
]

PROOF_DISTANCE_MS: Final = 1_000
"""Two answers that prove a hole lie at least this far apart (market-data.md)."""

Span = tuple[int, int]
"""A half-open range ``[start_ms, end_ms)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is to be read: a granted range, its grid, and what is known of the series."""

    start_ms: int
    end_ms: int
    interval_ms: int
    page_bars: int
    settle_ms: int
    dense: bool = True
    listed_from_ms: int | None = None
    delisted_at_ms: int | None = None

    @property
    def lo_ms(self) -> int:
        """Return the first bar that has to be explained."""
        return min(self.end_ms, max(self.start_ms, self.listed_from_ms or 0))

    @property
    def hi_ms(self) -> int:
        """Return the end of what has to be explained."""
        if self.delisted_at_ms is None:
            return self.end_ms
        return max(self.lo_ms, min(self.end_ms, self.delisted_at_ms))

    @property
    def bars(self) -> int:
        """Return how many bars a dense venue without outages would have."""
        return (self.hi_ms - self.lo_ms) // self.interval_ms

    def closed_before(self, clock_ms: int) -> int:
        """Return the first bar that had not closed and settled when the venue's clock said so."""
        return (clock_ms - self.settle_ms) // self.interval_ms * self.interval_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPage:
    """Fetch ``limit_bars`` bars from ``start_ms`` on, after ``not_before_ms`` (monotonic)."""

    start_ms: int
    limit_bars: int
    not_before_ms: int = 0


@dataclass(frozen=True, slots=True)
class AskClock:
    """Ask for the venue's clock, now."""


@dataclass(frozen=True, slots=True)
class AskTrading:
    """Ask whether the symbol is trading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A page, with the monotonic times at which it was asked for and came."""

    ask: AskPage
    page: Page
    sent_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class ClockRead:
    clock_ms: int


@dataclass(frozen=True, slots=True)
class Trading:
    is_trading: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclosed:
    """Bars from ``from_ms`` on have not closed; come back after ``delay_ms``."""

    from_ms: int
    delay_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproved:
    """What is neither covered nor a gap can not be explained; ``code`` says why."""

    code: str
    detail: str


Rest = Unclosed | Unproved


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """The bars of a window, and what is known of all of it.

    ``covered``, ``gaps``: disjoint, ascending. ``rest`` explains what is in neither. ``doubts``:
    the contradictions because of which the window was read again, for the log.
    """

    bars: Bars
    covered: tuple[Span, ...]
    gaps: tuple[GapRange, ...]
    listed_from: ListingDate | None
    delisted_at: ListingDate | None
    rest: Rest | None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inconsistent:
    """The source contradicted itself too often; nothing it said is used."""

    detail: str


Question = AskPage | AskClock | AskTrading
Reply = Answered | ClockRead | Trading
Verdict = Filled | Inconsistent
T = TypeVar("T")
Steps = Generator[Question, Reply, T]


def ask(start_ms: int, limit_bars: int, *, after_ms: int | None = None) -> Steps[Answered]:
    """Ask for a page; with ``after_ms``, at least the proof's distance after that time."""
    not_before_ms = 0 if after_ms is None else after_ms + PROOF_DISTANCE_MS
    reply = yield AskPage(start_ms=start_ms, limit_bars=limit_bars, not_before_ms=not_before_ms)
    assert isinstance(reply, Answered)
    return reply


def ask_clock() -> Steps[int]:
    reply = yield AskClock()
    assert isinstance(reply, ClockRead)
    return reply.clock_ms


def ask_trading() -> Steps[bool]:
    reply = yield AskTrading()
    assert isinstance(reply, Trading)
    return reply.is_trading
