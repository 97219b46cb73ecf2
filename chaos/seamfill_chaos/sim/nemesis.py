"""What goes wrong in a run, and when.

Owns the faults and their timing. Must not know what the cluster should do about them. Every fault
ends: at ``faults_until_s`` all is undone; the cluster has the rest of the run to be whole again.

One loss of data at a time: a node whose disk was wiped or damaged counts as lost until its new
incarnation is a voter. More than that is declared data loss, which no test can pass.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from seamfill_chaos.disk import Fate
from seamfill_chaos.sim.node import DiskFault, Node
from seamfill_chaos.sim.operator import Operator
from seamfill_chaos.sim.plan import Fault
from seamfill_chaos.sim.world import World

__all__ = ["Nemesis"]

DAY_MS: Final = 86_400_000
Strike = Callable[[], Awaitable[None]]


class Nemesis:
    """The faults of one world."""

    def __init__(self, world: World, operator: Operator) -> None:
        self._world = world
        self._operator = operator
        self._loop = world.loop
        self._rng = world.rng("nemesis")
        self._nodes = list(world.nodes.values())
        self._strikes: dict[Fault, Strike] = {
            Fault.KILL: self._kill,
            Fault.POWER: self._power,
            Fault.POWER_ALL: self._power_all,
            Fault.CRASH_AT_STEP: self._crash_at_step,
            Fault.CRASH_VOTER: self._crash_voter,
            Fault.PAUSE: self._pause,
            Fault.STALL: self._stall,
            Fault.ISOLATE: self._isolate,
            Fault.ONE_WAY: self._one_way,
            Fault.FLAP: self._flap,
            Fault.RESET: self._reset,
            Fault.SLOW_LINK: self._slow_link,
            Fault.REFUSE: self._refuse,
            Fault.WALL_JUMP: self._wall_jump,
            Fault.DISK_FULL: self._disk_full,
            Fault.SYNC_FAILS: self._sync_fails,
            Fault.FLIP: self._flip,
            Fault.WIPE: self._wipe,
            Fault.MEMBERS: self._members,
        }

    def start(self) -> None:
        """Begin; each kind of fault strikes on its own, and may meet any other."""
        for fault, every_s in self._world.plan.faults.items():
            rng = self._world.rng(f"timing {fault.value}")
            self._loop.spawn_outside(self._strike_again_and_again(fault, every_s, rng))

    def end(self) -> None:
        """Undo everything that lasts: links, lost words, nodes that are down."""
        self._world.door.calm()
        names = list(self._world.nodes)
        for one in names:
            for other in names:
                if one != other:
                    self._world.fabric.heal(one, other)
                    self._world.fabric.way(one, other).speed_up()
        for node in self._nodes:
            node.slow_syncs = 0.0
            node.disarm()
            self._operator.look_after(node)

    async def _strike_again_and_again(
        self, fault: Fault, every_s: float, rng: random.Random
    ) -> None:
        plan = self._world.plan
        await asyncio.sleep(plan.faults_from_s)
        while True:
            await asyncio.sleep(rng.expovariate(1 / every_s))
            if self._loop.now >= plan.faults_until_s:
                return
            await self._strikes[fault]()

    # Whom

    def _victim(self) -> Node:
        """Return a node, the leader more often than others."""
        leader = self._world.leader()
        if leader is not None and self._rng.random() < 0.5:
            return leader
        return self._rng.choice(self._nodes)

    def _pair(self) -> tuple[Node, Node]:
        one = self._victim()
        other = self._rng.choice([node for node in self._nodes if node is not one])
        return (one, other) if self._rng.random() < 0.5 else (other, one)

    async def _for_a_while(self, shortest_s: float, longest_s: float) -> None:
        """Wait; short times are as likely as long ones. Ends when faults do."""
        seconds = shortest_s * (longest_s / shortest_s) ** self._rng.random()
        left_s = self._world.plan.faults_until_s - self._loop.now
        await asyncio.sleep(max(0.0, min(seconds, left_s)))

    def _note(self, fault: Fault, **facts: object) -> None:
        self._world.note(f"fault.{fault.value}", **facts)

    def _fate(self) -> Fate:
        return self._rng.choice((Fate.DROPPED, Fate.TORN, Fate.TORN, Fate.KEPT))

    # Processes and machines

    async def _kill(self) -> None:
        node = self._victim()
        self._note(Fault.KILL, node=node.name)
        node.kill()
        await self._for_a_while(0.02, 8.0)
        self._operator.look_after(node)

    async def _power(self) -> None:
        node = self._victim()
        self._note(Fault.POWER, node=node.name)
        node.lose_power(self._fate())
        await self._for_a_while(0.1, 8.0)
        self._operator.look_after(node)

    async def _power_all(self) -> None:
        self._note(Fault.POWER_ALL)
        for node in self._nodes:
            node.lose_power(self._fate())
        for node in self._rng.sample(self._nodes, len(self._nodes)):
            await self._for_a_while(0.02, 2.0)
            self._operator.look_after(node)

    async def _crash_at_step(self) -> None:
        """End somewhere between two changes of the disk: the crash points of the journal."""
        node = self._victim()
        fault = self._rng.choice((DiskFault.KILLED, DiskFault.POWER_LOST, DiskFault.POWER_LOST))
        steps = 1 + int(60 ** self._rng.random())
        self._note(Fault.CRASH_AT_STEP, node=node.name, steps=steps)
        node.fail_at_step(fault, steps, self._fate())
        await self._for_a_while(0.5, 8.0)
        node.disarm()
        self._operator.look_after(node)

    async def _crash_voter(self) -> None:
        """End the next node that votes, right after it said so, and have it back at once."""
        voted: asyncio.Future[str] = self._loop.create_future()

        def on_vote(name: str) -> None:
            if not voted.done():
                voted.set_result(name)

        self._world.observer.on_vote = on_vote
        node = self._world.nodes[await voted]
        if self._loop.now >= self._world.plan.faults_until_s:
            return  # nobody voted while there were faults
        self._note(Fault.CRASH_VOTER, node=node.name)
        await asyncio.sleep(self._rng.choice((0.0, self._rng.uniform(0.0, 0.005))))
        if self._rng.random() < 0.5:
            node.kill()
        else:
            node.lose_power(self._fate())
        await self._for_a_while(0.01, 1.0)
        self._operator.look_after(node)

    async def _pause(self) -> None:
        node = self._victim()
        process = node.process
        if process is None or process.has_ended:
            return
        self._note(Fault.PAUSE, node=node.name)
        process.pause()
        await self._for_a_while(0.05, 12.0)
        process.resume()

    async def _stall(self) -> None:
        """One sync takes long."""
        node = self._victim()
        before = node.stall_s
        node.stall_s = 0.02 * 100 ** self._rng.random()
        self._note(Fault.STALL, node=node.name, seconds=node.stall_s)
        node.fail_at_step(DiskFault.SLOW, 1)
        await self._for_a_while(0.5, 1.0)
        node.stall_s = before

    # Links

    async def _isolate(self) -> None:
        one = self._victim()
        self._note(Fault.ISOLATE, node=one.name)
        ways = [
            way
            for o in self._nodes
            if o is not one
            for way in ((one.name, o.name), (o.name, one.name))
        ]
        await self._cut(ways)

    async def _one_way(self) -> None:
        """Cut single directions: one link, or all that a node says, or all that it hears."""
        one, other = self._pair()
        kind = self._rng.choice(("link", "mute", "deaf"))
        others = [node.name for node in self._nodes if node is not one]
        ways = {
            "link": [(one.name, other.name)],
            "mute": [(one.name, name) for name in others],
            "deaf": [(name, one.name) for name in others],
        }[kind]
        self._note(Fault.ONE_WAY, node=one.name, other=other.name, kind=kind)
        await self._cut(ways)

    async def _cut(self, ways: list[tuple[str, str]]) -> None:
        for way in ways:
            self._world.fabric.cut(*way)
        await self._for_a_while(0.1, 15.0)
        for way in ways:
            self._world.fabric.heal(*way)
        if self._rng.random() < 0.3:
            self._world.fabric.reset(*ways[0])

    async def _flap(self) -> None:
        """Break and mend one link many times."""
        one, other = self._pair()
        self._note(Fault.FLAP, node=one.name, other=other.name)
        for _ in range(self._rng.randint(3, 12)):
            if self._rng.random() < 0.5:
                self._world.fabric.reset(one.name, other.name, late_s=self._late_s())
            else:
                self._world.fabric.cut(one.name, other.name)
            await self._for_a_while(0.05, 1.0)
            self._world.fabric.heal(one.name, other.name)
            await self._for_a_while(0.05, 1.0)

    async def _reset(self) -> None:
        one, other = self._pair()
        late_s = self._late_s()
        broken = self._world.fabric.reset(one.name, other.name, late_s=late_s)
        if broken:
            self._note(Fault.RESET, node=one.name, other=other.name, late_s=late_s)

    def _late_s(self) -> float:
        return self._rng.choice((0.0, self._rng.uniform(0.01, 2.0)))

    async def _slow_link(self) -> None:
        one, other = self._pair()
        way = self._world.fabric.way(one.name, other.name)
        bytes_per_s = self._rng.choice((2_000.0, 20_000.0, 200_000.0))
        lag_s = self._rng.choice((0.0, 0.02, 0.2))
        self._note(
            Fault.SLOW_LINK, node=one.name, other=other.name, bytes_per_s=bytes_per_s, lag_s=lag_s
        )
        way.slow_down(bytes_per_s, lag_s)
        await self._for_a_while(0.5, 20.0)
        way.speed_up()

    async def _refuse(self) -> None:
        node = self._victim()
        seconds = 0.2 * 30 ** self._rng.random()
        self._note(Fault.REFUSE, node=node.name, seconds=seconds)
        self._world.fabric.refuse(node.name, seconds)
        other = self._rng.choice([n for n in self._nodes if n is not node])
        self._world.fabric.reset(node.name, other.name)

    # Clocks and disks

    async def _wall_jump(self) -> None:
        node = self._victim()
        jump_ms = self._rng.choice((-DAY_MS, DAY_MS, -60_000, 60_000))
        self._note(Fault.WALL_JUMP, node=node.name, jump_ms=jump_ms)
        node.machine.wall_offset_ms += jump_ms

    async def _disk_full(self) -> None:
        node = self._victim()
        self._note(Fault.DISK_FULL, node=node.name)
        node.disk.capacity = self._rng.randrange(1 << 14)
        await self._for_a_while(0.5, 8.0)
        node.disk.capacity = None
        self._operator.look_after(node)

    async def _sync_fails(self) -> None:
        node = self._victim()
        self._note(Fault.SYNC_FAILS, node=node.name)
        node.fail_at_step(DiskFault.SYNC_FAILS, 1)
        await self._for_a_while(0.5, 5.0)
        node.disarm()
        self._operator.look_after(node)

    # Loss of data, and changes of membership: one at a time, the operator sees to that

    async def _flip(self) -> None:
        """Damage a node that is down; it must refuse to start, or not have needed that bit."""
        node = self._rng.choice(self._nodes)
        if not self._operator.may_lose(node):
            return
        self._note(Fault.FLIP, node=node.name)
        node.kill()
        node.flip_a_bit()
        await self._for_a_while(0.1, 2.0)
        self._operator.look_after(node)

    async def _wipe(self) -> None:
        node = self._rng.choice(self._nodes)
        if not self._operator.may_lose(node):
            return
        self._note(Fault.WIPE, node=node.name)
        node.kill()
        node.wipe()  # now: once it has been started by somebody, the operator takes it for whole
        await self._for_a_while(0.1, 5.0)
        self._operator.look_after(node)

    async def _members(self) -> None:
        """Take a member out, and later in again."""
        node = self._rng.choice(self._nodes)
        if not self._operator.may_lose(node):
            return
        self._note(Fault.MEMBERS, node=node.name)
        self._operator.take_out(node)
        await self._for_a_while(1.0, 10.0)
        self._operator.look_after(node)
