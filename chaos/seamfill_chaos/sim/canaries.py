"""Deliberate bugs, each of which the simulation must find.

Owns the bugs and how many seeds finding one may take. A canary is a patch around real classes for
as long as it is switched on; the program itself carries no flags for bugs. Must not know how they
are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from dataclasses import replace as with_fields
from heapq import heappush
from pathlib import Path
from typing import Any, Final

import msgspec

from seamfill_chaos.disk import SimulatedDisk, SimulatedFile
from seamfill_coordinator.machine import claims, sessions
from seamfill_coordinator.machine.commands import Command, Request, Stamp
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.model import State
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.guard import Guard, Verdict
from seamfill_coordinator.raft.journal_format import Group
from seamfill_coordinator.raft.journal_writer import SegmentWriter
from seamfill_coordinator.raft.membership import Configuration
from seamfill_coordinator.raft.messages import Append, Appended
from seamfill_coordinator.raft.node import RaftNode
from seamfill_coordinator.raft.outbox import Outbox
from seamfill_coordinator.raft.reign import Reign
from seamfill_coordinator.raft.replica import PysyncobjReplica
from seamfill_coordinator.replication import NotLeader, Role

__all__ = ["CANARIES", "Canary", "switched_on"]

Patch = AbstractContextManager[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One bug."""

    bug: str
    """What is wrong, in one line."""
    within_seeds: int
    """Seeds from 1 on, of 120 s each, of which one must find it."""
    patch: Callable[[], Patch]


def switched_on(name: str | None) -> Patch:
    """Put a bug in while the block lasts; None puts in nothing. Raises ``KeyError``."""
    return nullcontext() if name is None else CANARIES[name].patch()


@contextmanager
def _replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Have ``make(original)`` stand in place of a method or function."""
    original = vars(owner)[name]
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


# The disk


@contextmanager
def _skip_fsync() -> Iterator[None]:
    def nothing(file: SimulatedFile) -> None:
        pass

    with ExitStack() as stack:
        for name in ("sync", "sync_data"):
            stack.enter_context(_replaced(SimulatedFile, name, lambda _: nothing))
        yield


@contextmanager
def _snapshot_not_durable() -> Iterator[None]:
    def of_sync(sync: Callable[[SimulatedFile], None]) -> Callable[[SimulatedFile], None]:
        def without_snapshots(file: SimulatedFile) -> None:
            if file.path.parent.name != "snapshots":
                sync(file)

        return without_snapshots

    def of_sync_directory(
        sync: Callable[[SimulatedDisk, Path], None],
    ) -> Callable[[SimulatedDisk, Path], None]:
        def without_snapshots(disk: SimulatedDisk, directory: Path) -> None:
            if directory.name != "snapshots":
                sync(disk, directory)

        return without_snapshots

    with ExitStack() as stack:
        for name in ("sync", "sync_data"):
            stack.enter_context(_replaced(SimulatedFile, name, of_sync))
        stack.enter_context(_replaced(SimulatedDisk, "sync_directory", of_sync_directory))
        yield


def _vote_not_persisted() -> Patch:
    def of_write(write: Callable[[SegmentWriter, Group], int]) -> Callable[..., int]:
        return lambda writer, group: write(writer, with_fields(group, vote=None))

    return _replaced(SegmentWriter, "write", of_write)


def _answer_before_sync() -> Patch:
    def of_flush(flush: Callable[[Outbox], None]) -> Callable[[Outbox], None]:
        def send_first(outbox: Outbox) -> None:
            waiting, outbox._waiting = outbox._waiting, []
            for node_id, message in waiting:
                outbox._wire.send(node_id, message)
            outbox._wire.flush()
            flush(outbox)

        return send_first

    return _replaced(Outbox, "flush", of_flush)


# Consensus


def _guard_off() -> Patch:
    def let_through(guard: Guard, message: Append) -> Verdict:
        return Verdict(deliver=message)

    return _replaced(Guard, "judge", lambda _: let_through)


def _old_acknowledgements_count() -> Patch:
    def of_take(take: Callable[[RaftNode, str, Appended], None]) -> Callable[..., None]:
        def in_any_term(node: RaftNode, sender: str, message: Appended) -> None:
            take(node, sender, msgspec.structs.replace(message, term=node.core.term))

        return in_any_term

    return _replaced(RaftNode, "_take_appended", of_take)


def _incarnation_ignored() -> Patch:
    def by_id_alone(configuration: Configuration, node_id: str, incarnation: str) -> bool:
        return any(member.node_id == node_id for member in configuration.voters)

    return _replaced(Configuration, "is_voter", lambda _: by_id_alone)


def _read_without_barrier() -> Patch:
    async def believe_oneself(replica: PysyncobjReplica, *, timeout_ms: int) -> None:
        status = replica.status()
        if status.role is not Role.LEADER:
            raise NotLeader(status.leader_id)

    return _replaced(PysyncobjReplica, "barrier", lambda _: believe_oneself)


# The machine


def _sessions_not_in_snapshot() -> Patch:
    def of_restart(restart: Callable[[Applier, LeaseMachine, int], None]) -> Callable[..., None]:
        def without_sessions(applier: Applier, machine: LeaseMachine, index: int) -> None:
            machine.state.sessions.clear()
            restart(applier, machine, index)

        return without_sessions

    return _replaced(Applier, "restart_from", of_restart)


def _clock_from_the_wall() -> Patch:
    def of_stamp(stamp: Callable[[Reign], Stamp]) -> Callable[[Reign], Stamp]:
        def by_the_wall(reign: Reign) -> Stamp:
            right = stamp(reign)
            return msgspec.structs.replace(right, reign_ms=max(right.wall_ms, 0))

        return by_the_wall

    return _replaced(Reign, "stamp", of_stamp)


def _ttl_anew_with_each_leader() -> Patch:
    def of_apply(apply: Callable[[LeaseMachine, Command], Applied]) -> Callable[..., Applied]:
        def generous(machine: LeaseMachine, command: Command) -> Applied:
            state = machine.state
            if command.stamp.term > state.term:
                for row in state.claims.values():
                    row.deadline_ms += 1_000
                    heappush(state.claim_deadlines, (row.deadline_ms, row.fence))
            return apply(machine, command)

        return generous

    return _replaced(LeaseMachine, "apply", of_apply)


def _repetitions_take_effect() -> Patch:
    def forgetful(state: State, request: Request) -> None:
        return None

    return _replaced(sessions, "look_up", lambda _: forgetful)


def _stale_token_accepted() -> Patch:
    def of_find(find: Callable[..., Any]) -> Callable[..., Any]:
        def whoever(state: State, key: str, token: str) -> Any:
            return claims._live_at(state, key) or find(state, key, token)

        return whoever

    return _replaced(claims, "find_claim", of_find)


CANARIES: Final = {
    "skip-fsync": Canary(bug="nothing is ever synced", within_seeds=20, patch=_skip_fsync),
    "snapshot-not-durable": Canary(
        bug="the journal is trimmed before the snapshot is durable",
        within_seeds=50,
        patch=_snapshot_not_durable,
    ),
    "vote-not-persisted": Canary(
        bug="a vote is not written to the journal", within_seeds=50, patch=_vote_not_persisted
    ),
    "answer-before-sync": Canary(
        bug="acknowledgements and votes leave before the journal is synced",
        within_seeds=100,
        patch=_answer_before_sync,
    ),
    "guard-off": Canary(
        bug="appends reach the core as they come", within_seeds=50, patch=_guard_off
    ),
    "old-acknowledgements-count": Canary(
        bug="acknowledgements of earlier terms are counted",
        within_seeds=100,
        patch=_old_acknowledgements_count,
    ),
    "incarnation-ignored": Canary(
        bug="a wiped node votes and counts as the one it was",
        within_seeds=100,
        patch=_incarnation_ignored,
    ),
    "read-without-barrier": Canary(
        bug="who believes to lead answers reads", within_seeds=50, patch=_read_without_barrier
    ),
    "sessions-not-in-snapshot": Canary(
        bug="a snapshot brings no sessions", within_seeds=20, patch=_sessions_not_in_snapshot
    ),
    "clock-from-the-wall": Canary(
        bug="the lease clock follows the leader's wall clock",
        within_seeds=50,
        patch=_clock_from_the_wall,
    ),
    "ttl-anew-with-each-leader": Canary(
        bug="a change of leader prolongs leases",
        within_seeds=20,
        patch=_ttl_anew_with_each_leader,
    ),
    "repetitions-take-effect": Canary(
        bug="a repeated request is applied again", within_seeds=20, patch=_repetitions_take_effect
    ),
    "stale-token-accepted": Canary(
        bug="a claim is ended by any token", within_seeds=20, patch=_stale_token_accepted
    ),
}
"""Name → bug."""
