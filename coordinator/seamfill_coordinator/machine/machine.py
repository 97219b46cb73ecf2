"""The lease machine. (Being built; the interface is in CONTRACT.md.)"""

from __future__ import annotations

from seamfill_coordinator.machine.commands import Command
from seamfill_coordinator.machine.outcomes import Applied


class LeaseMachine:
    """The replicated state; ``apply`` is its only door."""

    rev: int
    clock_ms: int
    fence: int

    def apply(self, command: Command) -> Applied:
        raise NotImplementedError
