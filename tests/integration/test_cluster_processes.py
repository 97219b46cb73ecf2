"""The coordinator's processes as an operator or a script meets them: real, and killed for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from seamfill_chaos.live.processes import STOP_TIMEOUT_S, ManagedProcess, Processes, program
from seamfill_chaos.live.world import World, cluster_view
from seamfill_coordinator.ports import free_ports

PATIENT_S = 30.0
UNDECIDED = (0, 503)
"""No answer, or no leader for the moment: neither a grant nor a refusal."""


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path / "logs") as running:
        yield running


async def start_dev(
    processes: Processes, directory: Path, *options: str, name: str = "dev"
) -> ManagedProcess:
    return await processes.start(
        name, [program("coordinator"), "dev", "--nodes", "3", "--data-dir", directory, *options]
    )


async def until_leader(urls: Sequence[str]) -> tuple[str, str]:
    """Return the id and url of the leader that is ready."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            for url in urls:
                view = await cluster_view(url)
                if view is not None and view["ready"] and view["leader"] == view["node_id"]:
                    return view["leader"], url
            await asyncio.sleep(0.02)


async def claim(http: aiohttp.ClientSession, url: str, key: str) -> int:
    """Return the status that a compatibility claim ends with, whatever elections came between.

    A grant that nobody heard of is given back by its node, so asking again is right.
    """
    async with asyncio.timeout(PATIENT_S):
        while (status := await claim_once(http, url, key)) in UNDECIDED:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return status


async def claim_once(http: aiohttp.ClientSession, url: str, key: str) -> int:
    """Return the status of a compatibility claim, 0 when there was no answer."""
    try:
        async with http.post(
            f"{url}/v1/leases/claim", json={"key": key, "lease_ms": 600_000}
        ) as answer:
            return answer.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0


def client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=3), connector=aiohttp.TCPConnector(force_close=True)
    )


def run_to_end(*words: str | Path, environment: dict[str, str] | None = None) -> Any:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=PATIENT_S,
        env={**os.environ, **(environment or {})},
        check=False,
    )


async def until_gone(pids: Sequence[int]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110  # not our children
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_nothing_acknowledged_is_lost_when_leaders_are_killed(
    processes: Processes, tmp_path: Path
) -> None:
    world = World(processes)
    await world.start_cluster(tmp_path / "cluster")
    acknowledged: list[str] = []
    async with client() as http:
        for round_number in range(3):
            leader = await world.wait_until_ready()
            keys = [f"round-{round_number}-{n}" for n in range(60)]
            granting = asyncio.create_task(
                claim_in_turn(http, world.urls[leader], keys, acknowledged)
            )
            await until_acknowledged(acknowledged, 20 + 20 * round_number)
            await world.kill_node(leader)
            await granting
            await world.restart_node(leader)
        leader = await world.wait_until_ready()
        assert len(acknowledged) >= 60
        for key in acknowledged:
            assert await claim(http, world.urls[leader], key) == 409, f"{key} was forgotten"


async def claim_in_turn(
    http: aiohttp.ClientSession, url: str, keys: Sequence[str], acknowledged: list[str]
) -> None:
    for key in keys:
        if await claim_once(http, url, key) == 200:
            acknowledged.append(key)


async def until_acknowledged(acknowledged: list[str], count: int) -> None:
    async with asyncio.timeout(PATIENT_S):
        while len(acknowledged) < count:  # noqa: ASYNC110  # a list has no event
            await asyncio.sleep(0.001)


async def test_all_killed_nodes_resume_with_everything_acknowledged(
    processes: Processes, tmp_path: Path
) -> None:
    world = World(processes)
    await world.start_cluster(tmp_path / "cluster")
    async with client() as http:
        leader = await world.wait_until_ready()
        acknowledged: list[str] = []
        keys = [f"key-{n}" for n in range(50)]
        await claim_in_turn(http, world.urls[leader], keys, acknowledged)
        assert len(acknowledged) > len(keys) / 2
        for node_id in world.nodes:
            await world.kill_node(node_id)
        for node_id in world.nodes:
            await world.restart_node(node_id)
        leader = await world.wait_until_ready()
        for key in acknowledged:
            assert await claim(http, world.urls[leader], key) == 409


@pytest.mark.parametrize("pause_s", [1.0, 3.0], ids=["short", "beyond the connection timeout"])
async def test_a_paused_follower_does_not_depose_the_leader(
    processes: Processes, tmp_path: Path, pause_s: float
) -> None:
    world = World(processes)
    await world.start_cluster(tmp_path / "cluster")
    # A busy machine may cost any leader its term at any time. A follower that deposes one when it
    # wakes does so every time: its own patience has always run out.
    for _ in range(3):
        if await keeps_its_term_through(world, pause_s):
            return
    pytest.fail("the term changed each time")


async def keeps_its_term_through(world: World, pause_s: float) -> bool:
    """Pause a follower; return whether the term is the same once it is ready again."""
    leader = await world.wait_until_ready()
    before = await ready_view(world.urls[leader])
    follower = next(node_id for node_id in world.nodes if node_id != leader)
    world.nodes[follower].signal(signal.SIGSTOP)
    await asyncio.sleep(pause_s)
    world.nodes[follower].signal(signal.SIGCONT)
    after = await ready_view(world.urls[follower])
    return bool(after["term"] == before["term"])


async def ready_view(url: str) -> dict[str, Any]:
    """Return what a node says of its cluster as soon as it is ready."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            view = await cluster_view(url)
            if view is not None and view["ready"]:
                return view
            await asyncio.sleep(0.02)


async def test_a_paused_leader_follows_when_it_wakes(processes: Processes, tmp_path: Path) -> None:
    world = World(processes)
    await world.start_cluster(tmp_path / "cluster")
    old = await world.wait_until_ready()
    world.nodes[old].signal(signal.SIGSTOP)
    _, url = await until_leader([u for node_id, u in world.urls.items() if node_id != old])
    async with client() as http:
        assert await claim(http, url, "while it slept") == 200
        world.nodes[old].signal(signal.SIGCONT)
        # Its connections still stand; what it answers must come from the new leader.
        assert await claim(http, world.urls[old], "while it slept") == 409
    async with asyncio.timeout(PATIENT_S):
        while True:
            view = await cluster_view(world.urls[old])
            if view is not None and view["ready"] and view["leader"] == await world.leader():
                break
            await asyncio.sleep(0.02)


async def test_dev_says_one_line_and_ends_all_nodes_when_asked(
    processes: Processes, tmp_path: Path
) -> None:
    dev = await start_dev(processes, tmp_path / "cluster")
    assert dev.ready["event"] == "ready"
    assert [node["id"] for node in dev.ready["nodes"]] == ["n1", "n2", "n3"]
    assert dev.ready["urls"] == [node["url"] for node in dev.ready["nodes"]]
    pids = [node["pid"] for node in dev.ready["nodes"]]
    await until_leader(dev.ready["urls"])
    assert await dev.stop() == 0
    assert dev.process.stdout is not None
    assert await dev.process.stdout.read() == b"", "exactly one line on stdout"
    assert not any(is_alive(pid) for pid in pids)


async def test_no_node_outlives_a_parent_that_was_killed(
    processes: Processes, tmp_path: Path
) -> None:
    dev = await start_dev(processes, tmp_path / "cluster")
    await dev.kill()
    await until_gone([node["pid"] for node in dev.ready["nodes"]])


async def test_the_directory_is_the_cluster_also_on_other_ports(
    processes: Processes, tmp_path: Path
) -> None:
    first = await start_dev(processes, tmp_path / "cluster", name="first")
    _, url = await until_leader(first.ready["urls"])
    before = await cluster_view(url)
    async with client() as http:
        assert await claim(http, url, "kept") == 200
        await first.stop()
        with ExitStack() as taken:
            for old in first.ready["urls"]:
                sock = taken.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", int(old.rpartition(":")[2])))
                sock.listen()
            second = await start_dev(processes, tmp_path / "cluster", name="second")
        assert set(second.ready["urls"]).isdisjoint(first.ready["urls"])
        _, url = await until_leader(second.ready["urls"])
        after = await cluster_view(url)
        assert before is not None
        assert after is not None
        assert after["cluster_id"] == before["cluster_id"]
        assert await claim(http, url, "kept") == 409


async def test_two_parents_never_share_a_directory(processes: Processes, tmp_path: Path) -> None:
    await start_dev(processes, tmp_path / "cluster")
    second = run_to_end(
        program("coordinator"), "dev", "--nodes", "3", "--data-dir", tmp_path / "cluster"
    )
    assert second.returncode == 4
    assert "another process" in second.stderr
    assert second.stdout == ""


async def test_a_directory_of_three_nodes_is_not_one_of_five(
    processes: Processes, tmp_path: Path
) -> None:
    dev = await start_dev(processes, tmp_path / "cluster")
    await dev.stop()
    five = run_to_end(
        program("coordinator"), "dev", "--nodes", "5", "--data-dir", tmp_path / "cluster"
    )
    assert five.returncode == 2
    assert "--nodes" in five.stderr


async def test_a_dead_node_stays_dead_and_its_line_starts_it_again(
    processes: Processes, tmp_path: Path
) -> None:
    dev = await start_dev(processes, tmp_path / "cluster")
    leader, _ = await until_leader(dev.ready["urls"])
    node = next(node for node in dev.ready["nodes"] if node["id"] == leader)
    os.kill(node["pid"], signal.SIGKILL)
    others = [url for url in dev.ready["urls"] if url != node["url"]]
    await until_leader(others)
    assert await cluster_view(node["url"]) is None
    by_hand = await processes.start("by-hand", node["argv"])
    assert by_hand.ready["id"] == leader
    assert by_hand.ready["url"] == node["url"]


async def test_respawn_brings_a_dead_node_back(processes: Processes, tmp_path: Path) -> None:
    dev = await start_dev(processes, tmp_path / "cluster", "--respawn", "0.1")
    node = dev.ready["nodes"][0]
    os.kill(node["pid"], signal.SIGKILL)
    await until_gone([node["pid"]])
    async with asyncio.timeout(PATIENT_S):
        while await cluster_view(node["url"]) is None:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.05)


async def test_a_lone_node_drains_on_the_first_signal(processes: Processes, tmp_path: Path) -> None:
    node = await processes.start("n1", serve_line(tmp_path / "data"))
    assert node.ready["event"] == "ready"
    assert node.ready["id"] == "n1"
    assert node.ready["pid"] == node.pid
    await until_leader([node.ready["url"]])
    started = time.monotonic()
    assert await node.stop() == 0
    assert time.monotonic() - started < STOP_TIMEOUT_S
    assert node.process.stdout is not None
    assert await node.process.stdout.read() == b""
    events = [json.loads(line)["event"] for line in node.log.read_text().splitlines()]
    assert "node.draining" in events
    assert events[-1] == "node.stopped"


async def test_a_request_that_waits_is_answered_when_its_node_drains(
    processes: Processes, tmp_path: Path
) -> None:
    node = await processes.start("n1", serve_line(tmp_path / "data"))
    await until_leader([node.ready["url"]])
    body = {
        "worker": {"id": "w1", "boot": "b1"},
        "offers": [{"source": "ccxt:binance"}],
        "stores": ["parquet:*"],
        "wait_ms": 30_000,
    }
    async with client() as http:
        waiting = asyncio.create_task(
            http.post(
                f"{node.ready['url']}/v1/leases/acquire",
                json=body,
                timeout=aiohttp.ClientTimeout(total=PATIENT_S),
            )
        )
        await until_held(node.ready["url"])
        stopped = asyncio.create_task(node.stop())
        answer = await waiting
        assert answer.status in (200, 503)
        assert (await answer.json())["protocol"] >= 1
        assert await stopped == 0


async def until_held(url: str) -> None:
    """Wait until the node holds a request that waits."""
    async with asyncio.timeout(PATIENT_S), client() as http:
        while True:
            async with http.get(f"{url}/metrics") as answer:
                if "coordinator_http_parked_requests 1.0" in await answer.text():
                    return
            await asyncio.sleep(0.02)


async def test_a_second_signal_stops_at_once(processes: Processes) -> None:
    stubborn = (
        "import asyncio\n"
        "from seamfill_coordinator.app import StopSignal\n"
        "async def main():\n"
        "    async with StopSignal() as stop:\n"
        "        print('{}', flush=True)\n"
        "        await stop.wait()\n"
        "        print('draining', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await processes.start("stubborn", [sys.executable, "-c", stubborn])
    assert process.process.stdout is not None
    process.signal(signal.SIGTERM)
    assert await process.process.stdout.readline() == b"draining\n"
    process.signal(signal.SIGTERM)
    assert await process.process.wait() == 128 + signal.SIGTERM


def serve_line(data_dir: Path, **replaced: str) -> list[str | Path]:
    flags = {
        "--node-id": "n1",
        "--cluster-id": "c1",
        "--listen": "127.0.0.1:0",
        "--peer-listen": "127.0.0.1:0",
        "--data-dir": str(data_dir),
    }
    flags.update({f"--{name.replace('_', '-')}": value for name, value in replaced.items()})
    return [program("coordinator"), "serve", *(word for pair in flags.items() for word in pair)]


async def test_a_directory_in_use_is_refused(processes: Processes, tmp_path: Path) -> None:
    await processes.start("n1", serve_line(tmp_path / "data"))
    second = run_to_end(*serve_line(tmp_path / "data"))
    assert second.returncode == 4
    assert "used by another process" in second.stderr


@pytest.mark.parametrize(("name", "value"), [("cluster_id", "c2"), ("node_id", "n2")])
async def test_a_directory_of_another_node_or_cluster_is_refused(
    processes: Processes, tmp_path: Path, name: str, value: str
) -> None:
    node = await processes.start("n1", serve_line(tmp_path / "data"))
    await node.stop()
    foreign = run_to_end(*serve_line(tmp_path / "data", **{name: value}))
    assert foreign.returncode == 8
    assert f"belongs to {name}" in foreign.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "nonsense"),
        ("peer_listen", "127.0.0.1:99999"),
        ("peer", "n2"),
        ("node_id", "a b"),
        ("log_level", "loud"),
        ("profile", "production"),
        ("certs", "/does/not/exist"),
    ],
)
def test_a_bad_flag_is_named(tmp_path: Path, name: str, value: str) -> None:
    refused = run_to_end(*serve_line(tmp_path / "data", **{name: value}))
    assert refused.returncode == 2
    assert f"--{name.replace('_', '-')}" in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / "data").exists(), "nothing may start before all is valid"


def test_peers_need_certificates_and_prod_real_ones(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    line = serve_line(tmp_path / "data", peer="n2=10.255.0.1:9", peer_listen="127.0.0.1:8")
    without = run_to_end(*line)
    assert without.returncode == 2
    assert "--certs: is needed" in without.stderr
    assert "coordinator certs init --dir DIR --node n1 --node n2" in without.stderr
    made = run_to_end(
        *(program("coordinator"), "certs", "init", "--dir", certs),
        *("--node", "n1", "--node", "n2"),
    )
    assert made.returncode == 0
    refused = run_to_end(*line, "--certs", certs, "--profile", "prod")
    assert refused.returncode == 2
    assert "--certs: " in refused.stderr
    assert "is a development CA" in refused.stderr
    assert not (tmp_path / "data").exists(), "nothing may start before all is valid"


async def test_a_taken_address_is_named(processes: Processes, tmp_path: Path) -> None:
    node = await processes.start("n1", serve_line(tmp_path / "one"))
    address = node.ready["url"].removeprefix("http://")
    taken = run_to_end(*serve_line(tmp_path / "two", listen=address))
    assert taken.returncode == 1
    assert f"--listen {address}" in taken.stderr


async def test_three_nodes_started_by_hand_on_loopback_find_each_other(
    processes: Processes, tmp_path: Path
) -> None:
    """By the documented line, which has no certificates in it, all in the same moment."""
    ids = ("n1", "n2", "n3")
    addresses = {n: f"127.0.0.1:{port}" for n, port in zip(ids, free_ports(3), strict=True)}

    async def start(node_id: str) -> ManagedProcess:
        peers = [w for n in ids if n != node_id for w in ("--peer", f"{n}={addresses[n]}")]
        line = serve_line(tmp_path / node_id, node_id=node_id, peer_listen=addresses[node_id])
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
        return await processes.start(node_id, [*line, *peers], environment=environment)

    first, *_ = await asyncio.gather(*(start(node_id) for node_id in ids))
    async with asyncio.timeout(20):
        while (view := await cluster_view(first.ready["url"])) is None or view["leader"] is None:  # noqa: ASYNC110  # of another process
            await asyncio.sleep(0.1)
    assert view["leader"] in ids
    certs = tmp_path / "state" / "seamfill" / "development-certs" / "c1"
    assert {path.name for path in certs.glob("n*.crt")} == {"n1.crt", "n2.crt", "n3.crt"}
