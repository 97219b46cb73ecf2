"""The simulator's eyes inside the nodes: what they apply, load, say and claim to be.

Owns the taps, and feeds ``checkers.agreement`` with what they see while the run goes on; the first
violation ends the run, so that the trace stops where the damage was done. Must not know what is
right, nor change anything.

The taps are put around methods of the real classes, for as long as a run lasts. Hooks in the
program for this alone would be code that production carries and never runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from seamfill_chaos.checkers.agreement import Agreement, Life
from seamfill_chaos.checkers.liveness import Progress
from seamfill_chaos.sim.node import Node
from seamfill_chaos.sim.process import CURRENT, Process, current_process
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.guard import Heartbeat
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.links import Links
from seamfill_coordinator.raft.messages import Append, Appended, Message, Vote, VoteRequest
from seamfill_coordinator.raft.node import RaftNode
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore
from seamfill_coordinator.replication import Role

__all__ = ["Observer", "SafetyBreach"]


_SPEECH: Final = (Append, Appended)
_VOTES: Final = (Vote, VoteRequest)


class SafetyBreach(Exception):
    """The cluster broke a promise; the text says which."""


class Observer:
    """Sees all nodes of one world."""

    def __init__(self, fail: Callable[[SafetyBreach], None], count: Callable[[str], None]) -> None:
        self.agreement = Agreement()
        self.progress = Progress()
        self.on_vote: Callable[[str], None] = lambda name: None
        """Told the name of a node that has just voted, also for itself."""
        self._fail = fail
        self._count = count
        self._lives: dict[Process, Life] = {}

    def begins(self, node: Node, process: Process) -> None:
        """A process of a node begins."""
        self._lives[process] = Life(node=node.name, incarnation=node.incarnation, number=node.lives)

    def look_at(self, nodes: Iterable[Node], now_ms: int, *, digests: bool = False) -> None:
        """Ask all nodes that serve what they are."""
        for node in nodes:
            if node.replica is None or node.process is None:
                continue
            life, status = self._lives[node.process], node.replica.status()
            self.agreement.observed(
                life,
                term=status.term,
                commit_index=status.commit_index,
                is_leader=status.role is Role.LEADER,
            )
            self.progress.reached(node.name, now_ms, status.applied_index)
            if digests:
                for index, digest in status.digests.items():
                    self.agreement.digested(life, index, digest)
        self._judge()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See what the nodes do while this lasts."""
        taps: list[tuple[type, str, Any]] = [
            (Core, "_apply", self._tap_apply),
            (SnapshotStore, "load", self._tap_load),
            (Core, "install", self._tap_install),
            (Links, "send", self._tap_send),
            (DurableJournal, "deleteEntriesFrom", self._tap_truncate),
            (Core, "deliver_append", self._tap_deliver),
            (RaftNode, "__init__", self._tap_wake),
        ]
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in taps]
        for owner, name, tap in taps:
            setattr(owner, name, tap(getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    # Taps

    def _tap_apply(self, apply: Callable[[Core, bytes], Applied]) -> Callable[..., Applied]:
        agreement = self.agreement

        def tap(core: Core, command: bytes) -> Applied:
            index = core.applied_index + 1
            is_first = index not in agreement.committed
            term = core.log[index - core.first_index][2]
            agreement.applied(self._life, index, term, command)
            self._judge()
            applied = apply(core, command)
            if is_first:
                for event in applied.events:
                    self._count(event.name)
            return applied

        return tap

    def _tap_load(
        self, load: Callable[[SnapshotStore, SnapshotInfo], LeaseMachine]
    ) -> Callable[..., LeaseMachine]:
        def tap(store: SnapshotStore, info: SnapshotInfo) -> LeaseMachine:
            machine = load(store, info)
            self.agreement.loaded(self._life, info.last_index, info.last_term)
            self._judge()
            return machine

        return tap

    def _tap_install(self, install: Callable[..., None]) -> Callable[..., None]:
        def tap(core: Core, *, last_index: int, last_term: int) -> None:
            self.agreement.loaded(self._life, last_index, last_term)
            self._judge()
            install(core, last_index=last_index, last_term=last_term)

        return tap

    def _tap_send(self, send: Callable[[Links, str, Message], bool]) -> Callable[..., bool]:
        agreement = self.agreement
        spoken: dict[Process, int] = {}
        """The term in which a process last spoke as leader or follower: mostly the same one."""

        def tap(links: Links, node_id: str, message: Message) -> bool:
            was_sent = send(links, node_id, message)
            if was_sent:
                process = CURRENT.get()
                assert process is not None, "nodes act in their own process"
                if isinstance(message, _SPEECH):
                    if spoken.get(process) == message.term:
                        return True
                    spoken[process] = message.term
                agreement.sent(self._lives[process], node_id, message)
                self._judge()
                if isinstance(message, _VOTES):
                    self.on_vote(process.name)
            return was_sent

        return tap

    def _tap_truncate(self, delete: Callable[[DurableJournal, int], None]) -> Callable[..., None]:
        def tap(journal: DurableJournal, position: int) -> None:
            if position < len(journal):
                self._count("log.truncated")
            delete(journal, position)

        return tap

    def _tap_deliver(self, deliver: Callable[..., None]) -> Callable[..., None]:
        """The core truncates behind an append's first entry, whatever stands there."""
        agreement = self.agreement

        def tap(core: Core, sender: str, message: Append | Heartbeat) -> None:
            if (
                type(message) is Append
                and core.first_index <= message.previous_index < core.last_index
            ):
                _, index, term = core.log[message.previous_index + 1 - core.first_index]
                for_term = message.entries[0][2] if message.entries else None
                agreement.truncated(self._life, index, term, for_term=for_term)
                self._judge()
            deliver(core, sender, message)

        return tap

    def _tap_wake(self, init: Callable[..., None]) -> Callable[..., None]:
        def tap(node: RaftNode, *args: Any, **options: Any) -> None:
            init(node, *args, **options)
            core = node.core
            self.agreement.woke(self._life, term=core.term, last_index=core.last_index)
            self._judge()

        return tap

    @property
    def _life(self) -> Life:
        process = current_process()
        assert process is not None, "nodes act in their own process"
        return self._lives[process]

    def _judge(self) -> None:
        if self.agreement.violations:
            breach = SafetyBreach(str(self.agreement.violations[0]))
            self._fail(breach)
            raise breach
