"""A cluster without faults of its own, to be judged: one log, one machine, callers that contend.

Owns random runs that are right by construction, with everything the checkers must put up with:
concurrent operations, lost answers, retries, leader changes, leaderless time, expiries, and reads
behind a barrier. Tests break such a run and look whether it is noticed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from seamfill_chaos.checkers.agreement import Agreement, Life
from seamfill_chaos.history import Read, Recorder, Seen
from seamfill_coordinator.machine.claims import live_overlaps, locate
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import (
    Claim,
    Command,
    CompleteClaim,
    FailClaim,
    OpenSession,
    Request,
    Stamp,
)
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Claimed, Reply

KEYS = ("k1", "k2", "n:60:0:120", "n:60:60:180")
LIVES = tuple(Life(node=f"n{number}", incarnation="i", number=1) for number in (1, 2, 3))


@dataclass
class Caller:
    """One caller: its session, and the claim it believes in."""

    name: str
    client: int
    sequence: int = 0
    claimed: tuple[str, str] | None = None


@dataclass
class SmallWorld:
    """Virtual time, a log, and callers that ask of it."""

    rng: random.Random
    now_ms: int = 0
    index: int = 0
    term: int = 1
    reign_began_ms: int = 0
    machine: LeaseMachine = field(default_factory=LeaseMachine)
    agreement: Agreement = field(default_factory=Agreement)

    def __post_init__(self) -> None:
        self.recorder = Recorder(lambda: self.now_ms)
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now_ms + delay_ms, next(self._order), action))

    def run(self, until_ms: int) -> None:
        while self._agenda and self._agenda[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._agenda)
            action()
        self.now_ms = until_ms

    def commit_unheard(self, request: Request) -> None:
        """Commit a request whose answer never arrives."""
        self.commit(request)

    def commit(self, *requests: Request) -> tuple[Reply, ...]:
        """Append, commit and apply one command, on all nodes."""
        self.index += 1
        stamp = Stamp(term=self.term, reign_ms=self.now_ms - self.reign_began_ms, wall_ms=0)
        command = Command(version=1, stamp=stamp, requests=requests)
        for life in LIVES:
            self.agreement.applied(life, self.index, self.term, encode_command(command))
        replies = self.machine.apply(command).replies
        if self.index % 64 == 0:
            for life in LIVES:
                self.agreement.digested(life, self.index, self.machine.state_digest())
        return replies

    def change_leader(self) -> None:
        self.term += 1
        self.index += 1  # the new leader's own entry, which the machine does not see
        self.reign_began_ms = self.now_ms

    def holder(self, key: str) -> Seen:
        place = locate(key)
        rows = live_overlaps(self.machine.state, place)
        tokens = [str(row.fence) for row in rows if (row.start_s, row.stop_s) == place[1:]]
        return Seen(token=tokens[0] if tokens else None, rev=self.machine.rev)


def open_sessions(world: SmallWorld, names: tuple[str, ...]) -> list[Caller]:
    callers: list[Caller] = []
    for name in names:
        asked = Request(operations=(OpenSession(),))
        number = world.recorder.invoke(name, asked, node="n1")
        (reply,) = world.commit(asked)
        world.recorder.ok(number, reply)
        callers.append(Caller(name, client=len(callers) + 1))
    return callers


def contention(seed: int, *, until_ms: int = 20_000) -> SmallWorld:
    """Return a run of some hundred operations on a few keys, two of which overlap."""
    world = SmallWorld(random.Random(seed))
    rng = world.rng

    def ask(caller: Caller) -> None:
        if rng.random() < 0.3:
            ask_who(caller)
        else:
            ask_for(caller)

    def ask_who(caller: Caller) -> None:
        key = rng.choice(KEYS)
        number = world.recorder.invoke(caller.name, Read(key=key), node="n1")

        def look() -> None:
            seen = world.holder(key)
            world.at(rng.randrange(30), lambda: hear(seen))

        def hear(seen: Seen) -> None:
            world.recorder.ok(number, seen)
            world.at(rng.randrange(200), lambda: ask(caller))

        world.at(rng.randrange(30), look)

    def ask_for(caller: Caller) -> None:
        caller.sequence += 1
        operation: Claim | CompleteClaim | FailClaim
        if caller.claimed is None or rng.random() < 0.3:
            operation = Claim(key=rng.choice(KEYS), lease_ms=1_000, holder=caller.name)
        else:
            key, token = caller.claimed
            ending = CompleteClaim if rng.random() < 0.2 else FailClaim
            operation = ending(key=key, token=token)
        request = Request(
            operations=(operation,),
            client=caller.client,
            sequence=caller.sequence,
            low=caller.sequence,
        )
        number = world.recorder.invoke(caller.name, request, node="n1")
        lot = rng.random()
        if lot < 0.05:
            world.at(500, lambda: give_up(caller, number))  # lost on its way
        elif lot < 0.1:
            world.at(rng.randrange(900), lambda: world.commit_unheard(request))
            world.at(500, lambda: give_up(caller, number))
        elif lot < 0.2:
            world.at(rng.randrange(50), lambda: world.commit_unheard(request))
            world.at(60, lambda: world.recorder.retry(number, node="n2", in_doubt=True))
            world.at(60 + rng.randrange(50), lambda: commit(caller, number, request))
        else:
            world.at(rng.randrange(50), lambda: commit(caller, number, request))

    def commit(caller: Caller, number: int, request: Request) -> None:
        (reply,) = world.commit(request)
        world.at(rng.randrange(50), lambda: hear(caller, number, request, reply))

    def hear(caller: Caller, number: int, request: Request, reply: Reply) -> None:
        world.recorder.ok(number, reply)
        (operation,), (outcome,) = request.operations, reply.outcomes
        if isinstance(outcome, Claimed) and isinstance(operation, Claim):
            caller.claimed = (operation.key, outcome.token)
        elif not isinstance(operation, Claim):
            caller.claimed = None
        world.at(rng.randrange(200), lambda: ask(caller))

    def give_up(caller: Caller, number: int) -> None:
        world.recorder.unknown(number, "no answer")
        world.at(rng.randrange(100), lambda: ask(caller))

    def tick() -> None:
        if rng.random() < 0.02:
            world.at(rng.randrange(500), world.change_leader)
        world.commit()
        world.at(100, tick)

    for caller in open_sessions(world, ("a", "b", "c")):
        world.at(rng.randrange(100), partial(ask, caller))
    world.at(0, tick)
    world.run(until_ms)
    return world
