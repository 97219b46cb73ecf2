"""The deliberate bugs themselves: whole again afterwards, and with plans in which they can show."""

from __future__ import annotations

import pytest

from seamfill_chaos.disk import SimulatedFile
from seamfill_chaos.sim.canaries import CANARIES, switched_on, tuned
from seamfill_chaos.sim.node import Node
from seamfill_chaos.sim.plan import draw_plan
from seamfill_coordinator.machine import claims, sessions
from seamfill_coordinator.machine import machine as machine_module
from seamfill_coordinator.raft import feeding
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.compaction import Compaction
from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.elections import Elections
from seamfill_coordinator.raft.guard import Guard
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.node import RaftNode
from seamfill_coordinator.raft.outbox import Outbox
from seamfill_coordinator.raft.reign import Reign
from seamfill_coordinator.raft.replica import PysyncobjReplica

PATCHED = (
    *(SimulatedFile, Node, claims, sessions, feeding, Applier, Compaction, Core, Elections),
    *(Guard, DurableJournal, RaftNode, Outbox, Reign, PysyncobjReplica),
)


def program() -> list[object]:
    """All that a bug may have changed, as it is now."""
    return [*(dict(vars(owner)) for owner in PATCHED), dict(machine_module._HANDLERS)]


@pytest.mark.parametrize("name", sorted(CANARIES))
def test_a_bug_is_in_the_program_while_it_is_switched_on_and_no_longer(name: str) -> None:
    before = program()
    with switched_on(name):
        assert program() != before
    assert program() == before


@pytest.mark.parametrize("name", sorted(CANARIES))
def test_a_tuned_plan_has_faults_and_keeps_its_seed(name: str) -> None:
    plan = draw_plan(7, 60.0)
    assert tuned(name, plan).seed == plan.seed
    assert tuned(name, plan).faults
    assert tuned(None, plan) is plan
