"""The lease machine: one door, ``LeaseMachine.apply``; nothing else changes state.

Owns the order in which a command takes effect (stamp, expiries, requests) and the dispatch of
operations. Must not know clocks, I/O, Raft or HTTP. See ``coordinator/DESIGN.md``.

Invariants: ``apply`` answers every command and raises for none; ``rev`` grows by one per applied
operation; ``clock_ms``, ``fence`` and term never decrease; equal logs give equal states whatever
the hash seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from seamfill_coordinator.machine import (
    claims,
    completing,
    digest,
    ending,
    finishing,
    granting,
    restoring,
    sessions,
    snapshot,
    steering,
    submitting,
)
from seamfill_coordinator.machine import commands as op
from seamfill_coordinator.machine.commands import NO_CLIENT, Command, Operation, Request, Stamp
from seamfill_coordinator.machine.model import State
from seamfill_coordinator.machine.outcomes import (
    Applied,
    Done,
    Outcome,
    Rejected,
    RejectReason,
    Reply,
)
from seamfill_coordinator.machine.schedule import release_due
from seamfill_coordinator.machine.tables import refused

__all__ = ["MAX_CLOCK_STEP_MS", "MAX_OPERATIONS", "LeaseMachine"]

MAX_CLOCK_STEP_MS: Final = 2_000
"""A leader that was paused for 30 s must not expire everything at once."""
MAX_OPERATIONS: Final = 4_096
"""Operations in one request; more than any door lets in."""


class LeaseMachine:
    """The replicated state and its only door."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State()

    @property
    def rev(self) -> int:
        """Operations applied so far."""
        return self.state.rev

    @property
    def clock_ms(self) -> int:
        """The lease clock."""
        return self.state.clock_ms

    @property
    def fence(self) -> int:
        """The last fence that was issued."""
        return self.state.fence

    def apply(self, command: Command) -> Applied:
        """Apply one Raft entry and return a reply per request, in order.

        Refusals are values. An exception here is our own bug and must end the process: half a
        command must not stay.
        """
        state = self.state
        if command.version != state.version:
            unfit = refused(RejectReason.UNKNOWN_COMMAND, f"the machine version is {state.version}")
            return Applied(replies=tuple(_refuse(state, r, unfit) for r in command.requests))
        state.new_events = []
        _advance_clock(state, command.stamp)
        state.step += 1
        ending.expire(state)
        claims.expire_claims(state)
        sessions.expire_sessions(state)
        finishing.finish_pending(state)
        release_due(state)
        replies = tuple([_apply_request(state, request) for request in command.requests])
        events = state.new_events
        if events:
            state.events.extend(events)
            while len(state.events) > state.limits.events:
                state.events.popleft()
        return Applied(replies=replies, events=tuple(events))

    def state_digest(self) -> str:
        """Return the digest of the whole state; only rows changed since the last one are hashed."""
        return digest.state_digest(self.state)

    @property
    def changed_rows(self) -> int:
        """How many rows the next digest has to hash, at most."""
        return len(self.state.dirty)

    def hash_changed_rows(self) -> None:
        """Do a part of the next digest's work now; it changes no digest."""
        digest.hash_dirty_rows(self.state)

    def capture(self) -> snapshot.Capture:
        """Return the state as it is now, to be written while commands go on being applied."""
        return snapshot.capture(self.state)

    def snapshot(self) -> bytes:
        """Return the whole state, versioned and checksummed."""
        return snapshot.save(self.state)

    @classmethod
    def restore(cls, data: bytes) -> LeaseMachine:
        """Return the machine of a snapshot.

        Raises ``SnapshotInvalid`` when it is damaged, ``SnapshotVersionUnknown``.
        """
        return cls.of(restoring.restore(data))

    @classmethod
    def of(cls, state: State) -> LeaseMachine:
        """Return the machine that has this state."""
        machine = cls()
        machine.state = state
        return machine


def _advance_clock(state: State, stamp: Stamp) -> None:
    """Move the lease clock by what the leader's monotonic clock moved since its last stamp.

    By 0 for the first stamp of a term, at most 2 s, never back: a proposal that is lost or repeated
    neither loses nor doubles time.
    """
    state.wall_ms = max(0, min(stamp.wall_ms, 1 << 62))
    if stamp.term > state.term:
        state.term = stamp.term
        state.reign_ms = stamp.reign_ms
    elif stamp.term == state.term and stamp.reign_ms > state.reign_ms:
        state.clock_ms += min(MAX_CLOCK_STEP_MS, stamp.reign_ms - state.reign_ms)
        state.reign_ms = stamp.reign_ms


def _apply_request(state: State, request: Request) -> Reply:
    if request.client == NO_CLIENT:
        return _apply_operations(state, request)
    stored = sessions.look_up(state, request)
    if type(stored) is Reply:
        return stored
    if type(stored) is Rejected:
        return _refuse(state, request, stored)
    reply = _apply_operations(state, request)
    sessions.store(state, request, reply)
    return reply


def _apply_operations(state: State, request: Request) -> Reply:
    operations = request.operations
    if len(operations) == 1:  # nearly always
        outcome = _apply_operation(state, operations[0])
        return Reply(outcomes=(outcome,), rev=state.rev)
    if len(operations) > MAX_OPERATIONS:
        return _refuse(state, request, refused(RejectReason.LIMIT_EXCEEDED, "too many operations"))
    outcomes = [_apply_operation(state, operation) for operation in operations]
    return Reply(outcomes=tuple(outcomes), rev=state.rev)


def _apply_operation(state: State, operation: Operation) -> Outcome:
    state.rev += 1
    state.step += 1
    outcome = _HANDLERS[type(operation)](state, operation)
    if state.finishing:
        finishing.finish_pending(state)
    return outcome


def _refuse(state: State, request: Request, refusal: Rejected) -> Reply:
    return Reply(outcomes=(refusal,) * max(1, len(request.operations)), rev=state.rev)


def _barrier(state: State, operation: op.Barrier) -> Outcome:
    return Done()


# Each handler takes its own operation type; the key guarantees the match, which no checker sees.
_HANDLERS: Final[dict[type, Callable[[State, Any], Outcome]]] = {
    op.OpenSession: sessions.open_session,
    op.Barrier: _barrier,
    op.Submit: submitting.submit,
    op.CancelBackfill: finishing.cancel,
    op.PauseBackfill: finishing.pause,
    op.ResumeBackfill: finishing.resume,
    op.PauseSource: steering.pause_source,
    op.ResumeSource: steering.resume_source,
    op.Acquire: granting.acquire,
    op.Renew: granting.renew,
    op.Complete: completing.complete,
    op.Fail: ending.fail,
    op.Release: ending.release,
    op.Snooze: ending.snooze,
    op.Revoke: ending.revoke,
    op.DrainWorker: granting.drain,
    op.Claim: claims.claim,
    op.CompleteClaim: claims.complete_claim,
    op.FailClaim: claims.fail_claim,
    op.Announce: steering.announce,
    op.SetLimits: steering.set_limits,
    op.SetVersion: steering.set_version,
}
