"""A real node whose disk is full or fails: it ends itself, and nobody else notices more than that.

The nodes are real processes; the full disk is a small tmpfs, the failing fsync is the node's own
file layer told to raise what a broken disk raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seamfill_chaos.live.faulty_node import FAILED
from seamfill_chaos.live.processes import ManagedProcess, ProcessFailed
from seamfill_chaos.live.scene import Scene, a_scene
from seamfill_coordinator.raft.replica import FATAL_EXIT_CODE

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

VICTIM = "n1"
SEGMENT_BYTES = 64 << 10
LEFT_BYTES = 150 << 10
"""What a file of somebody else leaves of the disk: two segments, and a little."""
LEAST_RATE = 50.0
ENDS_WITHIN_S = 60.0
SERVES_ON_S = 2.0


async def test_a_node_on_a_full_disk_ends_and_comes_back_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "cluster" / VICTIM
    data_dir.parent.mkdir()
    data_dir.symlink_to(small_disk)
    options = ["--journal-segment-bytes", str(SEGMENT_BYTES)]
    async with a_scene(tmp_path, seed=1, options=options) as scene:
        await scene.until_rate(LEAST_RATE)
        leave_only(small_disk, LEFT_BYTES)
        code = await ended(scene.world.nodes[VICTIM])
        assert code == FATAL_EXIT_CODE, "not by a signal: SIGBUS would be one"
        assert code != -signal.SIGBUS
        assert "No space left on device" in fatal_line(scene.world.nodes[VICTIM])
        await assert_the_others_serve(scene)
        await start_again_in_vain(scene)
        (small_disk / "ballast").unlink()
        enlarge(small_disk)
        await scene.world.restart_node(VICTIM)
        await scene.watch.until_converged()
        assert await scene.settle() == []


async def test_a_node_whose_fsync_fails_ends_and_tries_nothing_again(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    programs = {VICTIM: (sys.executable, "-m", "seamfill_chaos.live.faulty_node", fault)}
    async with a_scene(tmp_path, seed=2, programs=programs) as scene:
        await scene.until_rate(LEAST_RATE)
        fault.touch()
        node = scene.world.nodes[VICTIM]
        assert await ended(node) == FATAL_EXIT_CODE
        assert "Input/output error" in fatal_line(node)
        assert fault.read_text().splitlines() == [FAILED]
        await assert_the_others_serve(scene)
        fault.unlink()
        await scene.world.restart_node(VICTIM)
        assert await scene.settle() == []


async def start_again_in_vain(scene: Scene) -> None:
    """As a supervisor would while the disk is still full; it may serve what room is left."""
    with contextlib.suppress(ProcessFailed):
        await scene.world.restart_node(VICTIM)
        assert await ended(scene.world.nodes[VICTIM]) == FATAL_EXIT_CODE
    assert scene.violations == []


async def ended(node: ManagedProcess) -> int:
    """Return the exit code once a node has ended by itself."""
    async with asyncio.timeout(ENDS_WITHIN_S):
        return await node.process.wait()


async def assert_the_others_serve(scene: Scene) -> None:
    """They lead, and go on acknowledging at a good rate."""
    leader = await scene.watch.leader()
    assert leader != VICTIM
    before_s = time.monotonic()
    await asyncio.sleep(SERVES_ON_S)
    await scene.until_rate(LEAST_RATE)
    assert scene.traffic.acknowledged_at[-1] > before_s
    assert scene.violations == []


def fatal_line(node: ManagedProcess) -> str:
    (line,) = [line for line in node.log.read_text().splitlines() if '"replica.fatal"' in line]
    return line


def leave_only(disk: Path, left_bytes: int) -> None:
    """Fill a disk but for ``left_bytes``, with a file that is nobody's."""
    filesystem = subprocess.run(
        ["df", "--output=avail", "-B1", disk], capture_output=True, text=True, check=True
    )
    available = int(filesystem.stdout.split()[-1])
    (disk / "ballast").write_bytes(b"\0" * (available - left_bytes))


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=16M", disk], check=True)
