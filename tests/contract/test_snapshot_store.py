"""Snapshots on disk: exactly the state at their index, read back whole or refused by name."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from contract.snapshot_rig import (
    CONFIGURATION,
    DIRECTORY,
    SLICE_BYTES,
    TERM,
    begin,
    commands,
    digest_after,
    disk_with,
    file_of,
    finish,
    machine_after,
    store_on,
    write,
)
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.machine import codec
from seamfill_coordinator.machine.invariants import check
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.raft.journal_files import Files, OsFiles
from seamfill_coordinator.raft.snapshot_store import (
    SnapshotForeign,
    SnapshotInfo,
    SnapshotInvalid,
    SnapshotReceiver,
    SnapshotStore,
    SnapshotVersionUnknown,
)


def write_among_commands(
    store: SnapshotStore, machine: LeaseMachine, index: int, rng: random.Random
) -> tuple[SnapshotInfo, int]:
    """Write a snapshot with commands applied between its slices; return how many there were."""
    writer, applied = begin(store, machine, index), 0
    while (info := writer.step()) is None:
        for data in commands()[index + applied : index + applied + rng.randrange(3)]:
            codec.apply_encoded(machine, data)
            applied += 1
            if rng.random() < 0.3:
                machine.state_digest()
    return info, applied


@pytest.mark.parametrize("seed", range(25))
def test_a_snapshot_is_the_state_at_its_index_whatever_is_applied_meanwhile(seed: int) -> None:
    rng = random.Random(seed)
    index = rng.randrange(50, len(commands()) - 60)
    disk, machine = SimulatedDisk(), machine_after(index)
    expected = file_of(index, machine_after(index))
    store = store_on(disk)
    info, applied = write_among_commands(store, machine, index, rng)
    assert applied > 5, "else nothing happened meanwhile"
    assert disk.read(info.path) == expected
    restored = store.load(info)
    assert restored.state_digest() == digest_after(index)
    # And goes on like the machine that never stopped.
    for data in commands()[index : index + applied]:
        codec.apply_encoded(restored, data)
    assert restored.state_digest() == machine.state_digest()
    assert restored.snapshot() == machine.snapshot()


def test_what_is_written_is_found_and_loaded_again() -> None:
    disk, info = disk_with(200)
    found = store_on(disk).newest()
    assert found == info
    assert (info.last_index, info.last_term) == (200, TERM)
    assert info.configuration == CONFIGURATION
    assert info.size == len(disk.read(info.path))
    machine = store_on(disk).load(info)
    assert machine.state_digest() == digest_after(200)
    assert machine.snapshot() == machine_after(200).snapshot()
    check(machine)


def test_a_snapshot_of_an_empty_machine_of_no_cluster_is_one_too() -> None:
    disk = SimulatedDisk()
    store = store_on(disk)
    writer = store.begin(LeaseMachine(), last_index=1, last_term=0, configuration=None)
    info = finish(writer)
    assert store.newest() == info
    assert info.configuration is None
    assert store.load(info).rev == 0


def test_a_directory_without_snapshots_has_none() -> None:
    assert store_on(SimulatedDisk()).newest() is None


def test_a_slice_is_bounded_and_synced_by_itself() -> None:
    steps: list[tuple[str, int]] = []
    disk = SimulatedDisk()
    store = store_on(disk)
    partial = DIRECTORY / "0000000000000300.snapshot.partial"

    def note(name: str, path: Path) -> None:
        size = len(disk.read(partial)) if partial.name in disk.names(DIRECTORY) else 0
        steps.append((name, size))

    disk.on_step = note
    machine = machine_after(300)
    longest_row = max(map(len, machine.capture().rows))
    write(store, 300)
    names = [name for name, _ in steps]
    slices = names.count("write")
    assert slices > 5
    assert names == ["create", *["write", "sync"] * slices, "sync", "rename", "sync_directory"]
    sizes = [size for name, size in steps if name == "sync"]
    grown = [after - before for before, after in pairwise(sizes)]
    assert max(grown) < SLICE_BYTES + SLICE_BYTES // 4 + longest_row + 64


def test_older_snapshots_go_when_told_and_never_newer_ones() -> None:
    disk = SimulatedDisk()
    store = store_on(disk)
    infos = [write(store, index) for index in (100, 200, 300)]
    assert store.newest() == infos[2]
    store.drop_older_than(infos[1])
    assert disk.names(DIRECTORY) == [infos[1].path.name, infos[2].path.name]


def test_a_stale_partial_file_never_becomes_a_snapshot() -> None:
    disk = SimulatedDisk()
    writer = begin(store_on(disk), machine_after(100), 100)
    for _ in range(3):
        writer.step()
    receiver = store_on(disk).receive(last_index=90, last_term=1, size=1000)
    receiver.add(0, b"x")
    assert len(disk.names(DIRECTORY)) == 1, "the store began anew, and cleared the writer's away"
    assert store_on(disk).newest() is None
    assert disk.names(DIRECTORY) == []


def test_an_abandoned_snapshot_leaves_nothing() -> None:
    disk, info = disk_with(100)
    store = store_on(disk)
    begin(store, machine_after(150), 150).abandon()
    writer = begin(store, machine_after(150), 150)
    writer.step()
    writer.abandon()
    writer.abandon()
    assert disk.names(DIRECTORY) == [info.path.name]
    assert store.newest() == info


def test_a_full_disk_leaves_the_old_snapshot() -> None:
    disk, info = disk_with(100)
    store = store_on(disk)
    disk.capacity = info.size + 3 * SLICE_BYTES
    writer = begin(store, machine_after(300), 300)
    with pytest.raises(OSError, match="no space left"):
        finish(writer)
    writer.abandon()
    assert store_on(disk).newest() == info
    assert disk.names(DIRECTORY) == [info.path.name]


def test_a_dropped_snapshot_can_still_be_shipped_by_who_has_it_open(tmp_path: Path) -> None:
    for files, directory in ((SimulatedDisk(), DIRECTORY), (OsFiles(), tmp_path / "snapshots")):
        store = store_on(files, directory=directory)
        old = write(store, 100)
        content = files.read(old.path)
        reader = store.open(old)
        store.drop_older_than(write(store, 200))
        assert old.path.name not in files.names(directory)
        assert reader.read(0, 10) == content[:10]
        assert reader.read(10, 1 << 30) == content[10:]
        assert reader.read(len(content), 5) == b""
        reader.close()


# ── Receiving ────────────────────────────────────────────────────────────────────────────────────


def shipped(index: int) -> bytes:
    disk, info = disk_with(index)
    return disk.read(info.path)


def receiver_of(files: Files, data: bytes, index: int = 300, term: int = TERM) -> SnapshotReceiver:
    store = store_on(files)
    return store.receive(last_index=index, last_term=term, size=len(data))


def ship(receiver: SnapshotReceiver, data: bytes, piece_bytes: int = 700) -> None:
    while not receiver.is_complete:
        assert receiver.add(receiver.offset, data[receiver.offset :][:piece_bytes])


@pytest.mark.parametrize("piece_bytes", [1, 17, 700, 1 << 20])
def test_a_received_snapshot_is_the_one_that_was_sent(piece_bytes: int) -> None:
    data, disk = shipped(300), SimulatedDisk()
    receiver = receiver_of(disk, data)
    ship(receiver, data, piece_bytes)
    info, machine = receiver.finish()
    assert disk.read(info.path) == data
    assert machine.state_digest() == digest_after(300)
    check(machine)
    left = store_on(disk.after_power_loss(Fate.DROPPED, random.Random(0)))
    assert left.newest() == info
    assert left.load(info).snapshot() == machine.snapshot()


def test_only_the_next_piece_is_taken() -> None:
    data, disk = shipped(300), SimulatedDisk()
    receiver = receiver_of(disk, data)
    assert receiver.add(0, data[:500])
    for offset, piece in (
        (0, data[:500]),
        (400, data[400:900]),
        (501, data[501:900]),
        (len(data), b"x"),
        (500, data[500:] + b"x"),
        (500, b""),
    ):
        assert not receiver.add(offset, piece)
        assert receiver.offset == 500
    ship(receiver, data)
    assert not receiver.add(len(data), b"x")
    _, machine = receiver.finish()
    assert machine.state_digest() == digest_after(300)


def test_an_incomplete_snapshot_is_refused() -> None:
    data, disk = shipped(300), SimulatedDisk()
    receiver = receiver_of(disk, data)
    receiver.add(0, data[:-1])
    with pytest.raises(SnapshotInvalid, match="only"):
        receiver.finish()
    assert disk.names(DIRECTORY) == []


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_size_is_refused(change: int) -> None:
    data, disk = shipped(300), SimulatedDisk()
    sent = data[:-1] if change < 0 else data + b"\0"
    receiver = receiver_of(disk, sent)
    ship(receiver, sent)
    with pytest.raises(SnapshotInvalid):
        receiver.finish()
    assert disk.names(DIRECTORY) == []


@pytest.mark.parametrize(("index", "term"), [(299, TERM), (300, TERM + 1)])
def test_a_snapshot_of_another_index_or_term_is_refused(index: int, term: int) -> None:
    data, disk = shipped(300), SimulatedDisk()
    receiver = receiver_of(disk, data, index, term)
    ship(receiver, data)
    with pytest.raises(SnapshotInvalid, match="ends at index 300"):
        receiver.finish()
    assert disk.names(DIRECTORY) == []


def test_a_damaged_snapshot_is_refused_and_the_old_one_stays() -> None:
    data = shipped(300)
    rng = random.Random(1)
    for _ in range(200):
        disk, info = disk_with(100)
        at = rng.randrange(len(data))
        damaged = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        receiver = receiver_of(disk, damaged)
        ship(receiver, damaged)
        with pytest.raises((SnapshotInvalid, SnapshotVersionUnknown)):
            receiver.finish()
        assert disk.names(DIRECTORY) == [info.path.name]
        assert store_on(disk).newest() == info


def test_a_snapshot_of_another_cluster_is_refused() -> None:
    data, disk = file_of(300, machine_after(300), cluster_id="other"), SimulatedDisk()
    receiver = receiver_of(disk, data)
    ship(receiver, data)
    with pytest.raises(SnapshotForeign, match="of cluster other, this node is of c1"):
        receiver.finish()
    assert disk.names(DIRECTORY) == []
    disk.put(DIRECTORY / "0000000000000300.snapshot", data)
    with pytest.raises(SnapshotForeign):
        store_on(disk).newest()


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────


def test_a_newer_format_is_refused_by_name() -> None:
    disk, info = disk_with(100)
    content = disk.read(info.path)
    disk.put(info.path, content[:8] + b"\x09\x00" + content[10:])
    with pytest.raises(SnapshotVersionUnknown, match="format version 9; this program knows 1"):
        store_on(disk).newest()
    at = content.index(b"SFMACH\0") + 7
    disk.put(info.path, content[:at] + b"\x08" + content[at + 1 :])
    with pytest.raises(SnapshotVersionUnknown, match=r"\.snapshot.*format version 8"):
        store_on(disk).load(info)


def test_a_snapshot_under_another_name_is_refused() -> None:
    disk, info = disk_with(100)
    disk.rename(info.path, DIRECTORY / "0000000000000101.snapshot")
    with pytest.raises(SnapshotInvalid, match="index 100 under another name"):
        store_on(disk).newest()


def test_a_damaged_newest_snapshot_is_refused_though_an_older_one_is_good() -> None:
    """The log before the newest may be gone, so that the older one would be a step back."""
    disk = SimulatedDisk()
    store = store_on(disk)
    write(store, 100)
    info = write(store, 200)
    disk.put(info.path, b"")
    with pytest.raises(SnapshotInvalid) as refusal:
        store.newest()
    assert refusal.value.file == str(info.path)


def test_another_snapshot_than_was_found_is_not_loaded() -> None:
    disk, info = disk_with(100)
    with pytest.raises(SnapshotInvalid, match="another snapshot"):
        store_on(disk).load(replace(info, last_term=TERM + 1))


def test_the_refusal_names_the_damaged_frame() -> None:
    disk, info = disk_with(300)
    content = disk.read(info.path)
    for at in (0, 40, len(content) // 2, len(content) - 1):
        disk.put(info.path, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(SnapshotInvalid) as refusal:
            store_on(disk).load(info)
        assert refusal.value.file == str(info.path)
        assert at - SLICE_BYTES < refusal.value.offset <= at
        assert f"offset {refusal.value.offset}" in str(refusal.value)
