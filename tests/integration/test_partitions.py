"""Real packets that are really dropped: three nodes, each in a network namespace of its own."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest

from real_parts import part_missing
from seamfill_chaos.flapping.flapping import FlapPlan, run_flapping
from seamfill_chaos.flapping.ledger import summary
from seamfill_chaos.live.journals import judge_journals
from seamfill_chaos.live.namespaces import Wires, what_wires_lack
from seamfill_chaos.live.partitions import Fault, IsolatedAnswer, Round, one_round
from seamfill_chaos.live.processes import program
from seamfill_chaos.live.scene import NODES, a_scene
from seamfill_chaos.live.traffic import TrafficPlan

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 10
"""Of each fault. The p99 of so few is the longest of them, which is what is asserted."""
SILENCE_S = {Fault.KILLED: 1.2}
OTHER_SILENCE_S = 3.0
CONVERGENCE_S = 5.0
NOTICED_S = 1.0
"""After so long without a quorum a leader knows that it is none."""
ANSWER_S = 2.0
CALM = TrafficPlan(rate=90.0)
"""Enough to notice every silence, and little enough to ask for all of it again in the end."""
FLAPPING_S = 30.0


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    lacking = what_wires_lack()
    if lacking is not None:
        part_missing(lacking)
    async with Wires(NODES) as made:
        yield made


async def test_faults_neither_make_reads_stale_nor_two_leaders_nor_long_silence(
    wires: Wires, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All faults in random order, under traffic: what clients heard and nodes said must fit."""
    rng = random.Random(4)
    faults = [fault for fault in Fault for _ in range(ROUNDS)]
    rng.shuffle(faults)
    async with a_scene(tmp_path, seed=4, plan=CALM, wires=wires) as scene:
        rounds = [await one_round(scene, wires, fault, rng) for fault in faults]
        violations = await scene.settle()
        with capsys.disabled():
            print("\n" + table(rounds))
        assert violations == []
        assert scene.watch.terms > ROUNDS, "hardly a leader ever changed"
        assert scene.watch.agreed, "no two digests were ever compared"
    assert (
        judge_journals(scene.world.data_dirs, scene.recorder.history(), scene.watch.digests) == []
    )
    for fault in Fault:
        of_this = [one for one in rounds if one.fault is fault]
        assert max(one.silence_s for one in of_this) <= SILENCE_S.get(fault, OTHER_SILENCE_S)
        assert max(one.convergence_s for one in of_this) <= CONVERGENCE_S
    assert_isolated_leaders_said_no(
        [answer for one in rounds for answer in one.answers],
        [key for one in rounds for key in one.granted_later],
    )


async def test_flapping_links_lose_nothing_and_heal(
    wires: Wires, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten minutes of it are run by hand: `seamfill-chaos flapping`."""
    account = await run_flapping(FlapPlan(directory=tmp_path, seed=5, lasting_s=FLAPPING_S), wires)
    with capsys.disabled():
        print("\n" + summary(account))
    assert account.failures() == []
    assert account.flaps >= 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_interrupted_run_leaves_neither_nodes_nor_namespaces(
    wires: Wires, tmp_path: Path, number: signal.Signals
) -> None:
    """After SIGKILL nobody can clean up but the kernel, which ends the nodes, and the next run."""
    tool = await asyncio.create_subprocess_exec(
        program("seamfill-chaos"),
        *("flapping", "--for", "60", "--keep", tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        nodes = await three_children(tool.pid)
        tool.send_signal(number)
        async with asyncio.timeout(30):
            code = await tool.wait()
    finally:
        if tool.returncode is None:
            tool.kill()
            await tool.wait()
    assert code == (-number if number is signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(nodes, timeout=10)
    assert alive == []
    if number is signal.SIGKILL:
        async with Wires(NODES):
            pass
    assert list(Path("/run/netns").glob(f"seamfill-{tool.pid}-*")) == []


async def three_children(pid: int) -> list[psutil.Process]:
    """Return the nodes of a chaos tool once all of them run."""
    async with asyncio.timeout(30):
        while True:
            found = [child for child in psutil.Process(pid).children() if is_node(child)]
            if len(found) == len(NODES):
                return found
            await asyncio.sleep(0.05)


def is_node(process: psutil.Process) -> bool:
    try:
        return "serve" in process.cmdline()
    except psutil.NoSuchProcess:  # an `ip` that was done before it was looked at
        return False


def assert_isolated_leaders_said_no(
    answers: Sequence[IsolatedAnswer], granted_later: Sequence[str]
) -> None:
    """An honest 503 within two seconds, and nothing that was refused is done afterwards."""
    late = [answer for answer in answers if answer.since_cut_s >= NOTICED_S]
    assert len(late) >= 2 * ROUNDS
    assert {answer.status for answer in late} == {503}
    assert all(answer.status in (503, 504) for answer in answers), answers
    assert max(answer.took_s for answer in answers) <= ANSWER_S
    assert granted_later == []


def table(rounds: Sequence[Round]) -> str:
    lines = [f"{'fault':<28} {'rounds':>6} {'silence s':>16} {'convergence s':>16}"]
    for fault in Fault:
        of_this = [one for one in rounds if one.fault is fault]
        silences = [one.silence_s for one in of_this]
        convergences = [one.convergence_s for one in of_this]
        lines.append(f"{fault:<28} {len(of_this):>6} {spread(silences)} {spread(convergences)}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):>7.2f} / {max(values):>6.2f}"
