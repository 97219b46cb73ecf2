"""Deliberate bugs, one promise broken by each, to prove that the rig would notice.

Owns the bugs, as changes of the real program while a context lasts, and what runs each needs to
show itself. Must not know how runs are made or counted (``canaries.py``). Nothing here can be
switched on outside the simulator.

Each bug is one that a careful programmer could write, or that the library below has by itself. A
plan is *tuned* by adding the faults without which the bug has no occasion: a disk that keeps what
was never synced shows nothing until the power goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from seamfill_chaos.checkers.liveness import check_terms
from seamfill_chaos.checkers.violation import Violation
from seamfill_chaos.disk import SimulatedFile
from seamfill_chaos.sim.network import Weather
from seamfill_chaos.sim.node import Node
from seamfill_chaos.sim.plan import Fault, Plan
from seamfill_chaos.sim.workload import WorkloadPlan
from seamfill_chaos.sim.world import World
from seamfill_coordinator.machine import claims, sessions
from seamfill_coordinator.machine import machine as machine_module
from seamfill_coordinator.machine.commands import Announce, Claim
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.model import ClaimRow, State
from seamfill_coordinator.machine.outcomes import Outcome, Rejected, RejectReason
from seamfill_coordinator.machine.tables import forget, touch
from seamfill_coordinator.raft import feeding
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.compaction import Compaction
from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.elections import Elections
from seamfill_coordinator.raft.guard import CoreView, Guard, Heartbeat, Verdict
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.journal_format import term_at
from seamfill_coordinator.raft.membership import ConfigurationLog
from seamfill_coordinator.raft.messages import Append
from seamfill_coordinator.raft.outbox import Outbox
from seamfill_coordinator.raft.reign import Reign
from seamfill_coordinator.raft.replica import PysyncobjReplica
from seamfill_coordinator.replication import NotLeader

__all__ = ["CANARIES", "Canary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One bug."""

    bug: str
    """What is wrong, in one sentence."""
    caught_by: tuple[str, ...]
    """One of these stands in the text of the violation: a checker, or the shell's own alarm."""
    within_seeds: int
    """So many runs of tuned plans, from seed 1 on, must be enough to see it."""
    patch: Callable[[], AbstractContextManager[None]]
    tune: Callable[[Plan], Plan]
    also: Callable[[World], list[Violation]] | None = None
    """A check that holds for tuned plans only."""


@contextmanager
def _changed(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Let ``name`` of ``owner`` mean something else while this lasts."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    with ExitStack() as stack:
        for owner, name, original in before:
            stack.callback(setattr, owner, name, original)
        for owner, name, broken in changes:
            setattr(owner, name, broken)
        yield


def _with(
    *, compacts: bool = False, every_s: dict[Fault, float], **changes: Any
) -> Callable[[Plan], Plan]:
    """Return a tuning: no faults but these, with their mean time between two, on three nodes."""
    if compacts:
        changes |= {"snapshot_every": 25, "keep_entries": 0}

    def tune(plan: Plan) -> Plan:
        return replace(plan, nodes=3, clock_rates=(), faults=dict(every_s), **changes)

    return tune


# The disk


def _no_fsync() -> AbstractContextManager[None]:
    def sync_data(file: SimulatedFile) -> None:
        file._disk._step("sync", file._inode.path)

    return _changed((SimulatedFile, "sync_data", sync_data))


def _vote_synced_with_the_next_entry() -> AbstractContextManager[None]:
    original = DurableJournal.sync

    def sync(journal: DurableJournal) -> None:
        if journal._keep != journal._next - 1:
            original(journal)

    return _changed((DurableJournal, "sync", sync))


def _answer_before_sync() -> AbstractContextManager[None]:
    original = Outbox.flush

    def flush(outbox: Outbox) -> None:
        waiting, outbox._waiting = outbox._waiting, []
        for node_id, message in waiting:
            outbox._wire.send(node_id, message)
        outbox._wire.flush()
        original(outbox)

    return _changed((Outbox, "flush", flush))


def _trim_before_durable() -> AbstractContextManager[None]:
    original = Compaction.step

    def step(
        compaction: Compaction,
        machine: Callable[[], LeaseMachine],
        core: Core,
        configurations: ConfigurationLog,
    ) -> bool:
        if compaction._writer is None and compaction._is_due(core.applied_index):
            core.trim(core.applied_index)
            configurations.trimmed(core.applied_index)
            core._journal.sync()
        return original(compaction, machine, core, configurations)

    return _changed((Compaction, "step", step))


def _sessions_not_in_snapshots() -> AbstractContextManager[None]:
    original = Applier.restart_from

    def restart_from(applier: Applier, machine: LeaseMachine, index: int) -> None:
        state = machine.state
        for session in state.sessions.values():
            forget(state, session)
        state.sessions.clear()
        state.session_bytes = 0
        original(applier, machine, index)

    return _changed((Applier, "restart_from", restart_from))


# Messages


def _guard_off() -> AbstractContextManager[None]:
    """What the core does by itself: truncate behind a matching prefix, known entries or not.

    One entry an append, so that small logs take several, as large ones do.
    """

    def judge(guard: Guard, message: Append) -> Verdict:
        core: CoreView = guard._core
        if message.term < core.term:
            return Verdict()
        if term_at(core.log, message.previous_index) == message.previous_term:
            return Verdict(deliver=message)
        return guard._refusal(message)

    return _changed((Guard, "judge", judge), (feeding, "_ENTRIES_PER_APPEND", 1))


def _commit_not_clamped() -> AbstractContextManager[None]:
    original = Guard.judge

    def judge(guard: Guard, message: Append) -> Verdict:
        verdict = original(guard, message)
        if isinstance(verdict.deliver, Heartbeat):
            commit_index = min(message.commit_index, guard._core.log[-1][1])
            heartbeat = Heartbeat(term=message.term, commit_index=commit_index)
            return msgspec.structs.replace(verdict, deliver=heartbeat)
        return verdict

    return _changed((Guard, "judge", judge))


def _commit_without_quorum() -> AbstractContextManager[None]:
    """The leader answers when its own disk has the entry."""
    original = Core.tick

    def tick(core: Core) -> None:
        if core.is_leader:
            for node in core._core._SyncObj__raftMatchIndex:
                core._core._SyncObj__raftMatchIndex[node] = core.last_index
        original(core)

    return _changed((Core, "tick", tick))


# Elections and members


def _no_pre_vote() -> AbstractContextManager[None]:
    """Every voter campaigns when its time has come, and votes though it hears a leader."""

    def has_majority(elections: Elections, voters: object, term: int) -> bool:
        return elections._asked_term == term

    def hears_leader(elections: Elections, now_ms: int) -> bool:
        return False

    return _changed(
        (Elections, "has_majority", has_majority), (Elections, "hears_leader", hears_leader)
    )


def _incarnation_forgotten() -> AbstractContextManager[None]:
    """A node that lost its disk comes back as who it was."""
    original = Node._begin_anew

    def begin_anew(node: Node) -> None:
        incarnation = node.incarnation
        original(node)
        node.incarnation = incarnation or node.incarnation

    return _changed((Node, "_begin_anew", begin_anew))


# Reads and time


def _read_without_barrier() -> AbstractContextManager[None]:
    async def barrier(replica: PysyncobjReplica, *, timeout_ms: int) -> None:
        if replica._reign is None:
            raise NotLeader(replica._leader_id)

    return _changed((PysyncobjReplica, "barrier", barrier))


def _tick_from_wall_clock() -> AbstractContextManager[None]:
    original = Reign.__init__
    stamp = Reign.stamp

    def begin(reign: Reign, *, term: int, clock: Any) -> None:
        original(reign, term=term, clock=clock)
        reign._began_ms = clock.wall_ms()

    def from_wall(reign: Reign) -> Any:
        reign_ms = max(reign._clock.wall_ms() - reign._began_ms, 0)
        return msgspec.structs.replace(stamp(reign), reign_ms=reign_ms)

    return _changed((Reign, "__init__", begin), (Reign, "stamp", from_wall))


# The machine


@contextmanager
def _handler(kind: type, broken: Callable[[State, Any], Outcome]) -> Iterator[None]:
    original = machine_module._HANDLERS[kind]
    machine_module._HANDLERS[kind] = broken
    try:
        yield
    finally:
        machine_module._HANDLERS[kind] = original


def _ttl_anew_for_each_leader() -> AbstractContextManager[None]:
    original = machine_module._HANDLERS[Announce]

    def announce(state: State, op: Announce) -> Outcome:
        for row in state.claims.values():
            row.deadline_ms = state.clock_ms + 3_000
            touch(state, row)
        state.claim_deadlines[:] = sorted(
            (row.deadline_ms, row.fence) for row in state.claims.values()
        )
        return original(state, op)

    return _handler(Announce, announce)


def _fence_ignored() -> AbstractContextManager[None]:
    original = claims.find_claim

    def find(state: State, key: str, token: str) -> ClaimRow | Rejected:
        found = original(state, key, token)
        if isinstance(found, Rejected) and found.reason is RejectReason.STALE_FENCE:
            return claims._live_at(state, key) or found
        return found

    return _changed((claims, "find_claim", find))


def _two_holders() -> AbstractContextManager[None]:
    """A claim that lives for less than 0.2 s more is granted away."""
    original = machine_module._HANDLERS[Claim]

    def claim(state: State, op: Claim) -> Outcome:
        clock_ms = state.clock_ms
        state.clock_ms += 200
        try:
            return original(state, op)
        finally:
            state.clock_ms = clock_ms

    return _handler(Claim, claim)


def _repetition_applied_again() -> AbstractContextManager[None]:
    def store(state: State, request: Any, reply: Any) -> None:
        pass

    return _changed((sessions, "store", store))


_BUSY: Final = WorkloadPlan(claimers=10, fillers=0, think_s=0.1, together=0.0, nearby_reads=0.0)
_POWER: Final = {Fault.POWER: 6.0, Fault.POWER_ALL: 8.0, Fault.CRASH_AT_STEP: 6.0}
_CUTS: Final = {Fault.ISOLATE: 8.0, Fault.ONE_WAY: 8.0, Fault.PAUSE: 8.0, Fault.RESET: 4.0}


def _few_terms(world: World) -> list[Violation]:
    """In calm weather a cut costs one leader at most; a deaf node alone used 28 terms in a run."""
    cuts = world.moments["fault.one_way"]
    return check_terms(world.observer.agreement.highest_term, disturbances=cuts)


CANARIES: Final = {
    "skip-fsync": Canary(
        bug="the journal writes its groups and never syncs them",
        caught_by=("agreement", "durability", "refuses to start"),
        within_seeds=3,
        patch=_no_fsync,
        tune=_with(every_s=_POWER),
    ),
    "vote-not-persisted": Canary(
        bug="term and vote are made durable with the next entry, and the vote leaves before",
        caught_by=("agreement",),
        within_seeds=3,
        patch=_vote_synced_with_the_next_entry,
        tune=_with(every_s={Fault.CRASH_VOTER: 0.5, Fault.KILL: 2.0, Fault.ISOLATE: 3.0}),
    ),
    "answer-before-sync": Canary(
        bug="acknowledgements and votes leave before the journal is synced",
        caught_by=("agreement", "durability"),
        within_seeds=10,
        patch=_answer_before_sync,
        tune=_with(every_s={Fault.POWER: 2.0, Fault.CRASH_AT_STEP: 1.0}),
    ),
    "trim-before-durable": Canary(
        bug="the log is trimmed when a snapshot is begun",
        caught_by=("refuses to start",),
        within_seeds=10,
        patch=_trim_before_durable,
        tune=_with(compacts=True, every_s={Fault.CRASH_AT_STEP: 1.0}),
    ),
    "sessions-not-in-snapshot": Canary(
        bug="a node that starts from a snapshot knows no sessions",
        caught_by=("agreement", "replay", "durability"),
        within_seeds=3,
        patch=_sessions_not_in_snapshots,
        tune=_with(compacts=True, every_s={Fault.KILL: 5.0, Fault.ISOLATE: 10.0}),
    ),
    "guard-off": Canary(
        bug="the core truncates whatever follows a matching prefix",
        caught_by=("agreement",),
        within_seeds=5,
        patch=_guard_off,
        tune=_with(every_s=_CUTS),
    ),
    "commit-not-clamped": Canary(
        bug="a heartbeat commits a follower's own tail, verified or not",
        caught_by=("agreement", "SafetyViolation"),
        within_seeds=10,
        patch=_commit_not_clamped,
        tune=_with(every_s={Fault.ISOLATE: 4.0, Fault.PAUSE: 4.0}),
    ),
    "commit-without-quorum": Canary(
        bug="the leader answers when its own disk has the entry",
        caught_by=("agreement", "durability", "SafetyViolation"),
        within_seeds=3,
        patch=_commit_without_quorum,
        tune=_with(every_s={Fault.ISOLATE: 6.0, Fault.PAUSE: 6.0}),
    ),
    "no-pre-vote": Canary(
        bug="whoever hears nobody campaigns, and is voted for though there is a leader",
        caught_by=("liveness",),
        within_seeds=10,
        patch=_no_pre_vote,
        tune=_with(every_s={Fault.ONE_WAY: 4.0}, weather=Weather(), slow_syncs=0.0),
        also=_few_terms,
    ),
    "incarnation-ignored": Canary(
        bug="a node that lost its disk comes back as who it was",
        caught_by=("agreement", "SafetyViolation"),
        within_seeds=3,
        patch=_incarnation_forgotten,
        tune=_with(every_s={Fault.WIPE: 2.0}),
    ),
    "read-without-barrier": Canary(
        bug="who believes to lead answers reads from its own state at once",
        caught_by=("durability", "linearizability"),
        within_seeds=20,
        patch=_read_without_barrier,
        tune=_with(every_s={Fault.ISOLATE: 2.0, Fault.PAUSE: 1.0}, workload=_BUSY),
    ),
    "clock-from-the-wall": Canary(
        bug="the lease clock follows the leader's wall clock",
        caught_by=("linearizability",),
        within_seeds=5,
        patch=_tick_from_wall_clock,
        tune=_with(every_s={Fault.WALL_JUMP: 1.0}),
    ),
    "ttl-anew-with-each-leader": Canary(
        bug="every claim gets a full ttl when a leader begins",
        caught_by=("replay",),
        within_seeds=5,
        patch=_ttl_anew_for_each_leader,
        tune=_with(every_s={Fault.KILL: 4.0}),
    ),
    "stale-token-accepted": Canary(
        bug="a claim can be ended with an old token",
        caught_by=("replay",),
        within_seeds=2,
        patch=_fence_ignored,
        tune=_with(every_s={Fault.KILL: 10.0}),
    ),
    "two-holders": Canary(
        bug="a claim is granted away 0.2 s before it ends",
        caught_by=("replay",),
        within_seeds=2,
        patch=_two_holders,
        tune=_with(every_s={Fault.KILL: 10.0}),
    ),
    "repetitions-take-effect": Canary(
        bug="sessions keep no replies",
        caught_by=("replay",),
        within_seeds=2,
        patch=_repetition_applied_again,
        tune=_with(every_s={Fault.KILL: 5.0, Fault.ISOLATE: 5.0}),
    ),
}
"""Name → bug. Each is caught within its number of seeds, or the rig is broken."""
