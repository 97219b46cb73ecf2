"""What to ask a source for one window, and what its answers prove.

Owns the reading of a window page by page and the verdict on every bar of it. How a hole is proved
is in ``proof``. Must not know HTTP, leases, clocks or stores: it is a generator that yields
questions and is sent answers, so whoever drives it owns time and I/O. Pure.

Invariants:

* The bars of a verdict equal one version of the source. Neighbouring pages share one bar, and any
  two answers that differ about any bar of the window start the window over (``MAX_STARTS``). For a
  restatement of one contiguous range this is exact: a range with bars in two pages contains the bar
  that they share. Scattered bars restated between two pages of one window can not be told from
  the truth without reading everything twice.
* The last row of an answer is believed only when another answer repeats it: it is the one a venue
  may still have been filling.
* ``covered``, ``gaps`` and ``rest`` are disjoint and together are the window, but for bars outside
  a listing date that the coordinator already knows.
* Nothing is a gap without a receipt of two answers (market-data.md, "What a hole is").
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from seamfill.bars import Bars
from seamfill.protocol.values import GapRange
from seamfill_worker.proof import (
    Disagreement,
    Hole,
    Proof,
    Reading,
    find_end,
    find_start,
    prove_inner,
)
from seamfill_worker.questions import (
    Answered,
    AskClock,
    AskPage,
    AskTrading,
    Filled,
    Inconsistent,
    Question,
    Reply,
    Rest,
    Span,
    Steps,
    Unclosed,
    Unproved,
    Verdict,
    Window,
    ask,
    ask_clock,
    ask_trading,
)

__all__ = [
    "MAX_GAPS",
    "MAX_STARTS",
    "Answered",
    "AskClock",
    "AskPage",
    "AskTrading",
    "Filled",
    "Inconsistent",
    "Question",
    "Reply",
    "Unclosed",
    "Unproved",
    "Verdict",
    "Window",
    "fill",
]

MAX_STARTS: Final = 6
"""How often a window is read from its beginning before its source is called inconsistent."""
MAX_GAPS: Final = 256
"""As many as one completion may carry."""
_SNOOZE_MS_MAX: Final = 3_600_000


def fill(window: Window) -> Steps[Verdict]:
    """Yield questions until every bar of the window is explained.

    Starts over when two answers contradict each other, because then no single version of the source
    can be put together from what was heard so far.
    """
    if window.bars == 0:
        return _nothing_to_explain()
    doubts: tuple[str, ...] = ()
    for _ in range(MAX_STARTS):
        try:
            return replace((yield from _attempt(window)), doubts=doubts)
        except Disagreement as why:
            doubts += (str(why),)
    return Inconsistent(detail=doubts[-1])


def _attempt(window: Window) -> Steps[Filled]:
    reading = yield from _read(window)
    tail = yield from _tail(reading)
    if not window.dense:
        return (yield from _settle_sparse(reading, tail))
    holes = reading.holes_before(tail.from_ms)
    if len(holes) > MAX_GAPS - 2:
        detail = f"{len(holes)} holes in one window, at most {MAX_GAPS - 2} are proved"
        return _verdict(reading, (), tail, rest=Unproved(code="too_many_holes", detail=detail))
    head = [hole for hole in holes if hole.left_ms is None]
    inner = [hole for hole in holes if hole.left_ms is not None]
    proofs: list[Proof] = []
    for hole in head:
        proofs.append((yield from find_start(reading, hole)))
    proofs += yield from prove_inner(reading, inner)
    return _verdict(reading, tuple(proofs), tail, rest=tail.rest)


# --- reading pages ------------------------------------------------------------------------------


def _read(window: Window) -> Steps[Reading]:
    """Read the window's bars, each page overlapping the one before by one bar."""
    reading = Reading(window)
    # A page that brings only part of what was asked is no error; one bar at a time would be.
    for _ in range(4 * (window.bars // window.page_bars + 1) + 4):
        start_ms = reading.next_start_ms
        # One bar more than is needed, so that the window's own last bar is not the last row.
        limit = min(window.page_bars, (window.hi_ms - start_ms) // window.interval_ms + 1)
        answered = yield from ask(start_ms, max(limit, 2))
        advanced = reading.take(answered)
        if reading.reached_end or not advanced:
            return reading
    raise Disagreement("the source sends pages of a few bars only")


# --- what lies after the last bar ---------------------------------------------------------------


class _Tail:
    """What is known of the bars from ``from_ms`` to the window's end: all of it proved or rest."""

    __slots__ = ("from_ms", "proof", "rest")

    def __init__(self, from_ms: int, rest: Rest | None = None, proof: Proof | None = None) -> None:
        self.from_ms = from_ms
        self.rest = rest
        self.proof = proof


def _tail(reading: Reading) -> Steps[_Tail]:
    window = reading.window
    if reading.right_ms is not None and reading.right_ms >= window.hi_ms:
        return _Tail(window.hi_ms)
    if reading.right_ms is not None:
        clock_ms = yield from ask_clock()
        return _Tail(reading.right_ms, _unclosed(window, reading.right_ms, clock_ms))
    # The clock first, then the question: what had closed by then must be in the answer.
    clock_ms = yield from ask_clock()
    second = yield from _ask_end_again(reading)
    from_ms = reading.confirm_end(second)
    if from_ms >= window.hi_ms:
        return _Tail(window.hi_ms)
    closed_ms = window.closed_before(clock_ms)
    if not window.dense:
        to_ms = max(window.lo_ms, min(window.hi_ms, closed_ms))
        rest = _unclosed(window, to_ms, clock_ms) if to_ms < window.hi_ms else None
        return _Tail(to_ms, rest)
    if closed_ms < window.hi_ms:
        return _Tail(from_ms, _unclosed(window, from_ms, clock_ms))
    return (yield from _explain_end(reading, from_ms))


def _ask_end_again(reading: Reading) -> Steps[Answered]:
    """Ask once more from a little further left, at least the proof's distance later."""
    window, first = reading.window, reading.pages[-1]
    start_ms = max(0, first.ask.start_ms - 3 * window.interval_ms)
    if start_ms == first.ask.start_ms:
        start_ms += window.interval_ms
    return (
        yield from ask(
            start_ms, min(window.page_bars, first.ask.limit_bars + 4), after_ms=first.at_ms
        )
    )


def _explain_end(reading: Reading, from_ms: int) -> Steps[_Tail]:
    """Say why a closed bar has no right neighbour: delisted, or an outage that still goes on."""
    window = reading.window
    hole = Hole(start_ms=from_ms, end_ms=window.hi_ms, left_ms=None, right_ms=None)
    if (yield from ask_trading()):
        detail = f"no bar from {from_ms} on, and the symbol is trading: nothing can be proved yet"
        return _Tail(from_ms, Unproved(code="no_right_neighbour", detail=detail))
    proof = yield from find_end(reading, hole)
    if proof is None:
        detail = "the source has no bar of this symbol at all"
        return _Tail(from_ms, Unproved(code="no_right_neighbour", detail=detail))
    return _Tail(from_ms, proof=proof)


def _unclosed(window: Window, from_ms: int, clock_ms: int) -> Unclosed:
    """Wait until the last bar has closed and settled, but look again within the hour."""
    delay_ms = window.hi_ms + window.settle_ms - clock_ms
    return Unclosed(from_ms=from_ms, delay_ms=min(max(delay_ms, 1_000), _SNOOZE_MS_MAX))


# --- the verdict --------------------------------------------------------------------------------


def _verdict(
    reading: Reading, proofs: tuple[Proof, ...], tail: _Tail, *, rest: Rest | None
) -> Filled:
    """Put together what is covered (present bars), proved absent, and left."""
    everything = proofs if tail.proof is None else (*proofs, tail.proof)
    gaps = tuple(proof.gap for proof in everything)
    return Filled(
        bars=reading.bars,
        covered=_runs(reading.bars, reading.window.interval_ms),
        gaps=tuple(sorted(gaps, key=_start)),
        listed_from=next((p.listed_from for p in everything if p.listed_from), None),
        delisted_at=next((p.delisted_at for p in everything if p.delisted_at), None),
        rest=rest,
    )


def _settle_sparse(reading: Reading, tail: _Tail) -> Steps[Filled]:
    """Cover a sparse series whole as far as it was read: absence says nothing there.

    Only a window without any bar is asked for twice: one answer alone must not empty it.
    """
    window = reading.window
    if not len(reading.bars) and reading.right_ms is not None:
        reading.agree((yield from _ask_end_again(reading)))
    end_ms = tail.from_ms
    covered = ((window.lo_ms, end_ms),) if end_ms > window.lo_ms else ()
    return Filled(
        bars=reading.bars.between(window.lo_ms, end_ms),
        covered=covered,
        gaps=(),
        listed_from=None,
        delisted_at=None,
        rest=tail.rest,
    )


def _nothing_to_explain() -> Filled:
    return Filled(
        bars=Bars.empty(), covered=(), gaps=(), listed_from=None, delisted_at=None, rest=None
    )


def _start(gap: GapRange) -> int:
    return gap.start_ms


def _runs(bars: Bars, interval_ms: int) -> tuple[Span, ...]:
    """Return the maximal runs of neighbouring bars as half-open ranges."""
    times = bars.ts_ms
    if not len(times):
        return ()
    breaks = np.flatnonzero(np.diff(times) != interval_ms)
    starts = times[np.concatenate(([0], breaks + 1))]
    ends = times[np.concatenate((breaks, [len(times) - 1]))] + interval_ms
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))
