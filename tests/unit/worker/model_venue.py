"""A venue in memory that answers the plan's questions as a real one would, or lies on request.

The truth is a plain dict of rows. ``drive`` owns time, so that the proof's distances cost nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from seamfill.bars import Bars
from seamfill.connectors import Page
from seamfill.protocol.values import Asked, Usage
from seamfill_worker.questions import (
    Answered,
    AskClock,
    AskPage,
    AskTrading,
    ClockRead,
    Reply,
    Steps,
    Trading,
    Verdict,
)

MINUTE = 60_000
BASE = 1_600_000_800_000  # a multiple of twenty minutes
SETTLE = 2_000
Row = tuple[int, float, float, float, float, float]
Lie = Callable[[int, list[Row]], list[Row]]


def bar(minute: int, version: int = 0) -> Row:
    """Return the bar of a minute counted from ``BASE``; its values tell minute and version."""
    price = 100.0 + minute + version / 8
    return (BASE + minute * MINUTE, price, price + 1, price - 1, price, 5.0)


def bars_of(minutes: Sequence[int], version: int = 0) -> Bars:
    return Bars.from_rows([bar(minute, version) for minute in minutes])


@dataclass
class ModelVenue:
    """``minutes``: the bars that exist; ``now_minute``: the venue's clock."""

    minutes: Sequence[int]
    now_minute: float = 1_000_000.0
    trading: bool = True
    page_bars: int = 10
    lie: Lie | None = None
    asked: list[AskPage] = field(default_factory=list)
    versions: Callable[[int, int], int] = lambda number, minute: 0

    @property
    def now_ms(self) -> int:
        return BASE + int(self.now_minute * MINUTE)

    def page(self, ask: AskPage) -> Page:
        self.asked.append(ask)
        number = len(self.asked)
        limit = min(ask.limit_bars, self.page_bars)
        truth = [bar(m, self.versions(number, m)) for m in sorted(self.minutes)]
        begun = [row for row in truth if ask.start_ms <= row[0] <= self.now_ms]
        rows = begun[:limit]
        if self.lie is not None:
            rows = self.lie(number, rows)
        closed = [row for row in rows if row[0] + MINUTE <= self.now_ms - SETTLE]
        opened = [row[0] for row in rows if row[0] + MINUTE > self.now_ms - SETTLE]
        end_ms = rows[-1][0] + MINUTE if rows else ask.start_ms
        return Page(
            bars=Bars.from_rows(closed),
            asked=Asked(
                start_ms=ask.start_ms,
                end_ms=end_ms,
                server_time_ms=self.now_ms,
                http_status=200,
                body_sha256=hashlib.sha256(repr(rows).encode()).hexdigest(),
                rows=len(rows),
            ),
            usage=Usage(source="ccxt:model"),
            open_from_ms=opened[0] if opened else None,
        )


def drive(steps: Steps[Verdict], venue: ModelVenue, *, max_questions: int = 2_000) -> Verdict:
    """Answer questions until the verdict; time passes only where the plan asks for it."""
    now_ms = 0
    reply: Reply | None = None
    for _ in range(max_questions):
        try:
            question = next(steps) if reply is None else steps.send(reply)
        except StopIteration as done:
            verdict: Verdict = done.value
            return verdict
        match question:
            case AskPage():
                now_ms = max(now_ms + 10, question.not_before_ms)
                page = venue.page(question)
                reply = Answered(ask=question, page=page, sent_ms=now_ms, at_ms=now_ms + 5)
            case AskClock():
                reply = ClockRead(venue.now_ms)
            case AskTrading():
                reply = Trading(venue.trading)
    raise AssertionError("the plan asks for ever")
