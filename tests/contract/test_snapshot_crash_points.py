"""Rung 3 for snapshots: the power goes at every write, fsync, rename and removal.

Whatever was lost, a restart finds the old snapshot whole or the new one whole, and the new one once
it was reported.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.snapshot_rig import (
    DIRECTORY,
    TERM,
    begin,
    digest_after,
    disk_with,
    finish,
    machine_after,
    store_on,
    write,
)
from seamfill.errors import SeamfillError
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore


@dataclass(slots=True)
class Witness:
    """Pulls the plug before every step, and looks at what a restart finds."""

    disk: SimulatedDisk
    rng: random.Random
    reported: int | None = None
    """Index of the snapshot that was said to be durable."""
    in_flight: int | None = None
    steps: dict[str, int] = field(default_factory=dict)
    found_new: int = 0
    found_old: int = 0
    restarts: int = 0
    lost: list[str] = field(default_factory=list)

    def __call__(self, name: str, path: Path) -> None:
        self.steps[name] = self.steps.get(name, 0) + 1
        for fate in (Fate.DROPPED, Fate.KEPT, Fate.TORN, Fate.TORN):
            survived = self.disk.after_power_loss(fate, self.rng)
            self.restart(survived, f"{name} {path.name} {fate}")
        # And once more while the restart clears away what the first time left.
        survived = self.disk.after_power_loss(Fate.TORN, self.rng)
        survived.on_step = lambda again, _: self.restart(
            survived.after_power_loss(Fate.TORN, self.rng), f"{name} {path.name}, {again}"
        )
        self.restart(survived, f"{name} {path.name}, twice")

    def restart(self, survived: SimulatedDisk, what: str) -> None:
        self.restarts += 1
        try:
            store = store_on(survived)
            info = store.newest()
            index = None if info is None else info.last_index
            if info is not None and store.load(info).state_digest() != digest_after(index or 0):
                self.lost.append(f"{what}: another state")
        except SeamfillError as exc:
            self.lost.append(f"{what}: {exc}")
            return
        if index not in (self.reported, self.in_flight):
            self.lost.append(f"{what}: snapshot {index}")
        self.found_old += index == self.reported
        self.found_new += index != self.reported
        if self.restarts % 7 == 0:
            goes_on(survived)


def goes_on(disk: SimulatedDisk) -> None:
    """What is left must not only be read: the next snapshot must be found again."""
    disk.on_step = None
    write(store_on(disk), 130)
    found = store_on(disk.after_power_loss(Fate.DROPPED, random.Random(0))).newest()
    assert found is not None
    assert found.last_index == 130


def run_script(disk: SimulatedDisk, seed: int) -> Witness:
    """Write, replace, abandon, receive."""
    witness = Witness(disk, random.Random(seed))
    disk.on_step = witness
    store = store_on(disk)

    def note(info: SnapshotInfo) -> None:
        witness.reported = info.last_index
        store.drop_older_than(info)

    for index in (30, 60):
        witness.in_flight = index
        note(finish(begin(store, machine_after(index), index)))
    writer = begin(store, machine_after(80), 80)
    for _ in range(3):
        writer.step()
    writer.abandon()
    witness.in_flight = 110
    note(received(store, 110))
    witness.in_flight = 125
    note(write(store, 125))
    return witness


def received(store: SnapshotStore, index: int) -> SnapshotInfo:
    disk, sent = disk_with(index)
    data = disk.read(sent.path)
    receiver = store.receive(last_index=index, last_term=TERM, size=len(data))
    while not receiver.is_complete:
        assert receiver.add(receiver.offset, data[receiver.offset :][:600])
    info, _ = receiver.finish()
    return info


def test_every_crash_leaves_the_old_snapshot_or_the_new_one() -> None:
    disk = SimulatedDisk()
    witness = run_script(disk, seed=7)
    assert witness.lost == []
    # Otherwise it proved nothing: the moments it is about must have happened.
    assert witness.steps["write"] > 20
    assert witness.steps["sync"] > 20
    assert witness.steps["rename"] == 4
    assert witness.steps["remove"] == 4, "three older ones, and the abandoned one"
    assert witness.found_new > 10
    assert witness.found_old > 200
    assert disk.names(DIRECTORY) == ["0000000000000125.snapshot"]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_control_without_fsync_loses(seed: int) -> None:
    assert len(run_script(SimulatedDisk(honours_sync=False), seed).lost) > 30
