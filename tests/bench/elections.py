"""Claims through elections: what the field's client sees while leaders are killed.

Thirty leaders are killed with SIGKILL, one after the other. All the while clients claim and
complete keys the way the existing SDK does: a new connection each time, 2.0 s timeout, no retries.
Printed: what they were answered, and how long after each kill the next claim was granted.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.environment import describe
from seamfill_chaos.live.processes import Processes
from seamfill_chaos.live.world import World

KILLS = 30
CLIENTS = 4
CLIENT_TIMEOUT_S = 2.0
DOWN_S = 1.0
CALM_S = 1.5


class Claims:
    """What the clients were answered, and when claims were granted."""

    def __init__(self) -> None:
        self.answers: collections.Counter[str] = collections.Counter()
        self.granted_at: list[float] = []
        self.slowest_s = 0.0


async def client(name: int, urls: list[str], claims: Claims, stop: asyncio.Event) -> None:
    """Claim and complete one fresh key after the other, each on the next node that is up."""
    number = 0
    while not stop.is_set():
        number += 1
        key = f"ohlcv:binance:C{name}/USDT:1m:60:{number * 60}:{number * 60}::"
        url = urls[number % len(urls)]
        status, body = await call(url, "claim", {"key": key, "lease_ms": 120000}, claims)
        claims.answers[f"claim {status}"] += 1
        if status == "200":
            claims.granted_at.append(time.monotonic())
            token = body["lease"]["token"]
            status, _ = await call(url, "complete", {"key": key, "token": token}, claims)
            claims.answers[f"complete {status}"] += 1
        await asyncio.sleep(0.01)


async def call(url: str, verb: str, body: dict[str, Any], claims: Claims) -> tuple[str, Any]:
    """One call on a connection of its own; the answer's status, or what went wrong."""
    started = time.monotonic()
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S),
                connector=aiohttp.TCPConnector(force_close=True),
            ) as http,
            http.post(f"{url}/v1/leases/{verb}", json=body, allow_redirects=False) as answer,
        ):
            document = await answer.json(content_type=None)
            claims.slowest_s = max(claims.slowest_s, time.monotonic() - started)
            return str(answer.status), document
    except TimeoutError:
        return "timeout", None
    except aiohttp.ClientConnectorError:
        return "refused connection (the killed node)", None
    except (aiohttp.ClientError, OSError):
        return "lost connection (the killed node)", None


async def main() -> None:
    print(f"{KILLS} leaders killed under {CLIENTS} clients of the compatibility contract")
    print(describe("pysyncobj", "aiohttp"))
    claims = Claims()
    pauses_s: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        async with Processes(Path(scratch) / "logs") as processes:
            world = World(processes)
            await world.start_cluster(Path(scratch) / "cluster")
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for name in range(CLIENTS):
                    tasks.create_task(client(name, list(world.coordinator_urls), claims, stop))
                for _ in range(KILLS):
                    await asyncio.sleep(CALM_S)
                    leader = await world.wait_until_ready()
                    await world.kill_node(leader)
                    killed_at = time.monotonic()
                    await asyncio.sleep(DOWN_S)
                    await world.restart_node(leader)
                    pauses_s.append(await first_grant_after(claims, killed_at))
                stop.set()
    for answer, count in sorted(claims.answers.items()):
        print(f"  {count:>7,}  {answer}")
    ordered = sorted(pauses_s)
    print(
        f"  next granted claim after a kill: median {statistics.median(ordered):.2f} s, "
        f"p90 {ordered[int(len(ordered) * 0.9)]:.2f} s, longest {ordered[-1]:.2f} s "
        f"(aim: 1.2 s); slowest answered call {claims.slowest_s:.2f} s"
    )


async def first_grant_after(claims: Claims, killed_at: float) -> float:
    """Return how long after the kill the first claim that was answered later was granted."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while True:
                # A claim answered within 20 ms of the kill was committed before it.
                later = [at for at in claims.granted_at if at > killed_at + 0.02]
                if later:
                    return later[0] - killed_at
                await asyncio.sleep(0.02)
    return float("inf")


if __name__ == "__main__":
    asyncio.run(main())
