"""One node of ``shell.py``'s cluster: a replica, and the callers that load it while it leads.

Reads one JSON command a line (``{"status": true}``, ``{"callers": 64, "seconds": 3}``), answers one
JSON document a line.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contract.plain_network import PlainNetwork
from seamfill_coordinator.machine.commands import Claim, Request
from seamfill_coordinator.raft.replica import PysyncobjReplica, ReplicaSettings

_keys = itertools.count()


class Shares:
    """Seconds spent in named parts, measured around whole calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def around(self, owner: Any, method: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, method)
        self.seconds[name], self.calls[name] = 0.0, 0

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began
                self.calls[name] += 1

        setattr(owner, method, timed)

    def reset(self) -> None:
        for name in self.seconds:
            self.seconds[name], self.calls[name] = 0.0, 0


async def caller(
    replica: PysyncobjReplica, until: float, latencies: list[float], prefix: str
) -> None:
    while (began := time.perf_counter()) < until:
        key = f"ohlcv:binance:{prefix}/USDT:1m:60:{60 * next(_keys)}"
        key = f"{key}:{key.rpartition(':')[2]}::"
        await replica.propose(
            Request(operations=(Claim(key=key, lease_ms=600_000),)), timeout_ms=10_000
        )
        latencies.append(time.perf_counter() - began)


async def load(
    replica: PysyncobjReplica, shares: Shares, callers: int, seconds: float
) -> dict[str, Any]:
    latencies: list[float] = []
    gc.collect()
    gc.freeze()
    shares.reset()
    before, began = os.times(), time.perf_counter()
    await asyncio.gather(
        *(caller(replica, began + seconds, latencies, f"C{n}") for n in range(callers))
    )
    took, after = time.perf_counter() - began, os.times()
    latencies.sort()
    return {
        "claims": len(latencies),
        "seconds": took,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
        "cpu_s": after.user + after.system - before.user - before.system,
        "shares": shares.seconds,
        "calls": shares.calls,
    }


async def main(settings: dict[str, Any]) -> None:
    replica = PysyncobjReplica(
        ReplicaSettings(**settings | {"data_dir": Path(settings["data_dir"])}),
        network=PlainNetwork(),
    )
    await replica.start()
    shares = Shares()
    node, links = replica._node, replica._links
    assert node is not None
    assert links is not None
    shares.around(node._journal, "sync", "fdatasync")
    shares.around(replica._applier, "apply", "apply")
    shares.around(replica._aggregator, "_send", "encode and launch")
    shares.around(links, "flush", "write to sockets")
    shares.around(node, "turn", "whole turns")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        if "callers" in command:
            answer = await load(replica, shares, command["callers"], command["seconds"])
        else:
            status = replica.status()
            answer = {"leads": status.ready and status.leader_id == status.node_id}
        print(json.dumps(answer), flush=True)
    await replica.stop()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
