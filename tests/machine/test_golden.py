"""Golden logs: the same commands give the same digests, for every version and hash seed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from machine import replay
from machine.recorder import record
from machine.story import Story
from seamfill_coordinator.machine.codec import apply_encoded
from seamfill_coordinator.machine.machine import LeaseMachine

HERE = Path(__file__).parent
STORIES = ("01_life_of_one_window", "11_listing_date", "12_redo_restated", "20_claims")


def _commands() -> dict[str, list[bytes]]:
    """What ``--rewrite`` records: a few stories, and a long run of random commands."""
    logs = {}
    for name in STORIES:
        text = (HERE / "scenarios" / f"{name}.txt").read_text(encoding="utf-8")
        logs[name] = Story.log_of(text)
    logs["random_commands"] = record(commands=400)
    return logs


def test_a_machine_leaves_nothing_to_the_collector_while_it_lives() -> None:
    """A leader collects cyclic garbage among what is new, and for a day nowhere else."""
    stories = sorted((HERE / "scenarios").glob("*.txt"))
    logs = [Story.log_of(path.read_text(encoding="utf-8")) for path in stories]
    logs.append([data for data, _ in replay.read(replay.GOLDEN / "random_commands.log")])
    machines = [LeaseMachine() for _ in logs]
    gc.collect()
    gc.disable()
    try:
        for machine, log in zip(machines, logs, strict=True):
            for data in log:
                apply_encoded(machine, data)
                machine.state_digest()
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert all(machine.state.step > 0 for machine in machines)


def test_golden_logs_give_the_recorded_digests(rewrite: bool) -> None:
    if rewrite:
        for name, commands in _commands().items():
            lines = [
                f"{data.hex()} {digest}\n"
                for data, digest in zip(commands, replay.digests(commands), strict=True)
            ]
            (replay.GOLDEN / f"{name}.log").write_text("".join(lines), encoding="ascii")
    paths = sorted(replay.GOLDEN.glob("*.log"))
    assert len(paths) > len(STORIES)
    for path in paths:
        pairs = replay.read(path)
        assert replay.digests([data for data, _ in pairs]) == [digest for _, digest in pairs], path


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_digests_do_not_depend_on_the_hash_seed(seed: str) -> None:
    """S9: nodes have different hash seeds, and must not show it."""
    expected = "".join(
        f"{path.name} {' '.join(digest for _, digest in replay.read(path))}\n"
        for path in sorted(replay.GOLDEN.glob("*.log"))
    )
    result = subprocess.run(
        [sys.executable, "-m", "machine.replay"],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == expected
