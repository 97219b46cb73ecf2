"""Damage to snapshot files: every one is refused by file and offset, none is loaded as another
state. Each trial looks through all three doors: newest, load, receive."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from contract.snapshot_rig import (
    DIRECTORY,
    TERM,
    commands,
    file_of,
    machine_after,
    store_on,
)
from seamfill_chaos.disk import SimulatedDisk
from seamfill_coordinator.machine import codec
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.snapshot import frames
from seamfill_coordinator.raft.snapshot_format import snapshot_name
from seamfill_coordinator.raft.snapshot_store import (
    SnapshotInfo,
    SnapshotInvalid,
    SnapshotVersionUnknown,
)

TRIALS = 10_000
INDEX = 90


@dataclass(slots=True)
class Image:
    """A snapshot file, and a twin of the same node some commands later."""

    content: bytes
    twin: bytes
    frames: list[tuple[int, int]]
    """Where each frame of ``content`` begins and ends."""

    def put(self, offset: int, data: bytes) -> None:
        self.content = self.content[:offset] + data + self.content[offset + len(data) :]


Damage = Callable[[Image, random.Random], None]


def grown() -> Image:
    machine = machine_after(INDEX)
    content = file_of(INDEX, machine)
    for data in commands()[INDEX : INDEX + 2]:
        codec.apply_encoded(machine, data)
    twin = file_of(INDEX, machine)
    assert twin != content
    return Image(content, twin, frames_of(content))


def frames_of(content: bytes) -> list[tuple[int, int]]:
    at, found = content.index(b"SFMACH\0") + 8, []
    while at < len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "little")
        found.append((at, end))
        at = end
    assert at == len(content)
    assert len(found) > 10
    return found


def flip_a_bit(image: Image, rng: random.Random) -> None:
    at = rng.randrange(len(image.content))
    image.put(at, bytes([image.content[at] ^ (1 << rng.randrange(8))]))


def flip_some_bytes(image: Image, rng: random.Random) -> None:
    at = rng.randrange(len(image.content))
    image.put(at, rng.randbytes(min(rng.randrange(1, 40), len(image.content) - at)))


def lose_a_range(image: Image, rng: random.Random) -> None:
    low, high = sorted(rng.randrange(len(image.content) + 1) for _ in range(2))
    image.put(low, bytes(high - low))


def truncate(image: Image, rng: random.Random) -> None:
    image.content = image.content[: rng.randrange(len(image.content))]


def grow(image: Image, rng: random.Random) -> None:
    image.content += rng.choice((bytes(rng.randrange(1, 5000)), rng.randbytes(20), image.content))


def swap_ranges(image: Image, rng: random.Random) -> None:
    size = rng.randrange(1, 200)
    one, two = (rng.randrange(len(image.content) - size) for _ in range(2))
    first, second = image.content[one : one + size], image.content[two : two + size]
    image.put(one, second)
    image.put(two, first)


def swap_frames(image: Image, rng: random.Random) -> None:
    """Each of them is whole and valid; rows of one table in another order are another state."""
    (a, b), (c, d) = sorted(rng.sample(image.frames, 2))
    old = image.content
    image.content = old[:a] + old[c:d] + old[b:c] + old[a:b] + old[d:]


def lose_a_frame(image: Image, rng: random.Random) -> None:
    a, b = rng.choice(image.frames)
    image.content = image.content[:a] + image.content[b:]


def repeat_a_frame(image: Image, rng: random.Random) -> None:
    a, b = rng.choice(image.frames)
    image.content = image.content[:b] + image.content[a:]


def take_a_range_of_the_twin(image: Image, rng: random.Random) -> None:
    size = rng.randrange(1, 2000)
    at = rng.randrange(min(len(image.content), len(image.twin)) - 1)
    image.put(at, image.twin[at : at + size][: len(image.content) - at])


def take_the_state_of_the_twin(image: Image, rng: random.Random) -> None:
    """Cut both at a frame's border: every frame is valid in its own file."""
    a, _ = rng.choice(image.frames)
    c, _ = rng.choice(frames_of(image.twin))
    image.content = image.content[:a] + image.twin[c:]


DAMAGES: tuple[Damage, ...] = (
    *(flip_a_bit,) * 6,
    *(flip_some_bytes,) * 3,
    *(lose_a_range,) * 3,
    *(truncate,) * 3,
    *(swap_ranges,) * 3,
    *(swap_frames,) * 3,
    *(lose_a_frame,) * 2,
    *(repeat_a_frame,) * 2,
    *(take_a_range_of_the_twin,) * 2,
    *(take_the_state_of_the_twin,) * 2,
    grow,
)


def through_load(content: bytes) -> bytes:
    disk = SimulatedDisk()
    disk.put(DIRECTORY / snapshot_name(INDEX), content)
    store = store_on(disk)
    info = store.newest()
    assert info is not None
    return store.load(info).snapshot()


def through_receive(content: bytes, rng: random.Random) -> bytes:
    receiver = store_on(SimulatedDisk()).receive(
        last_index=INDEX, last_term=TERM, size=len(content)
    )
    while not receiver.is_complete:
        piece = content[receiver.offset :][: rng.randrange(1, 4000)]
        assert receiver.add(receiver.offset, piece)
    _, machine = receiver.finish()
    return machine.snapshot()


def test_ten_thousand_damages_change_nothing_silently() -> None:
    image = grown()
    state = machine_after(INDEX).snapshot()
    rng, seen = random.Random(20), Counter[str]()
    assert through_load(image.content) == through_receive(image.content, rng) == state
    for trial in range(TRIALS):
        damaged = Image(image.content, image.twin, image.frames)
        damage = rng.choice(DAMAGES)
        damage(damaged, rng)
        if damaged.content in (image.content, image.twin):
            seen["no damage"] += 1
            continue
        try:
            if trial % 2:
                through_load(damaged.content)
            else:
                through_receive(damaged.content, rng)
        except SnapshotInvalid as exc:
            seen["refused"] += 1
            assert exc.file == str(DIRECTORY / snapshot_name(INDEX)), trial
            assert 0 <= exc.offset <= len(damaged.content), trial
        except SnapshotVersionUnknown:
            seen["refused as newer"] += 1
        else:
            pytest.fail(f"trial {trial}: {damage.__name__} was not noticed")
    assert seen["refused"] > 0.9 * TRIALS
    assert seen["refused as newer"] > 0
    assert seen["no damage"] < 0.05 * TRIALS


def test_a_header_of_another_snapshot_is_refused() -> None:
    """Both parts are valid by themselves; the state's first CRC starts from its own header's."""
    mine, other = file_of(50, machine_after(50)), file_of(60, machine_after(60))
    border = mine.index(b"SFMACH\0")
    assert border == other.index(b"SFMACH\0")
    disk = SimulatedDisk()
    disk.put(DIRECTORY / snapshot_name(60), other[:border] + mine[border:])
    store = store_on(disk)
    info = store.newest()
    assert info is not None
    with pytest.raises(SnapshotInvalid, match="does not match its CRC"):
        store.load(info)


@pytest.mark.parametrize("what", ["digest", "row left out", "row of a moment before"])
def test_valid_bytes_with_another_digest_are_refused(what: str) -> None:
    """CRCs alone are not believed: what is loaded must have the digest that was saved."""
    captured = machine_after(INDEX).capture()
    rows = captured.rows
    match what:
        case "digest":
            forged = replace(captured, digest="0" * 32)
        case "row left out":
            forged = replace(captured, rows=rows[:-1])
        case _:
            earlier = machine_after(INDEX - 40).capture().rows
            changed = [at for at, row in enumerate(earlier) if row != rows[at]]
            forged = replace(
                captured,
                rows=[earlier[at] if at == changed[0] else row for at, row in enumerate(rows)],
            )
    with pytest.raises(SnapshotInvalid):
        LeaseMachine.restore(b"".join(frames(forged)))


def test_refusals_change_nothing_on_the_disk() -> None:
    image, disk = grown(), SimulatedDisk()
    damaged = image.content[:-1]
    disk.put(DIRECTORY / snapshot_name(INDEX), damaged)
    info = store_on(disk).newest()
    assert isinstance(info, SnapshotInfo)
    with pytest.raises(SnapshotInvalid):
        store_on(disk).load(info)
    assert disk.read(info.path) == damaged, "evidence is left as it was"
