"""How the absence of bars is proved, and what was read so far of one window.

Owns the rules of evidence of market-data.md ("What a hole is"). Must not know how questions are
carried out. Pure: generators that yield questions.

A hole is proved by two well-formed answers with different page boundaries, at least
``PROOF_DISTANCE_MS`` apart, both without the bars and with a bar on each side. One fact makes this
cheap: a request without an end *skips* holes, so a page that begins a few bars left of a hole shows
both of its neighbours, however long the hole is.

Invariant: every answer is compared with what is already known of the window; two answers that
differ about any bar raise ``Disagreement``, and then nothing of this attempt is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.protocol.values import GapRange, GapReason, ListingDate, Receipt
from seamfill_worker.questions import Answered, Steps, Window, ask

__all__ = ["Disagreement", "Hole", "Proof", "Reading", "find_end", "find_start", "prove_inner"]

_NEAR_BARS: Final = (16, 480)
"""How far left of a window its left neighbour is looked for first: most outages are short."""
_SEARCH_STEPS_MAX: Final = 64


class Disagreement(Exception):
    """Two answers contradict each other; the window has to be read again from its beginning.

    The one place where this module raises for something expected: it may happen in any answer, at
    any depth, and always means the same.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Absent bars with the bars beside them. ``left_ms`` None: before the first bar that was seen;
    ``right_ms`` None: after the last one."""

    start_ms: int
    end_ms: int
    left_ms: int | None
    right_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A hole with its receipt, and the listing date that was learnt on the way, if any."""

    gap: GapRange
    listed_from: ListingDate | None = None
    delisted_at: ListingDate | None = None


class Reading:
    """What is known of a window after some answers.

    Known is ``[lo_ms, right_ms)`` once a bar to the right was seen, before that up to the last bar.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.pages: list[Answered] = []
        self.right_ms: int | None = None
        self._parts: list[Bars] = []
        self._unsure: Bars | None = None

    @property
    def bars(self) -> Bars:
        """Return the bars of the window that are believed so far."""
        if len(self._parts) > 1:
            self._parts = [Bars.concat(self._parts)]
        return self._parts[0] if self._parts else Bars.empty()

    @property
    def last_ms(self) -> int | None:
        return int(self._parts[-1].ts_ms[-1]) if self._parts else None

    @property
    def next_start_ms(self) -> int:
        """Return where the next page begins: at the last bar, so that both pages hold it."""
        return self.window.lo_ms if self.last_ms is None else self.last_ms

    @property
    def reached_end(self) -> bool:
        return self.right_ms is not None

    def take(self, answered: Answered) -> bool:
        """Add a page; return whether it brought bars that can be believed."""
        page, window = answered.page, self.window
        if self.last_ms is not None and _first_ms(page.bars) != self.last_ms:
            raise Disagreement(f"bar {self.last_ms} is in one page and not in the next")
        self.agree(answered)
        self.pages.append(answered)
        sure = page.bars if page.open_from_ms is not None else _without_last(page.bars)
        fresh = sure.between(self._known_to_ms, window.hi_ms)
        if len(fresh):
            self._parts.append(fresh)
        self.right_ms = _first_from(answered, window.hi_ms)
        if self.right_ms is None:
            self.right_ms = page.open_from_ms
        unsure = _only_last(page.bars).between(self._known_to_ms, window.hi_ms)
        self._unsure = unsure if len(unsure) and self.right_ms is None else None
        return bool(len(fresh))

    def agree(self, answered: Answered) -> None:
        """Raise ``Disagreement`` unless this answer says the same of every bar that is known.

        The last row is left out: it may be one that the venue was still filling.
        """
        rows, page = answered.page.bars, answered.page
        known_to_ms = self._known_to_ms if self.right_ms is None else self.right_ms
        lo_ms = max(self.window.lo_ms, answered.ask.start_ms)
        if not len(rows) and page.open_from_ms is None:
            if len(self.bars.between(lo_ms, known_to_ms)):
                raise Disagreement(f"nothing from {lo_ms} on, where another answer had bars")
            return
        said_to_ms = int(rows.ts_ms[-1]) if page.open_from_ms is None else page.open_from_ms
        hi_ms = min(self.window.hi_ms, known_to_ms, said_to_ms)
        _compare(self.bars.between(lo_ms, hi_ms), rows.between(lo_ms, hi_ms))

    def confirm_end(self, second: Answered) -> int:
        """Accept the last row that both answers end with; return the first bar after it."""
        self.agree(second)
        rows = second.page.bars.between(self.window.lo_ms, self.window.hi_ms)
        # The second answer begins further left: an open bar before the window is no news of it.
        has_opened = (second.page.open_from_ms or 0) >= self.window.lo_ms
        if has_opened or _first_from(second, self.window.hi_ms) is not None:
            raise Disagreement("a later bar has appeared since")
        if self._unsure is not None:
            _compare(self._unsure, _only_last(rows))
            self._parts.append(self._unsure)
            self._unsure = None
        last_ms = int(rows.ts_ms[-1]) if len(rows) else None
        if last_ms != self.last_ms:
            raise Disagreement(f"the last bar is {self.last_ms} in one answer, {last_ms} in other")
        return self._known_to_ms

    def holes_before(self, to_ms: int) -> list[Hole]:
        """Return the maximal runs of absent bars in ``[lo_ms, to_ms)``."""
        window = self.window
        present = self.bars.between(window.lo_ms, to_ms).ts_ms
        edges = np.concatenate(([window.lo_ms - window.interval_ms], present, [to_ms]))
        holes = []
        for at in np.flatnonzero(np.diff(edges) > window.interval_ms).tolist():
            left_ms, right_ms = int(edges[at]), int(edges[at + 1])
            holes.append(
                Hole(
                    start_ms=left_ms + window.interval_ms,
                    end_ms=right_ms,
                    left_ms=None if at == 0 else left_ms,
                    right_ms=self.right_ms if at == len(present) else right_ms,
                )
            )
        return holes

    def page_showing(self, hole: Hole) -> Answered:
        """Return a page that has both neighbours. Pages overlap, hence there is one."""
        return next(page for page in self.pages if _shows(page, hole.left_ms, hole.right_ms))

    @property
    def _known_to_ms(self) -> int:
        last_ms = self.last_ms
        return self.window.lo_ms if last_ms is None else last_ms + self.window.interval_ms


# --- holes between two bars ---------------------------------------------------------------------


def prove_inner(reading: Reading, holes: Sequence[Hole]) -> Steps[list[Proof]]:
    """Prove holes whose neighbours were both seen; one question may prove several."""
    window = reading.window
    proofs: list[Proof] = []
    pending = list(holes)
    while pending:
        left_ms, far_ms = pending[0].left_ms, pending[-1].right_ms
        assert left_ms is not None and far_ms is not None
        first = reading.page_showing(pending[0])
        start_ms = _elsewhere(left_ms, first, window)
        limit = min(window.page_bars, (far_ms - start_ms) // window.interval_ms + 2)
        second = yield from ask(start_ms, max(limit, 8), after_ms=reading.pages[-1].at_ms)
        reading.agree(second)
        proved = [hole for hole in pending if _shows(second, hole.left_ms, hole.right_ms)]
        if proved[:1] != pending[:1]:
            raise Disagreement(f"the hole from {pending[0].start_ms} on ends elsewhere")
        for hole in proved:
            first = reading.page_showing(hole)
            if first.ask.start_ms != start_ms:
                proofs.append(_outage(hole, first, second))
                pending.remove(hole)
    return proofs


def _elsewhere(left_ms: int, first: Answered, window: Window) -> int:
    """Return a start near ``left_ms`` that gives other page boundaries than the first answer."""
    start_ms = max(0, left_ms - 2 * window.interval_ms)
    if start_ms != first.ask.start_ms:
        return start_ms
    return start_ms - window.interval_ms if start_ms else window.interval_ms


def _outage(hole: Hole, first: Answered, second: Answered) -> Proof:
    return Proof(gap=_gap(hole, GapReason.VENUE_OUTAGE, first, second))


# --- before the first bar -----------------------------------------------------------------------


def find_start(reading: Reading, hole: Hole) -> Steps[Proof]:
    """Prove a hole at the window's left edge: an outage that began earlier, or not listed yet."""
    window = reading.window
    left_ms, first = yield from _search_left(reading, hole.start_ms, hole.right_ms)
    if left_ms is not None:
        second = yield from ask(_elsewhere(left_ms, first, window), 8, after_ms=first.at_ms)
        reading.agree(second)
        if not _shows(second, left_ms, hole.right_ms):
            raise Disagreement(f"the hole from {hole.start_ms} on has another left neighbour")
        known = Hole(
            start_ms=hole.start_ms, end_ms=hole.end_ms, left_ms=left_ms, right_ms=hole.right_ms
        )
        return _outage(known, first, second)
    # The first bar there ever was. The second question begins one bar later, still long before any
    # market, so that its page boundaries differ.
    second = yield from ask(window.interval_ms, 8, after_ms=first.at_ms)
    reading.agree(second)
    _expect_next(second, hole.right_ms)
    gap = _gap(hole, GapReason.NOT_LISTED, first, second)
    assert hole.right_ms is not None
    return Proof(gap=gap, listed_from=ListingDate(at_ms=hole.right_ms, receipt=gap.receipt))


# --- after the last bar -------------------------------------------------------------------------


def find_end(reading: Reading, hole: Hole) -> Steps[Proof | None]:
    """Prove that a symbol which no longer trades ended; None when it never had a bar."""
    window = reading.window
    left_ms = reading.last_ms
    if left_ms is None:
        left_ms, first = yield from _search_left(reading, hole.start_ms, None)
        if left_ms is None:
            return None
    else:
        first = yield from ask(max(0, left_ms - 4 * window.interval_ms), 16)
    second = yield from ask(_elsewhere(left_ms, first, window), 8, after_ms=first.at_ms)
    for answered in (first, second):
        reading.agree(answered)
        if not _shows(answered, left_ms, None):
            raise Disagreement(f"bar {left_ms} is the last one in one answer only")
    known = Hole(start_ms=hole.start_ms, end_ms=hole.end_ms, left_ms=left_ms, right_ms=None)
    gap = _gap(known, GapReason.DELISTED, first, second)
    ended_ms = left_ms + window.interval_ms
    return Proof(gap=gap, delisted_at=ListingDate(at_ms=ended_ms, receipt=gap.receipt))


# --- looking for the left neighbour -------------------------------------------------------------


def _search_left(
    reading: Reading, before_ms: int, right_ms: int | None
) -> Steps[tuple[int | None, Answered]]:
    """Find the last bar before ``before_ms``, and an answer that shows it beside ``right_ms``.

    Without any, returns None and the answer to "everything since 0". Looks nearby first, then at
    the very beginning, then halves the distance: ``log2`` of the series' length at worst.
    """
    window = reading.window
    interval_ms, page_bars = window.interval_ms, window.page_bars
    exists_ms, absent_from_ms = None, before_ms
    for start_ms, limit in (
        *((max(0, before_ms - near * interval_ms), near + 2) for near in _NEAR_BARS),
        (0, 2),
    ):
        answered = yield from ask(start_ms, min(limit, page_bars))
        exists_ms = _last_before(reading, answered, before_ms, right_ms)
        if exists_ms is not None:
            break
        absent_from_ms = start_ms
        if start_ms == 0:
            return None, answered
    assert exists_ms is not None
    for _ in range(_SEARCH_STEPS_MAX):
        if _shows(answered, exists_ms, right_ms):
            return exists_ms, answered
        between = (absent_from_ms - exists_ms) // interval_ms
        if between <= page_bars - 2:
            answered = yield from ask(exists_ms, between + 2)
        else:
            answered = yield from ask(exists_ms + between // 2 * interval_ms, 2)
        found_ms = _last_before(reading, answered, before_ms, right_ms)
        if found_ms is None:
            absent_from_ms = answered.ask.start_ms
        else:
            exists_ms = found_ms
    raise Disagreement(f"no left neighbour of {before_ms} could be found")


def _last_before(
    reading: Reading, answered: Answered, before_ms: int, right_ms: int | None
) -> int | None:
    """Return the answer's last bar before ``before_ms``; without one the next must be right."""
    reading.agree(answered)
    earlier = answered.page.bars.between(0, before_ms)
    if len(earlier):
        return int(earlier.ts_ms[-1])
    _expect_next(answered, right_ms)
    return None


# --- reading single answers ---------------------------------------------------------------------


def _shows(answered: Answered, left_ms: int | None, right_ms: int | None) -> bool:
    """Return whether ``left_ms`` is there and the very next bar is ``right_ms`` (None: the end)."""
    if left_ms is None:
        return False
    rows = answered.page.bars
    at = int(np.searchsorted(rows.ts_ms, left_ms))
    if at == len(rows) or int(rows.ts_ms[at]) != left_ms:
        return False
    if at + 1 < len(rows):
        return int(rows.ts_ms[at + 1]) == right_ms
    if answered.page.open_from_ms is not None or right_ms is not None:
        return answered.page.open_from_ms == right_ms
    return len(rows) < answered.ask.limit_bars


def _expect_next(answered: Answered, right_ms: int | None) -> None:
    first_ms = _first_from(answered, 0)
    if first_ms is None:
        first_ms = answered.page.open_from_ms
    if first_ms != right_ms:
        raise Disagreement(f"the first bar is {right_ms} in one answer and {first_ms} in another")


def _gap(hole: Hole, reason: GapReason, first: Answered, second: Answered) -> GapRange:
    receipt = Receipt(
        reason=reason,
        asked=(first.page.asked, second.page.asked),
        left_ms=hole.left_ms,
        right_ms=hole.right_ms,
    )
    return GapRange(start_ms=hole.start_ms, end_ms=hole.end_ms, reason=reason, receipt=receipt)


def _compare(known: Bars, said: Bars) -> None:
    """Raise unless two answers have the same bars with the same bits."""
    if not np.array_equal(known.ts_ms, said.ts_ms):
        odd = np.setxor1d(known.ts_ms, said.ts_ms)
        raise Disagreement(f"bar {int(odd[0])} is in one answer and not in another")
    for name in VALUE_COLUMNS:
        differs = getattr(known, name).view(np.int64) != getattr(said, name).view(np.int64)
        if differs.any():
            at = int(known.ts_ms[int(np.argmax(differs))])
            raise Disagreement(f"{name} of bar {at} differs between two answers")


def _first_from(answered: Answered, from_ms: int) -> int | None:
    later = answered.page.bars.ts_ms
    at = int(np.searchsorted(later, from_ms))
    return int(later[at]) if at < len(later) else None


def _first_ms(bars: Bars) -> int | None:
    return int(bars.ts_ms[0]) if len(bars) else None


def _without_last(bars: Bars) -> Bars:
    return bars.between(0, int(bars.ts_ms[-1])) if len(bars) else bars


def _only_last(bars: Bars) -> Bars:
    return bars.between(int(bars.ts_ms[-1]), int(bars.ts_ms[-1]) + 1) if len(bars) else bars
