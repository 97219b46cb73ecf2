"""Rung 3: the power goes at every write, fsync and rename; nothing acknowledged may be lost."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.journal_rig import DIRECTORY, Script, State, journal_on, state_of
from seamfill.errors import SeamfillError
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.raft.journal import DurableJournal

TURNS = 220
SEGMENT_BYTES = 2048
COMPACTIONS = (50, 100, 150)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of torn groups are cut here; each is logged."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@dataclass(slots=True)
class Witness:
    """Pulls the plug before every step, and looks at what a restart finds."""

    disk: SimulatedDisk
    rng: random.Random
    acknowledged: State = field(default_factory=State)
    in_flight: State = field(default_factory=State)
    steps: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    torn: int = 0
    lost: list[str] = field(default_factory=list)

    def __call__(self, name: str, path: Path) -> None:
        self.steps[name] = self.steps.get(name, 0) + 1
        for fate in (Fate.DROPPED, Fate.KEPT, Fate.TORN, Fate.TORN):
            survived = self.disk.after_power_loss(fate, self.rng)
            self._restart(survived, f"{name} {path.name} {fate}")
        # And once more while the restart repairs what the first time left.
        survived = self.disk.after_power_loss(Fate.TORN, self.rng)
        survived.on_step = lambda again, _: self._restart(
            survived.after_power_loss(Fate.TORN, self.rng), f"{name} {path.name}, {again}"
        )
        self._restart(survived, f"{name} {path.name}, twice")

    def _restart(self, survived: SimulatedDisk, what: str) -> None:
        self.restarts += 1
        try:
            journal = journal_on(survived, segment_bytes=SEGMENT_BYTES)
        except SeamfillError as exc:
            self.lost.append(f"{what}: {exc}")
            return
        self.torn += journal.torn_groups
        if state_of(journal) not in (self.acknowledged, self.in_flight):
            self.lost.append(f"{what}: another state")
        elif self.restarts % 4 == 0:
            _goes_on(journal, survived)


def _goes_on(journal: DurableJournal, disk: SimulatedDisk) -> None:
    """A repaired journal must not only be read: what it writes next must be found again."""
    disk.on_step = None
    index = journal[-1][1] + 1 if len(journal) else 1
    journal.add(b"\0after", index, journal.getCurrentTerm())
    journal.sync()
    left = disk.after_power_loss(Fate.DROPPED, random.Random(0))
    assert journal_on(left)[-1] == (b"\0after", index, journal.getCurrentTerm())


def run_script(disk: SimulatedDisk, seed: int, *, turns: int = TURNS) -> Witness:
    script, witness = Script(seed), Witness(disk, random.Random(seed))
    disk.on_step = witness
    journal = journal_on(disk, segment_bytes=SEGMENT_BYTES)
    script.start(journal)
    for turn in range(turns):
        script.turn(journal)
        if turn in COMPACTIONS:
            script.compact(journal)
        if turn == turns - 10:
            script.install(journal)
        witness.in_flight = script.state
        journal.sync()
        witness.acknowledged = script.state
    return witness


def test_nothing_acknowledged_is_lost_at_any_crash_point() -> None:
    disk = SimulatedDisk()
    witness = run_script(disk, seed=7)
    assert witness.lost == []
    # Otherwise it proved nothing: the moments it is about must have happened.
    assert witness.steps["sync"] > 200
    assert witness.steps["rename"] >= 4, "segments began"
    assert witness.steps["remove"] >= 2, "segments were dropped"
    assert witness.steps["sync_directory"] >= 6
    assert witness.torn > 100, "groups were torn"
    assert len(disk.names(DIRECTORY)) < witness.steps["rename"]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_control_without_fsync_loses(seed: int) -> None:
    witness = run_script(SimulatedDisk(honours_sync=False), seed, turns=30)
    assert len(witness.lost) > 100
