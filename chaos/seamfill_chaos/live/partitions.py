"""Faults between nodes that stay alive, or nearly: cut off, half deaf, paused, killed.

Owns what each fault does to the wires and processes of a scene, how it is undone, and what is
measured on the way. Must not know how often a test or a ledger wants which.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

import aiohttp

from seamfill_chaos.live.namespaces import Direction, Wires
from seamfill_chaos.live.scene import Scene

__all__ = ["Fault", "IsolatedAnswer", "Round", "one_round"]

HOLD_S: Final = 1.5
"""How long a cut lasts: twice what an election takes."""
ISOLATED_S: Final = 2.5
"""Longer, to hear what a leader says that must have noticed."""
PAUSE_LEAST_S: Final = 0.5
PAUSE_MOST_S: Final = 5.0
LEAST_RATE: Final = 50.0
ASK_EVERY_S: Final = 0.25
HANGS_UP_S: Final = 4.0
"""Longer than the answer may take, so that one that comes too late is seen as such."""


class Fault(StrEnum):
    """What happens to a cluster for a while."""

    ISOLATED = "leader isolated"
    DEAF = "leader sends, hears nothing"
    MUTE = "leader hears, sends nothing"
    ONE_WAY = "one direction of one pair"
    PAUSED = "leader paused"
    KILLED = "leader killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolatedAnswer:
    """What a leader that is cut off said to a claim, or to a read of the same key; status 0 when it
    said nothing."""

    key: str
    is_claim: bool
    since_cut_s: float
    took_s: float
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One fault and what clients and nodes made of it."""

    fault: Fault
    leader: str
    held_s: float
    silence_s: float
    """The longest time in which no change was acknowledged, from the fault until all was well."""
    convergence_s: float
    """From the end of the fault until all nodes were ready under one leader, with everything that
    was committed applied. A killed node's fault ends when its process serves again."""
    answers: tuple[IsolatedAnswer, ...] = ()
    granted_later: tuple[str, ...] = ()
    """Keys whose claim the isolated leader refused, and which were held afterwards all the same."""


async def one_round(scene: Scene, wires: Wires, fault: Fault, rng: random.Random) -> Round:
    """Inflict a fault on a cluster that is well, undo it, and wait until it is well again."""
    leader, _ = await scene.watch.until_converged()
    await scene.until_rate(LEAST_RATE)
    pause_s = rng.uniform(PAUSE_LEAST_S, PAUSE_MOST_S)
    hold_s = {Fault.PAUSED: pause_s, Fault.ISOLATED: ISOLATED_S}.get(fault, HOLD_S)
    scene.recorder.note("fault", what=fault, leader=leader)
    began_s = time.monotonic()
    await _inflict(scene, wires, fault, leader, rng)
    answers: list[IsolatedAnswer] = []
    if fault is Fault.ISOLATED:
        answers = await _ask_isolated(scene, leader, hold_s)
    else:
        await asyncio.sleep(hold_s)
    scene.recorder.note("healed", what=fault, leader=leader)
    held_s = time.monotonic() - began_s
    await _undo(scene, wires, fault, leader)
    healed_s = time.monotonic()
    await scene.watch.until_converged()
    well_s = time.monotonic()
    refused = [answer.key for answer in answers if answer.is_claim and answer.status == 503]
    return Round(
        fault=fault,
        leader=leader,
        held_s=held_s,
        silence_s=scene.traffic.longest_silence_s(began_s, well_s),
        convergence_s=well_s - healed_s,
        answers=tuple(answers),
        granted_later=tuple(await _held(scene, refused)),
    )


async def _inflict(
    scene: Scene, wires: Wires, fault: Fault, leader: str, rng: random.Random
) -> None:
    others = scene.others(leader)
    sends: list[Direction] = [(leader, other) for other in others]
    hears: list[Direction] = [(other, leader) for other in others]
    match fault:
        case Fault.ISOLATED:
            await wires.cut([*sends, *hears])
        case Fault.DEAF:
            await wires.cut(hears)
        case Fault.MUTE:
            await wires.cut(sends)
        case Fault.ONE_WAY:
            await wires.cut([rng.choice([*sends, *hears, (others[0], others[1])])])
        case Fault.PAUSED:
            scene.world.nodes[leader].signal(signal.SIGSTOP)
        case Fault.KILLED:
            await scene.world.kill_node(leader)
        case _:
            assert_never(fault)


async def _undo(scene: Scene, wires: Wires, fault: Fault, leader: str) -> None:
    match fault:
        case Fault.PAUSED:
            scene.world.nodes[leader].signal(signal.SIGCONT)
        case Fault.KILLED:
            await scene.world.restart_node(leader)
        case _:
            await wires.heal()


async def _ask_isolated(scene: Scene, leader: str, hold_s: float) -> list[IsolatedAnswer]:
    """Claim and read keys at the isolated leader, every quarter of a second while it is."""
    began_s = time.monotonic()
    async with _client(scene) as http, asyncio.TaskGroup() as tasks:
        asking = []
        while time.monotonic() - began_s < hold_s:
            key = f"isolated-{leader}-{time.monotonic_ns()}"
            for is_claim in (True, False):
                call = _ask(http, scene.world.urls[leader], key, is_claim, since_s=began_s)
                asking.append(tasks.create_task(call))
            await asyncio.sleep(ASK_EVERY_S)
    return [task.result() for task in asking]


async def _ask(
    http: aiohttp.ClientSession, url: str, key: str, is_claim: bool, *, since_s: float
) -> IsolatedAnswer:
    sent_s, status = time.monotonic(), 0
    target = "claim" if is_claim else "inspect"
    try:
        async with http.post(f"{url}/v1/leases/{target}", json={"key": key}) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass
    return IsolatedAnswer(
        key=key,
        is_claim=is_claim,
        since_cut_s=sent_s - since_s,
        took_s=time.monotonic() - sent_s,
        status=status,
    )


async def _held(scene: Scene, keys: Sequence[str]) -> list[str]:
    """Return those of the keys that are held in the end: a claim was done that was refused."""
    still = list(keys)
    # A grant that was in doubt is given back by its node, which takes a few calls.
    for _ in range(20):
        still = [key for key in still if await _is_held(scene, key)]
        if not still:
            break
        await asyncio.sleep(0.25)
    return still


async def _is_held(scene: Scene, key: str) -> bool:
    """Return whether the key is held, for all that is known: also when nobody answers."""
    leader = await scene.watch.leader()
    url = f"{scene.world.urls[leader]}/v1/leases/inspect"
    try:
        async with _client(scene) as http, http.get(url, params={"key": key}) as answer:
            answer.raise_for_status()
            return bool((await answer.json())["held"])
    except (aiohttp.ClientError, TimeoutError):
        return True


def _client(scene: Scene) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=scene.world.connector(), timeout=aiohttp.ClientTimeout(total=HANGS_UP_S)
    )
