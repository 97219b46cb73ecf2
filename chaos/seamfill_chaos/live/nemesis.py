"""The nemesis: kills leaders, kills workers, and pauses holders until their lease moved on.

Owns when and whom to hit, and an account of what was hit. Must not know what the run is for or
whether it went well. Every loop ends when ``stop`` is set, and leaves the world whole: what it
killed is started again, what it paused is continued.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from seamfill_chaos.live.world import World

__all__ = ["Nemesis", "Toll"]

_POLL_S: Final = 0.2


@dataclass(slots=True)
class Toll:
    """What the nemesis did."""

    leaders_killed: int = 0
    workers_killed: int = 0
    workers_paused: int = 0
    pauses_outlived: int = 0
    """Pauses in which the lease was granted again to somebody else before the holder woke up."""


class Nemesis:
    """Hits one world until told to stop. Run each method in a task of its own."""

    def __init__(self, world: World, stop: asyncio.Event) -> None:
        self._world = world
        self._stop = stop
        self.toll = Toll()

    async def kill_leaders(self, *, every_s: float, down_s: float) -> None:
        """SIGKILL the leader every ``every_s``; start it again ``down_s`` later."""
        while not await self._stopped_within(every_s - down_s):
            leader = await self._world.leader()
            if leader is None:
                continue
            await self._world.kill_node(leader)
            self.toll.leaders_killed += 1
            await self._stopped_within(down_s)
            await self._world.restart_node(leader)

    async def kill_workers(self, names: tuple[str, ...], *, every_s: float) -> None:
        """SIGKILL one of ``names`` in turn every ``every_s``; start it again at once."""
        turn = 0
        while not await self._stopped_within(every_s):
            name = names[turn % len(names)]
            turn += 1
            await self._world.kill_worker(name)
            self.toll.workers_killed += 1
            await self._world.restart_worker(name)

    async def pause_holders(self, names: tuple[str, ...], *, times: int) -> None:
        """SIGSTOP a holder until one of its leases was granted again, then SIGCONT; ``times``."""
        turn = 0
        while self.toll.pauses_outlived < times and not self._stop.is_set():
            name = names[turn % len(names)]
            turn += 1
            if not await self._pause_once(name):
                await self._stopped_within(_POLL_S)

    async def _pause_once(self, name: str) -> bool:
        worker = self._world.workers[name]
        worker.signal(signal.SIGSTOP)
        try:
            # Looked up after the stop: what it holds now, it can neither complete nor renew.
            held = await self._leases_of(name)
            if not held:
                return False
            self.toll.workers_paused += 1
            while not self._stop.is_set():
                if await self._granted_again(name, held):
                    self.toll.pauses_outlived += 1
                    return True
                await asyncio.sleep(_POLL_S)
            return False
        finally:
            worker.signal(signal.SIGCONT)

    async def _granted_again(self, name: str, held: list[dict[str, Any]]) -> bool:
        for lease in await self._leases():
            for old in held:
                if (
                    lease.get("series") == old["series"]
                    and lease["start_ms"] < old["end_ms"]
                    and old["start_ms"] < lease["end_ms"]
                    and lease["fence"] > old["fence"]
                    and lease["holder"] != name
                ):
                    return True
        return False

    async def _leases_of(self, name: str) -> list[dict[str, Any]]:
        return [
            lease
            for lease in await self._leases()
            if lease["holder"] == name and lease.get("series") and lease["state"] == "live"
        ]

    async def _leases(self) -> list[dict[str, Any]]:
        for url in self._world.coordinator_urls:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as http,
                    http.get(f"{url}/v1/leases", params={"limit": "1000"}) as answer,
                ):
                    if answer.status == 200:
                        document = await answer.json()
                        return list(document["leases"])
        return []

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._stop.wait()
        return self._stop.is_set()
