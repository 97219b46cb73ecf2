"""What a backfill asked for, so that it can be asked for again.

A pure read. Must not know why it is asked again.
"""

from __future__ import annotations

from seamfill.protocol.backfills import BackfillRequest
from seamfill.protocol.values import Redo
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.machine import LeaseMachine

__all__ = ["resubmission"]


def resubmission(machine: LeaseMachine, backfill_id: str, redo: Redo) -> BackfillRequest | None:
    """Return a request for the same ranges with ``redo``; None when there is nothing to ask."""
    backfill = machine.state.backfills.get(backfill_id)
    if backfill is None:
        return None
    wanted = views.wanted(machine, backfill_id)
    if not wanted:
        return None
    return BackfillRequest(
        dataset=backfill.dataset.name,
        spec=backfill.dataset.spec,
        wanted=wanted,
        window_bars=backfill.window_bars,
        priority=backfill.priority,
        deadline_ms=backfill.deadline_ms,
        redo=redo,
    )
