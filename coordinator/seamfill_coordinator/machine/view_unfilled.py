"""Why a backfill's bars are not there: given up or put off, by reason.

Pure reads; see ``views``. Speaks of the series as they are now: what another backfill has filled
since is not listed any more, although this one ended incomplete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from seamfill.protocol.backfills import UnfilledView
from seamfill_coordinator.machine.model import Backfill, State, Violation, Waiting

__all__ = ["MAX_UNFILLED", "unfilled"]

MAX_UNFILLED: Final = 20
"""Reasons in one view. Workers name the reasons, so their number has no other bound."""

_State = Literal["violated", "waiting"]


def unfilled(state: State, backfill: Backfill) -> tuple[UnfilledView, ...]:
    """Return why bars of a backfill are not there, the reason with most bars first."""
    interval_ms = backfill.dataset.spec.interval_ms
    found: dict[tuple[_State, str], UnfilledView] = {}
    for view in _pieces(state, backfill, interval_ms):
        known = found.get((view.state, view.reason))
        if known is not None:  # the first piece stays the example
            view = msgspec.structs.replace(known, bars=known.bars + view.bars)
        found[view.state, view.reason] = view
    ordered = sorted(found.values(), key=lambda view: (-view.bars, view.state, view.reason))
    return tuple(ordered[:MAX_UNFILLED])


def _pieces(state: State, backfill: Backfill, interval_ms: int) -> Iterator[UnfilledView]:
    has_violations = backfill.fact_bars[Violation.kind] > 0
    for symbol, spans in backfill.wanted:
        series = state.series.get((backfill.dataset.name, symbol))
        if series is None:
            continue
        for start, end in spans:
            violated: list[tuple[int, int, Violation]] = []
            if has_violations:
                facts = series.facts.within(start, end)
                violated = [(s, e, fact) for s, e, fact in facts if type(fact) is Violation]
            if backfill.redo is not None:
                violated += series.redo_failed.within(start, end)
            for s, e, why in violated:
                yield UnfilledView(
                    state="violated",
                    reason=why.reason,
                    bars=(e - s) // interval_ms,
                    symbol=symbol,
                    start_ms=s,
                    end_ms=e,
                    detail=why.detail,
                )
            # What waits after the backfill's end waits for somebody else.
            for s, e, task in series.tasks.within(start, end) if backfill.state.is_open else ():
                if type(task) is Waiting and task.note:
                    yield UnfilledView(
                        state="waiting",
                        reason=task.note,
                        bars=(e - s) // interval_ms,
                        symbol=symbol,
                        start_ms=s,
                        end_ms=e,
                    )
