"""What must hold at every moment of a run, checked at that moment.

Owns the safety of the log, seen from outside: what each node applies, and who leads which term. The
first breach ends the run, so that the trace stops where the damage was done. Must not know clients;
what they may conclude from their answers is for ``seamfill_chaos.checkers``.

* State machine safety: no two nodes, and no two lives of a node, apply different commands at one
  index; no command is skipped; none is applied twice in one life.
* Election safety: at most one node leads in a term.
* Determinism of the machine: state digests at one index are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seamfill_chaos.sim.process import Process, current_process
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.applying import Applier

__all__ = ["Observer", "SafetyBreach"]


class SafetyBreach(Exception):
    """The cluster broke a promise that consensus makes; the text says which."""


class Observer:
    """All of the cluster's applied log, as the nodes show it."""

    def __init__(self, fail: Callable[[SafetyBreach], None], count: Callable[[str], None]) -> None:
        self.log: dict[int, bytes] = {}
        """Index → command, of all that any node ever applied."""
        self.last_index = 0
        self.leaders: dict[int, str] = {}
        """Term → who led it."""
        self._fail = fail
        self._count = count
        self._applied_by: dict[int, str] = {}
        self._applied: dict[Process, int] = {}
        self._digests: dict[int, tuple[str, str]] = {}

    def applies(self, process: Process, index: int, command: bytes) -> None:
        """A node is about to apply a command."""
        known = self.log.get(index)
        if known is None:
            self.log[index] = command
            self._applied_by[index] = process.name
            if index > self.last_index:
                self.last_index = index
        elif known != command:
            self._breach(
                f"{process.name} applies another command at index {index} than "
                f"{self._applied_by[index]} did"
            )
        last = self._applied.get(process, 0)
        if index <= last:
            self._breach(f"{process.name} applies index {index} after {last}")
        for skipped in range(last + 1, index):
            if skipped in self.log:
                self._breach(f"{process.name} skips the command at index {skipped}")
        self._applied[process] = index

    def restarts_from(self, process: Process, index: int) -> None:
        """A node goes on with the machine of a snapshot."""
        if index < self._applied.get(process, 0):
            self._breach(f"{process.name} installs a snapshot of index {index}, which is older")
        self._applied[process] = index

    def applied_index(self, process: Process) -> int:
        """Return the last index that this life of a node has applied a command at."""
        return self._applied.get(process, 0)

    def leads(self, name: str, term: int) -> None:
        """A node has become the leader of a term."""
        other = self.leaders.setdefault(term, name)
        if other != name:
            self._breach(f"{name} leads term {term}, and so did {other}")

    def digest(self, name: str, index: int, digest: str) -> None:
        """A node tells the digest of its state after an index."""
        other, known = self._digests.setdefault(index, (name, digest))
        if known != digest:
            self._breach(f"{name} and {other} have different states after index {index}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See every command at the only door to a node's machine while this lasts."""
        # Not a listener: those hear replies, without index and bytes, and not what is replayed.
        apply, restart_from = Applier.apply, Applier.restart_from

        def seen_apply(applier: Applier, index: int, command: bytes) -> Applied:
            process = current_process()
            assert process is not None, "nodes apply in their own process"
            is_first = index not in self.log
            self.applies(process, index, command)
            applied = apply(applier, index, command)
            if is_first:
                for event in applied.events:
                    self._count(event.name)
            return applied

        def seen_restart(applier: Applier, machine: LeaseMachine, index: int) -> None:
            process = current_process()
            assert process is not None, "nodes apply in their own process"
            self.restarts_from(process, index)
            restart_from(applier, machine, index)

        Applier.apply, Applier.restart_from = seen_apply, seen_restart  # type: ignore[method-assign]
        try:
            yield
        finally:
            Applier.apply, Applier.restart_from = apply, restart_from  # type: ignore[method-assign]

    def _breach(self, text: str) -> None:
        breach = SafetyBreach(text)
        self._fail(breach)
        raise breach
