"""A whole seamfill on this machine: exchange, coordinators, workers, as real processes.

Owns the command lines by which the parts are started and how they find each other. Must not know
what is asked of them. Each node is a child of ours rather than of ``coordinator dev``, so that
nodes can be killed and started again one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from seamfill_chaos.live.processes import ManagedProcess, Processes, program
from seamfill_coordinator.ports import free_ports
from seamfill_coordinator.raft.certs import init_certificates

__all__ = ["Exchange", "Home", "World", "cluster_view"]

_PROBE_TIMEOUT: Final = aiohttp.ClientTimeout(total=2)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A running exchange simulator and its control surface."""

    process: ManagedProcess

    @property
    def url(self) -> str:
        return str(self.process.ready["url"])

    async def control(self, what: str, body: Mapping[str, object]) -> Any:
        """POST to the control surface and return its JSON answer."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}/__control/{what}", json=body) as answer,
        ):
            answer.raise_for_status()
            return await answer.json()

    async def look(self, what: str, **query: object) -> Any:
        """GET from the control surface and return its JSON answer."""
        parameters = {name: str(value) for name, value in query.items()}
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/__control/{what}", params=parameters) as answer,
        ):
            answer.raise_for_status()
            return await answer.json()


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a node lives: the address it is reached at, and the words that put a program there."""

    host: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


@dataclass(slots=True)
class World:
    """The processes of one run. Build the parts you need, in this order: exchange, nodes, workers.

    ``nodes`` maps node id → process; a killed node stays in the map until it is restarted.
    ``connector`` makes what talks to the nodes, when they are not on this machine's loopback.
    """

    processes: Processes
    environment: Mapping[str, str] = field(default_factory=dict)
    nodes: dict[str, ManagedProcess] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    workers: dict[str, ManagedProcess] = field(default_factory=dict)
    data_dirs: dict[str, Path] = field(default_factory=dict)
    connector: Callable[[], aiohttp.BaseConnector | None] = lambda: None

    @property
    def coordinator_urls(self) -> tuple[str, ...]:
        return tuple(self.urls.values())

    async def start_exchange(self, *options: str | Path, name: str = "exchange") -> Exchange:
        """Start an exchange on a free port with further options of its command line."""
        process = await self.processes.start(
            name, [program("seamfill-chaos"), "exchange", "--listen", "127.0.0.1:0", *options]
        )
        return Exchange(process)

    async def start_cluster(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        options: Sequence[str | Path] = (),
        homes: Mapping[str, Home] | None = None,
        programs: Mapping[str, Sequence[str | Path]] | None = None,
    ) -> None:
        """Start ``nodes`` coordinators n1, n2, …; return when they can commit.

        ``options`` are more of the command line of ``serve``. ``homes`` and ``programs`` say, by
        node id, where a node lives and what is started instead of the command ``coordinator``.
        """
        names = [f"n{number + 1}" for number in range(nodes)]
        homes = homes or {}
        ports = free_ports(2 * nodes)
        listen, peer_listen = (
            {
                name: f"{homes.get(name, Home()).host}:{port}"
                for name, port in zip(names, chosen, strict=True)
            }
            for chosen in (ports[:nodes], ports[nodes:])
        )
        certs = directory / "certs"
        init_certificates(certs, names, now=datetime.now(UTC))
        lines: dict[str, list[str | Path]] = {}
        for name in names:
            self.urls[name] = f"http://{listen[name]}"
            self.data_dirs[name] = directory / name
            others = [f"{other}={at}" for other, at in peer_listen.items() if other != name]
            lines[name] = [
                *homes.get(name, Home()).enter,
                *(programs or {}).get(name, (program("coordinator"),)),
                *("serve", "--node-id", name, "--cluster-id", "live"),
                *("--listen", listen[name], "--peer-listen", peer_listen[name]),
                *(word for other in others for word in ("--peer", other)),
                *("--data-dir", directory / name, "--certs", certs),
                *options,
            ]
        started = await asyncio.gather(
            *(self.processes.start(name, line) for name, line in lines.items())
        )
        self.nodes = dict(zip(names, started, strict=True))
        await self.wait_until_ready()

    async def wait_until_ready(self, timeout_s: float = 20.0) -> str:
        """Return the leader's id once a leader has committed in its term."""
        async with asyncio.timeout(timeout_s):
            while True:
                leader = await self.leader()
                if leader is not None:
                    return leader
                await asyncio.sleep(0.05)

    async def leader(self) -> str | None:
        """Return the leader's id as the first ready leader tells, or None."""
        for node_id, url in self.urls.items():
            view = await cluster_view(url, self.connector())
            if view is not None and view["ready"] and view["leader"] == node_id:
                return node_id
        return None

    async def start_worker(
        self, name: str, exchange: Exchange, *options: str | Path, venue: str = "binance"
    ) -> ManagedProcess:
        """Start a worker with the id ``name`` that knows every coordinator."""
        coordinators: list[str | Path] = []
        for url in self.coordinator_urls:
            coordinators += ["--coordinator", url]
        line: Sequence[str | Path] = [
            program("seamfill-worker"),
            "run",
            *coordinators,
            "--worker-id",
            name,
            "--ccxt-url",
            f"{venue}={exchange.url}",
            *options,
        ]
        worker = await self.processes.start(name, line, environment=self.environment)
        self.workers[name] = worker
        return worker

    async def kill_node(self, node_id: str) -> None:
        await self.nodes[node_id].kill()

    async def restart_node(self, node_id: str) -> None:
        self.nodes[node_id] = await self.processes.restart(self.nodes[node_id])

    async def kill_worker(self, name: str) -> None:
        await self.workers[name].kill()

    async def restart_worker(self, name: str) -> None:
        self.workers[name] = await self.processes.restart(self.workers[name])


async def cluster_view(
    url: str, connector: aiohttp.BaseConnector | None = None
) -> dict[str, Any] | None:
    """Return a node's own view of the cluster, or None when it does not answer.

    ``connector`` is used for this one question and closed.
    """
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with (
            aiohttp.ClientSession(timeout=_PROBE_TIMEOUT, connector=connector) as http,
            http.get(f"{url}/v1/cluster") as answer,
        ):
            if answer.status == 200:
                view = await answer.json()
                assert isinstance(view, dict)
                return view
    return None
