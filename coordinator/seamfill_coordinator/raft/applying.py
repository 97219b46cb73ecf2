"""The only door through which the log reaches the machine of one node.

Owns the order of what happens at an index: digest point, version check, apply, listeners. Must not
know Raft or pysyncobj: it is told indexes.

Invariants: an index is applied once; a listener that raises changes nothing; an entry of a newer
machine version is never skipped, because the states would differ from there on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar, Final

from seamfill.errors import SeamfillError
from seamfill.logs import log_event
from seamfill_coordinator.machine.codec import apply_encoded, command_version
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.machine.steering import NEWEST_VERSION
from seamfill_coordinator.raft.digests import DigestPoints

__all__ = ["MAX_UNHASHED_ROWS", "Applier", "MachineTooOld"]

MAX_UNHASHED_ROWS: Final = 2_048
"""Rows that may wait for the next digest point. Hashing one takes 2 µs, and up to 1 µs more for
each piece of a series; between two points 64 large commands could change a hundred thousand, and a
digest, or the capture of a snapshot, would keep the loop for as long as all of them need. Half as
many, and rows that change often would be hashed so often that a busy leader feels it."""

_log = logging.getLogger("seamfill.coordinator.raft")


class MachineTooOld(SeamfillError):
    """The log was written for a newer machine version; upgrade this node, then start it again."""

    code: ClassVar[str] = "machine_too_old"


class Applier:
    """One machine, and who hears what was done to it."""

    def __init__(self, machine: LeaseMachine) -> None:
        self.machine = machine
        self.digests = DigestPoints(machine.state_digest)
        self.quiet_until = 0
        """Listeners hear nothing up to this index: a restart replays what was told before."""
        self._listeners: list[Callable[[Applied], None]] = []

    def add_listener(self, listener: Callable[[Applied], None]) -> None:
        self._listeners.append(listener)

    def restart_from(self, machine: LeaseMachine, index: int) -> None:
        """Go on with the machine of a snapshot, whose last entry was ``index``.

        Listeners hear of one change without replies: what happened between can not be told one by
        one, but who waits for anything should look again.
        """
        self.machine = machine
        self.digests.restart_from(machine.state_digest, index)
        if index > self.quiet_until:
            self._tell(Applied(replies=()))

    def apply(self, index: int, command: bytes) -> Applied:
        """Apply the entry at ``index``; bytes that are no command change nothing.

        Raises ``MachineTooOld``. Any other exception is our own bug in the machine. Both must end
        the process.
        """
        self.digests.reached(index - 1)
        version = command_version(command) or 0
        if version > NEWEST_VERSION:
            raise MachineTooOld(
                f"index {index} needs machine version {version}; this is {NEWEST_VERSION}"
            )
        applied = apply_encoded(self.machine, command)
        if self.machine.changed_rows > MAX_UNHASHED_ROWS:
            self.machine.hash_changed_rows()
        if index > self.quiet_until:
            self._tell(applied)
        return applied

    def _tell(self, applied: Applied) -> None:
        for listener in self._listeners:
            try:
                listener(applied)
            except Exception as exc:  # the core would apply the entry again on this node alone
                log_event(_log, "replica.listener_failed", level=logging.ERROR, exc=exc)
