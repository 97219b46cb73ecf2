"""A life of random commands, and snapshots of it on a simulated disk."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from machine import replay
from seamfill_chaos.disk import SimulatedDisk
from seamfill_coordinator.machine import codec, snapshot
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.raft.journal_files import Files
from seamfill_coordinator.raft.membership import Configuration, Member
from seamfill_coordinator.raft.snapshot_format import SnapshotHeader, encode_header
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore, SnapshotWriter

DIRECTORY = Path("/node/snapshots")
SLICE_BYTES = 256
"""Small, so that a small state has many slices, and more frames."""
TERM = 3
CONFIGURATION = Configuration(voters=(Member("n1", "life-1"), Member("n2", "life-2")))


@cache
def commands() -> tuple[bytes, ...]:
    """Return the commands of the long golden log."""
    return tuple(data for data, _ in replay.read(replay.GOLDEN / "random_commands.log"))


@cache
def digest_after(index: int) -> str:
    """Return the digest that was recorded after ``index`` commands."""
    return replay.read(replay.GOLDEN / "random_commands.log")[index - 1][1]


def machine_after(index: int) -> LeaseMachine:
    machine = LeaseMachine()
    for data in commands()[:index]:
        codec.apply_encoded(machine, data)
    return machine


def store_on(files: Files, *, directory: Path = DIRECTORY, cluster_id: str = "c1") -> SnapshotStore:
    return SnapshotStore(directory, files, cluster_id=cluster_id, slice_bytes=SLICE_BYTES)


def begin(store: SnapshotStore, machine: LeaseMachine, index: int) -> SnapshotWriter:
    return store.begin(machine, last_index=index, last_term=TERM, configuration=CONFIGURATION)


def finish(writer: SnapshotWriter) -> SnapshotInfo:
    while (info := writer.step()) is None:
        pass
    return info


def write(store: SnapshotStore, index: int) -> SnapshotInfo:
    """Write a snapshot of the state after ``index`` commands."""
    return finish(begin(store, machine_after(index), index))


def file_of(index: int, machine: LeaseMachine, *, cluster_id: str = "c1") -> bytes:
    """Return the bytes of a snapshot file of the machine as it is now."""
    head, seed = encode_header(
        SnapshotHeader(
            cluster_id=cluster_id,
            last_index=index,
            last_term=TERM,
            configuration=CONFIGURATION,
        )
    )
    frames = snapshot.frames(machine.capture(), seed=seed, frame_bytes=SLICE_BYTES // 4)
    return head + b"".join(frames)


def disk_with(index: int) -> tuple[SimulatedDisk, SnapshotInfo]:
    """Return a disk with one durable snapshot."""
    disk = SimulatedDisk()
    return disk, write(store_on(disk), index)
