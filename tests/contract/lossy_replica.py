"""A machine of one whose answers can be lost: the command is applied, the proposer never hears.

A shipped fake for what a dying leader does; everything but the loss is ``SoloReplica``.
"""

from __future__ import annotations

from seamfill.clock import Clock
from seamfill_coordinator.machine.commands import Request
from seamfill_coordinator.machine.outcomes import Reply
from seamfill_coordinator.raft.solo import SoloReplica
from seamfill_coordinator.replication import ProposalOutcomeUnknown


class LossyReplica(SoloReplica):
    """Loses the next ``losing`` replies."""

    def __init__(self, *, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.losing = 0
        self.asked: list[Request] = []

    async def propose(self, request: Request, *, timeout_ms: int) -> Reply:
        self.asked.append(request)
        reply = await super().propose(request, timeout_ms=timeout_ms)
        if self.losing > 0:
            self.losing -= 1
            raise ProposalOutcomeUnknown("the reply was lost")
        return reply
