"""Three nodes in this process: any of them answers, also while leadership moves.

Replicas, ports and proxied calls are real; what is compressed is only that all nodes share a loop.
Most tests say what happens while one leader stays, hence ``excused``.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.busy_machines import excused
from contract.cluster_rig import until
from contract.http_rig import T0, WORKER, Facts, HttpRig, SteppedClock, backfill, covered, serving
from contract.plain_network import PlainNetwork
from contract.unsynced_files import UnsyncedFiles
from seamfill_coordinator.ports import free_ports
from seamfill_coordinator.raft.replica import PysyncobjReplica, ReplicaSettings

pytestmark = [
    # pysyncobj reads its meta file without closing it.
    pytest.mark.filterwarnings(r"ignore:.*journal\.meta:pytest.PytestUnraisableExceptionWarning"),
    # A node that is killed leaves connections behind that it had only just accepted; its process
    # would end with them, but here it shares ours.
    pytest.mark.filterwarnings(
        r"ignore:.*(_SelectorTransport|socket\.socket):pytest.PytestUnraisableExceptionWarning"
    ),
]

CLUSTER = "three"
NODES = ("n1", "n2", "n3")


@dataclass(slots=True)
class Cluster:
    """Nodes by id; each has a replica, a server and a client."""

    directory: Path
    peer_ports: dict[str, int] = field(default_factory=dict)
    http_ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, HttpRig] = field(default_factory=dict)
    stacks: dict[str, AsyncExitStack] = field(default_factory=dict)

    async def begin(self) -> None:
        """Start all nodes on fresh ports; return when each is ready."""
        ports = free_ports(2 * len(NODES))
        self.peer_ports = dict(zip(NODES, ports[::2], strict=True))
        self.http_ports = dict(zip(NODES, ports[1::2], strict=True))
        await self.start(*NODES)
        await self.ready()

    async def renew(self) -> None:
        """Begin again with an empty cluster."""
        await self.kill(*tuple(self.running))
        self.directory = self.directory / "again"
        await self.begin()

    async def start(self, *node_ids: str) -> None:
        for node_id in node_ids:
            stack = AsyncExitStack()
            replica = self._replica(node_id)
            await replica.start()
            stack.push_async_callback(replica.stop)
            facts = Facts(data_dir=self.directory, node_id=node_id, cluster_id=CLUSTER)
            served = serving(replica, facts, SteppedClock(), port=self.http_ports[node_id])
            self.running[node_id] = await stack.enter_async_context(served)
            self.stacks[node_id] = stack

    async def kill(self, *node_ids: str) -> None:
        """Stop answering peers first, then clients, as far as one process can do it."""
        for node_id in node_ids:
            rig = self.running.pop(node_id)
            await rig.replica.stop()  # type: ignore[attr-defined]  # the interface has no life
            await self.stacks.pop(node_id).aclose()

    async def leader(self) -> str:
        """Return the one that is ready to propose."""
        await until(lambda: any(_leads(rig) for rig in self.running.values()))
        return next(n for n, rig in self.running.items() if _leads(rig))

    async def followers(self) -> list[str]:
        leader = await self.leader()
        return [n for n in self.running if n != leader]

    async def ready(self) -> None:
        await until(lambda: all(r.replica.status().ready for r in self.running.values()))

    def _replica(self, node_id: str) -> PysyncobjReplica:
        data_dir = self.directory / node_id
        data_dir.mkdir(parents=True, exist_ok=True)
        addresses = {n: f"127.0.0.1:{port}" for n, port in self.peer_ports.items()}
        return PysyncobjReplica(
            ReplicaSettings(
                cluster_id=CLUSTER,
                node_id=node_id,
                incarnation=f"life-of-{node_id}",
                url=f"http://127.0.0.1:{self.http_ports[node_id]}",
                peer_listen=addresses.pop(node_id),
                peers=addresses,
                data_dir=data_dir,
            ),
            network=PlainNetwork(),
            files=UnsyncedFiles(),
            on_fatal=lambda what, exc: pytest.fail(f"{what}: {exc}"),
        )


def _leads(rig: HttpRig) -> bool:
    status = rig.replica.status()
    return status.ready and status.leader_id == status.node_id


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    built = Cluster(tmp_path)
    try:
        try:
            await built.begin()
        except OSError as exc:
            # Somebody else took a port between our looking for it and using it.
            if exc.errno != errno.EADDRINUSE:
                raise
            await built.renew()
        yield built
    finally:
        await built.kill(*tuple(built.running))


@excused
async def test_any_node_answers_and_says_who_leads(cluster: Cluster) -> None:
    leader_url = f"http://127.0.0.1:{cluster.http_ports[await cluster.leader()]}"
    for number, rig in enumerate(cluster.running.values()):
        got = await rig.field_call("/v1/leases/claim", {"key": f"k{number}", "lease_ms": 0})
        assert (got.status, got.headers["Seamfill-Leader"]) == (200, leader_url)
        assert got.body["lease"]["ttl_ms"] == 120_000
    for rig in cluster.running.values():
        assert (await rig.get("/v1/leases")).body["total"] == 3


@excused
async def test_what_one_node_acknowledged_another_one_shows(cluster: Cluster) -> None:
    first, second = (cluster.running[n] for n in await cluster.followers())
    for number in range(20):
        await first.submit(start_ms=T0 + number * 3_600_000, id=f"bf-{number}")
        assert (await second.get(f"/v1/backfills/bf-{number}")).status == 200


@excused
async def test_refusals_pass_through_a_follower_unchanged(cluster: Cluster) -> None:
    follower = cluster.running[(await cluster.followers())[0]]
    leader = cluster.running[await cluster.leader()]
    assert (await leader.field_call("/v1/leases/claim", {"key": "k"})).status == 200
    refused = await follower.field_call("/v1/leases/claim", {"key": "k"})
    assert (refused.status, refused.body["code"]) == (409, "held")
    assert refused.body["holder"] == "127.0.0.1"
    assert int(refused.headers["Retry-After"]) > 100
    assert (await follower.get("/v1/backfills/none")).status == 404


@excused
async def test_a_key_means_the_same_at_every_node(cluster: Cluster) -> None:
    one, two, three = cluster.running.values()
    client = (await one.post("/v1/sessions")).body["client"]
    key = {"Idempotency-Key": f"{client}:1:1"}
    answers = [await rig.post("/v1/backfills", backfill(), **key) for rig in (one, two, three)]
    assert answers[0].body == answers[1].body == answers[2].body
    assert (await one.get("/v1/backfills")).body["total"] == 1


@excused
async def test_a_proxied_call_is_not_proxied_again(cluster: Cluster) -> None:
    follower = cluster.running[(await cluster.followers())[0]]
    got = await follower.get("/v1/backfills", **{"Seamfill-Proxied-By": "n9"})
    assert (got.status, got.body["code"]) == (503, "not_leader")


@excused
async def test_every_node_shows_the_whole_cluster(cluster: Cluster) -> None:
    """Followers never announce themselves in the log; the leader does it for them."""

    async def all_healthy(rig: HttpRig) -> bool:
        seen = (await rig.get("/v1/cluster")).body
        return [peer["healthy"] for peer in seen["peers"]] == [True, True]

    async with asyncio.timeout(30):
        for rig in cluster.running.values():
            while not await all_healthy(rig):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert (await rig.get("/readyz")).status == 200


@excused
async def test_acquire_waits_at_a_follower_too(cluster: Cluster) -> None:
    first, second = (cluster.running[n] for n in await cluster.followers())
    waiting = asyncio.create_task(first.acquire(wait_ms=20_000))
    await first.somebody_is_parked()
    await second.submit()
    async with asyncio.timeout(10):
        (lease,) = (await waiting).body["leases"]
    done = await second.post("/v1/leases/complete", {"worker": WORKER, "leases": [covered(lease)]})
    assert done.body["results"][0]["status"] == "completed"


@excused
async def test_an_election_is_ridden_out_inside_the_request(cluster: Cluster) -> None:
    """A claim that meets a dead leader is answered in time, and nothing is granted twice."""
    survivors = [cluster.running[n] for n in await cluster.followers()]
    await cluster.kill(await cluster.leader())
    clock, granted = survivors[0].clock, 0
    answers = await asyncio.gather(
        *(
            survivors[n % 2].field_call("/v1/leases/claim", {"key": f"k{n}", "lease_ms": 120_000})
            for n in range(6)
        )
    )
    for got in answers:
        assert got.status in (200, 503), got.body
        granted += got.status == 200
    began_ms = clock.monotonic_ms()
    while (await survivors[0].field_call("/v1/leases/claim", {"key": "after"})).status != 200:
        assert clock.monotonic_ms() - began_ms < 30_000
    await _settled(survivors)
    assert (await survivors[1].get("/v1/leases")).body["total"] == granted + 1


@excused
async def test_without_a_quorum_nothing_is_granted_or_kept(cluster: Cluster) -> None:
    followers = await cluster.followers()
    alone = cluster.running[await cluster.leader()]
    await cluster.kill(*followers)
    began_ms = alone.clock.monotonic_ms()
    answers = await asyncio.gather(
        *(alone.field_call("/v1/leases/claim", {"key": f"k{n}"}) for n in range(3)),
        alone.get("/v1/backfills"),
    )
    assert alone.clock.monotonic_ms() - began_ms < 2_000
    for got in answers:
        assert got.status == 503
        assert got.body["retryable"] is True
    assert (await alone.get("/v1/cluster")).status == 200
    await cluster.start(*followers)
    await cluster.ready()
    await _settled(list(cluster.running.values()))
    assert (await alone.get("/v1/leases")).body["total"] == 0


@excused
async def test_a_watcher_survives_the_leader(cluster: Cluster) -> None:
    survivors = [cluster.running[n] for n in await cluster.followers()]
    await survivors[0].submit(id="bf-w")
    async with asyncio.timeout(20):
        async with survivors[0].session.get(survivors[0].url + "/v1/backfills/bf-w/watch") as seen:
            assert (await seen.content.readline()).startswith(b"event: progress")
            await cluster.kill(await cluster.leader())
            while (  # noqa: ASYNC110
                await survivors[1].post("/v1/backfills/bf-w/cancel")
            ).status != 200:
                await asyncio.sleep(0.05)
            assert b"event: finished" in await seen.content.read()


async def _settled(rigs: list[HttpRig]) -> None:
    """Wait until no node is finding out what became of a grant any more."""
    await until(lambda: all(rig.service.unsettled == 0 for rig in rigs))
