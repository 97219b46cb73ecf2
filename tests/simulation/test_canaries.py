"""Deliberate bugs: the simulation must find each of them, or it proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamfill_chaos.sim.canaries import CANARIES
from simulation.sim_command import simulate


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", sorted(CANARIES))
def test_a_bug_is_found(name: str, jobs: int, tmp_path: Path) -> None:
    last = CANARIES[name].within_seeds
    told = simulate(
        "--canary", name, "--seeds", f"1..{last}", "--jobs", jobs, cwd=tmp_path, timeout_s=1_800
    )
    assert told.document["violations"], f"{CANARIES[name].bug}: not found in {last} seeds"
    assert told.exit_code == 0
