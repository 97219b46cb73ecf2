"""The Raft shell alone: claims a second through the Python interface, and where the time goes.

Three nodes, each a process of its own with a journal of its own, fdatasync on. The callers live in
the leader's process: HTTP, routing and clients are not part of this figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.environment import describe
from contract.cluster_rig import free_port

CALLERS = (1, 64, 256, 1024)
SECONDS = 4.0
ROUNDS = 3


class Node:
    """One process of the cluster."""

    def __init__(self, node_id: str, addresses: dict[str, str], directory: Path) -> None:
        settings = {
            "cluster_id": "bench",
            "node_id": node_id,
            "incarnation": f"life-of-{node_id}",
            "url": f"http://{node_id}.test",
            "peer_listen": addresses[node_id],
            "peers": {n: a for n, a in addresses.items() if n != node_id},
            "data_dir": str(directory / node_id),
        }
        script = Path(__file__).with_name("_shell_node.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def median_round(node: Node, callers: int) -> dict[str, Any]:
    rounds = [node.ask(callers=callers, seconds=SECONDS) for _ in range(ROUNDS)]
    rounds.sort(key=lambda r: float(r["claims"]) / float(r["seconds"]))
    return rounds[ROUNDS // 2]


def main() -> None:
    print(f"Claims through the Raft shell, 3 nodes, fdatasync on, median of {ROUNDS} rounds")
    print(describe("pysyncobj"))
    ids = ("n1", "n2", "n3")
    addresses = {node_id: f"127.0.0.1:{free_port()}" for node_id in ids}
    with tempfile.TemporaryDirectory(prefix="seamfill-shell-") as directory:
        nodes = [Node(node_id, addresses, Path(directory)) for node_id in ids]
        try:
            while not (leaders := [n for n in nodes if n.ask(status=True)["leads"]]):
                time.sleep(0.1)
            print(f"{'callers':>8}{'claims/s':>12}{'p50 ms':>9}{'p99 ms':>9}   where the time goes")
            for callers in CALLERS:
                print(line(callers, median_round(leaders[0], callers)), flush=True)
        finally:
            for node in nodes:
                node.stop()


def line(callers: int, result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    shares = ", ".join(
        f"{name} {100 * spent / seconds:.0f} %" for name, spent in result["shares"].items()
    )
    rate = result["claims"] / seconds
    per_sync = result["claims"] / max(1, result["calls"]["fdatasync"])
    return (
        f"{callers:>8}{rate:>12,.0f}{result['p50_ms']:>9.2f}{result['p99_ms']:>9.2f}   "
        f"{shares}; CPU {100 * result['cpu_s'] / seconds:.0f} %, {per_sync:.0f} claims a sync"
    )


if __name__ == "__main__":
    main()
