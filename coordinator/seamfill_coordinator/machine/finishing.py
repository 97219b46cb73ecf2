"""How a backfill ends: complete, incomplete or cancelled; pause and resume.

Owns changes of ``Backfill.state``. A finished backfill stays in a ring for people to look at.
"""

from __future__ import annotations

from seamfill_coordinator.machine.commands import CancelBackfill, PauseBackfill, ResumeBackfill
from seamfill_coordinator.machine.facts import wanted_within
from seamfill_coordinator.machine.model import Backfill, BackfillState, State, Waiting
from seamfill_coordinator.machine.outcomes import Done, Outcome, RejectReason
from seamfill_coordinator.machine.schedule import activate, deactivate
from seamfill_coordinator.machine.tables import emit, forget, refused, touch
from seamfill_coordinator.machine.tasks import clear_tasks, drop_unwanted_redo

__all__ = ["cancel", "finish_if_done", "finish_pending", "pause", "resume"]


def finish_pending(state: State) -> None:
    """Finish the backfills whose last open bar got its fact in the present operation."""
    pending, state.finishing = state.finishing, []
    for backfill in pending:
        finish_if_done(state, backfill)


def finish_if_done(state: State, backfill: Backfill) -> None:
    """Finish a backfill when every wanted bar has a fact and no redo is pending on any."""
    if backfill.state.is_open and backfill.open_bars == 0:
        is_whole = backfill.fact_bars[2] == 0 and not _has_failed_redo(backfill)
        _end(state, backfill, BackfillState.COMPLETE if is_whole else BackfillState.INCOMPLETE)


def cancel(state: State, op: CancelBackfill) -> Outcome:
    """Remove a backfill's wanted set; waiting parts that nobody else wants are dropped."""
    backfill = state.backfills.get(op.backfill_id)
    if backfill is None:
        return refused(RejectReason.NOT_FOUND, f"no backfill {op.backfill_id!r}")
    if backfill.state is BackfillState.CANCELLED:
        return Done()
    if not backfill.state.is_open:
        return refused(RejectReason.WRONG_STATE, f"it is {backfill.state.name.lower()}")
    wants = list(backfill.wants)
    _end(state, backfill, BackfillState.CANCELLED)
    for want in wants:
        series = want.series
        for start, end in want.ranges:
            for a, b in _complement(wanted_within(series, start, end), start, end):
                for s, e, task in series.tasks.within(a, b):
                    if type(task) is Waiting:
                        clear_tasks(state, series, s, e)
                for s, e in series.tasks.holes(a, b):  # leased parts: when their lease ends
                    drop_unwanted_redo(state, series, s, e, [])
    return Done()


def pause(state: State, op: PauseBackfill) -> Outcome:
    """Grant nothing for this backfill until it is resumed."""
    backfill = state.backfills.get(op.backfill_id)
    if backfill is None:
        return refused(RejectReason.NOT_FOUND, f"no backfill {op.backfill_id!r}")
    if backfill.state is BackfillState.PAUSED:
        return Done()
    if backfill.state is not BackfillState.ACTIVE:
        return refused(RejectReason.WRONG_STATE, f"it is {backfill.state.name.lower()}")
    deactivate(state, backfill)
    backfill.state = BackfillState.PAUSED
    touch(state, backfill)
    emit(state, "backfill.paused", ("backfill", backfill.id))
    return Done()


def resume(state: State, op: ResumeBackfill) -> Outcome:
    """Let a paused backfill go on."""
    backfill = state.backfills.get(op.backfill_id)
    if backfill is None:
        return refused(RejectReason.NOT_FOUND, f"no backfill {op.backfill_id!r}")
    if backfill.state is BackfillState.ACTIVE:
        return Done()
    if backfill.state is not BackfillState.PAUSED:
        return refused(RejectReason.WRONG_STATE, f"it is {backfill.state.name.lower()}")
    backfill.state = BackfillState.ACTIVE
    activate(state, backfill)
    touch(state, backfill)
    emit(state, "backfill.resumed", ("backfill", backfill.id))
    return Done()


def _end(state: State, backfill: Backfill, final: BackfillState) -> None:
    if backfill.state is BackfillState.ACTIVE:
        deactivate(state, backfill)
    for want in backfill.wants:
        del want.series.wants[backfill.sequence]
    backfill.wants = []
    backfill.state = final
    touch(state, backfill)
    state.finished.append(backfill)
    emit(
        state,
        "backfill.finished",
        ("backfill", backfill.id, "state", final.name.lower(), "bars", backfill.bars),
    )
    while len(state.finished) > state.limits.finished_backfills:
        oldest = state.finished.popleft()
        del state.backfills[oldest.id]
        forget(state, oldest)


def _has_failed_redo(backfill: Backfill) -> bool:
    """Tell whether this redo could not replace some older fact; readers keep that one."""
    return backfill.redo is not None and any(
        want.series.redo_failed.touches(start, end)
        for want in backfill.wants
        for start, end in want.ranges
    )


def _complement(spans: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    found = []
    at = start
    for a, b in [*spans, (end, end)]:
        if a > at:
            found.append((at, a))
        at = max(at, b)
    return found
