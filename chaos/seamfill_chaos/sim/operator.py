"""The operator of the simulated cluster: starts what is down, replaces what was lost.

Owns what a person would do after a fault, and the rule that data is lost on one node at a time.
Must not cause faults.

A node that refuses to start is wiped and comes back as a new incarnation. Whoever is no voter is
taken in as Raft allows it, one voter at a time: out with the old incarnation and in as a learner,
then, caught up, as a voter.
"""

from __future__ import annotations

import asyncio
from typing import Final

from seamfill_chaos.sim.node import Node
from seamfill_chaos.sim.observer import SafetyBreach
from seamfill_chaos.sim.world import World
from seamfill_coordinator.raft.members import MembershipRefused
from seamfill_coordinator.raft.membership import Configuration, Member
from seamfill_coordinator.raft.replica import PysyncobjReplica

__all__ = ["Operator"]

_LOOK_EVERY_S: Final = 0.25
_BEHIND_MAX: Final = 10
"""A learner that lacks no more entries may be promoted."""


class Operator:
    """Looks after the nodes of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._loop = world.loop
        self._lost: Node | None = None
        """Whose data is gone, or who was taken out, and who is not a voter again."""
        self._is_out = False

    def may_lose(self, node: Node) -> bool:
        """Say whether this node may lose its data now; if so, no other may until it is back."""
        leader = self._leader()
        if self._lost is not None or leader is None:
            return False
        configuration = leader.committed_configuration
        if configuration is None or len(configuration.voters) != len(self._world.nodes):
            return False
        if not configuration.is_voter(node.name, node.incarnation):
            return False
        self._lost = node
        self._is_out = True
        self._loop.spawn_outside(self._bring_back(node))
        return True

    def take_out(self, node: Node) -> None:
        """Remove a voter from the configuration, if that can be done now."""
        self._change(node, None)

    def look_after(self, node: Node) -> None:
        """Have the node run, now and whenever it went down without anybody's doing."""
        if node is self._lost:
            self._is_out = False
        if not node.is_up:
            node.start()

    async def watch(self) -> None:
        """Restart nodes that ended themselves, wipe those that refuse to start."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for node in self._world.nodes.values():
                if node.is_up or not node.ended_itself:
                    continue
                if node.refused:
                    if node is not self._lost:
                        self._loop.fail(
                            SafetyBreach(f"{node.name} refuses to start; nobody damaged its disk")
                        )
                    node.wipe()
                node.start()

    async def _bring_back(self, node: Node) -> None:
        """Make the node's present incarnation a voter again."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._is_out or node.replica is None:
                continue
            leader = self._leader()
            if leader is None:
                continue
            configuration = leader.committed_configuration
            if configuration is None:
                continue
            me = Member(node.name, node.incarnation)
            # One that is on its way may still take it out.
            is_settled = leader.configuration == configuration
            if is_settled and me in configuration.voters:
                break
            as_learner = me not in configuration.learners
            if as_learner or self._has_caught_up(leader, node):
                self._change(node, me, as_learner=as_learner)
        self._world.note("operator.brought_back", node=node.name)
        self._lost = None

    def _leader(self) -> PysyncobjReplica | None:
        """Return the replica that knows what is committed: it leads, has committed in its term,
        and nobody has led in a newer one. Who was deposed and does not know it tells old news."""
        leader = self._world.leader()
        if leader is None or leader.replica is None:
            return None
        status = leader.replica.status()
        is_newest = status.term == max(self._world.observer.agreement.leaders, default=0)
        return leader.replica if status.ready and is_newest else None

    def _has_caught_up(self, leader: PysyncobjReplica, node: Node) -> bool:
        if node.replica is None:
            return False
        behind = leader.status().last_index - node.replica.status().last_index
        return behind <= _BEHIND_MAX

    def _change(self, node: Node, me: Member | None, *, as_learner: bool = False) -> None:
        """Ask the leader for a configuration with ``me`` in it instead of the node's old self."""
        leader = self._world.leader()
        if leader is None or leader.process is None or not leader.process.runs:
            return  # it would not answer

        def ask(replica: PysyncobjReplica) -> None:
            present = replica.configuration
            if present is None:
                return
            voters = [m for m in present.voters if m.node_id != node.name]
            learners = [m for m in present.learners if m.node_id != node.name]
            if me is not None:
                (learners if as_learner else voters).append(me)
            wanted = Configuration(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))
            try:
                replica.change_membership(wanted)
            except MembershipRefused as refusal:
                self._world.note("operator.refused", node=node.name, why=str(refusal))
            else:
                self._world.note(
                    "operator.changed", node=node.name,
                    role="none" if me is None else "learner" if as_learner else "voter",
                )  # fmt: skip

        if leader.replica is not None:
            leader.process.call_soon(ask, leader.replica)
