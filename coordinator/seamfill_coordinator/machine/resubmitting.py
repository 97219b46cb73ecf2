"""What a backfill asked for, so that it can be asked for again.

A pure read. Must not know why it is asked again.
"""

from __future__ import annotations

from seamfill.protocol.backfills import BackfillRequest, Wanted
from seamfill.protocol.values import Redo
from seamfill_coordinator.machine.machine import LeaseMachine

__all__ = ["resubmission"]


def resubmission(machine: LeaseMachine, backfill_id: str, redo: Redo) -> BackfillRequest | None:
    """Return a request for the same ranges with ``redo``, or None when the id is not known."""
    backfill = machine.state.backfills.get(backfill_id)
    if backfill is None:
        return None
    wanted = tuple(
        Wanted(symbol=symbol, start_ms=start_ms, end_ms=end_ms)
        for symbol, ranges in backfill.wanted
        for start_ms, end_ms in ranges
    )
    return BackfillRequest(
        dataset=backfill.dataset.name,
        spec=backfill.dataset.spec,
        wanted=wanted,
        window_bars=backfill.window_bars,
        priority=backfill.priority,
        deadline_ms=backfill.deadline_ms,
        redo=redo,
    )
