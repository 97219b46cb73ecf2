"""Damage below the mark: every one is refused by file and offset, none changes what is read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from contract.journal_rig import DIRECTORY, Script, State, journal_on, state_of
from seamfill_chaos.disk import SimulatedDisk
from seamfill_coordinator.raft.journal_format import decode_mark
from seamfill_coordinator.raft.journal_replay import (
    MARK_NAME,
    Contents,
    JournalCorrupt,
    JournalVersionUnknown,
    replay,
    segment_number,
)

TRIALS = 10_000
Damage = Callable[["Image", random.Random], str]


@dataclass(slots=True)
class Image:
    """A journal's files, each with how many of its bytes lie below the mark."""

    files: dict[str, bytes]
    durable: dict[str, int]
    older: tuple[str, bytes]
    """The newest segment, as it once was."""

    def segment(self, rng: random.Random) -> str:
        return rng.choice([name for name in self.durable if name != MARK_NAME])

    def any_file(self, rng: random.Random) -> str:
        return rng.choice(list(self.durable))

    def put(self, name: str, offset: int, data: bytes) -> None:
        old = self.files[name]
        self.files[name] = old[:offset] + data + old[offset + len(data) :]


def grown() -> tuple[Image, State]:
    disk, script = SimulatedDisk(), Script(11)
    journal = journal_on(disk, segment_bytes=1024)
    script.start(journal)
    older = ("", b"")
    for turn in range(16):
        script.turn(journal)
        if turn == 6:
            script.compact(journal)
        journal.sync()
        newest = disk.names(DIRECTORY)[-2]
        if newest != older[0]:
            older = (newest, disk.read(DIRECTORY / newest))
    files = {name: disk.read(DIRECTORY / name) for name in disk.names(DIRECTORY)}
    contents = replay(list(files), files.__getitem__)
    assert contents is not None
    names = sorted(name for name in files if name != MARK_NAME)
    durable = {n: s.end for n, s in zip(names, contents.segments, strict=True)}
    mark = decode_mark(files[MARK_NAME])
    assert mark.end == durable[names[-1]]
    assert len(names) >= 3
    return Image(files, {**durable, MARK_NAME: len(files[MARK_NAME])}, older), script.state


def flip_a_bit(image: Image, rng: random.Random) -> str:
    name = image.any_file(rng)
    at = rng.randrange(image.durable[name])
    image.put(name, at, bytes([image.files[name][at] ^ (1 << rng.randrange(8))]))
    return name


def flip_some_bytes(image: Image, rng: random.Random) -> str:
    name = image.any_file(rng)
    at = rng.randrange(image.durable[name])
    size = min(rng.randrange(1, 40), image.durable[name] - at)
    image.put(name, at, rng.randbytes(size))
    return name


def lose_a_range(image: Image, rng: random.Random) -> str:
    name = image.any_file(rng)
    low, high = sorted(rng.randrange(image.durable[name] + 1) for _ in range(2))
    image.put(name, low, bytes(high - low))
    return name


def truncate(image: Image, rng: random.Random) -> str:
    name = image.any_file(rng)
    image.files[name] = image.files[name][: rng.randrange(image.durable[name])]
    return name


def swap_ranges(image: Image, rng: random.Random) -> str:
    name, other = image.any_file(rng), image.any_file(rng)
    size = rng.randrange(1, 200)
    one, two = (rng.randrange(max(1, image.durable[n] - size)) for n in (name, other))
    size = min(size, image.durable[name] - one, image.durable[other] - two)
    first, second = image.files[name][one : one + size], image.files[other][two : two + size]
    image.put(name, one, second)
    image.put(other, two, first)
    return name


def copy_a_range(image: Image, rng: random.Random) -> str:
    name = image.segment(rng)
    size = rng.randrange(1, 200)
    one, two = (rng.randrange(max(1, image.durable[name] - size)) for _ in range(2))
    image.put(name, two, image.files[name][one : one + size])
    return name


def swap_files(image: Image, rng: random.Random) -> str:
    name, other = image.segment(rng), image.any_file(rng)
    image.files[name], image.files[other] = image.files[other], image.files[name]
    return name


def lose_a_file(image: Image, rng: random.Random) -> str:
    name = image.any_file(rng)
    del image.files[name]
    return name


def bring_back_an_older_segment(image: Image, rng: random.Random) -> str:
    name, content = image.older
    image.files[name] = content
    return name


DAMAGES: tuple[Damage, ...] = (
    *(flip_a_bit,) * 6,
    *(flip_some_bytes,) * 3,
    *(lose_a_range,) * 3,
    *(truncate,) * 3,
    *(swap_ranges,) * 3,
    *(copy_a_range,) * 2,
    swap_files,
    lose_a_file,
    bring_back_an_older_segment,
)


def read(files: dict[str, bytes]) -> State:
    contents: Contents | None = replay(list(files), files.__getitem__, where="j/")
    if contents is None:
        return State()
    return State(tuple(contents.entries), contents.term, contents.vote)


def test_ten_thousand_damages_change_nothing_silently() -> None:
    image, state = grown()
    assert read(image.files) == state
    rng, seen = random.Random(20), Counter[str]()
    for trial in range(TRIALS):
        damaged = Image(dict(image.files), image.durable, image.older)
        name = rng.choice(DAMAGES)(damaged, rng)
        if damaged.files == image.files:
            seen["no damage"] += 1
            continue
        try:
            read(damaged.files)
        except JournalCorrupt as exc:
            seen["refused"] += 1
            assert exc.file.startswith("j/"), trial
            assert 0 <= exc.offset <= len(image.files.get(exc.file[2:], b"")), trial
        except JournalVersionUnknown:
            seen["refused as newer"] += 1
        else:
            pytest.fail(f"trial {trial}: damage to {name} was not noticed")
    assert seen["refused"] > 0.8 * TRIALS
    assert seen["refused as newer"] > 0
    assert seen["no damage"] < 0.1 * TRIALS


def test_a_journal_is_opened_no_further_than_it_is_read() -> None:
    """The shell's door refuses as the reader does."""
    image, state = grown()
    rng = random.Random(21)
    for _ in range(100):
        damaged, disk = Image(dict(image.files), image.durable, image.older), SimulatedDisk()
        rng.choice(DAMAGES)(damaged, rng)
        for name, content in damaged.files.items():
            disk.put(DIRECTORY / name, content)
        try:
            journal = journal_on(disk)
        except (JournalCorrupt, JournalVersionUnknown):
            assert damaged.files != image.files
            after = {name: disk.read(DIRECTORY / name) for name in disk.names(DIRECTORY)}
            assert after == damaged.files, "evidence is left as it was"
        else:
            assert state_of(journal) == state


@pytest.mark.parametrize("where", ["first byte", "last byte"])
def test_the_refusal_names_the_damaged_group(where: str) -> None:
    image, _ = grown()
    name = sorted(image.durable)[-2]
    at = image.durable[name] - 1 if where == "last byte" else 0
    image.put(name, at, bytes([image.files[name][at] ^ 1]))
    with pytest.raises(JournalCorrupt) as refusal:
        read(image.files)
    assert refusal.value.file == f"j/{name}"
    assert refusal.value.offset <= at
    assert f"offset {refusal.value.offset}" in str(refusal.value)


def twin(letter: bytes) -> dict[str, bytes]:
    """Return the files of one of two journals that differ in nothing but their commands' bytes."""
    disk = SimulatedDisk()
    journal = journal_on(disk, segment_bytes=1024)
    for index in range(1, 40):
        journal.add(b"\0" + letter * 50, index, 1)
        journal.sync()
    journal.close()
    return {name: disk.read(DIRECTORY / name) for name in disk.names(DIRECTORY)}


@pytest.mark.parametrize("position", [0, 1, -2])
def test_a_whole_segment_of_a_twin_is_refused(position: int) -> None:
    """Each byte of it is valid, and it ends where ours ends: only the chain knows."""
    mine, other = twin(b"a"), twin(b"b")
    name = sorted(mine)[position]
    with pytest.raises(JournalCorrupt, match="does not continue"):
        read({**mine, name: other[name]})


def test_all_segments_of_a_twin_are_refused() -> None:
    """Nor is its whole log, under our mark."""
    mine, other = twin(b"a"), twin(b"b")
    with pytest.raises(JournalCorrupt, match="no group ends at the mark as the mark says"):
        read({**other, MARK_NAME: mine[MARK_NAME]})


def test_the_same_damage_behind_the_mark_is_a_torn_group() -> None:
    """The rule's other half: the last group, when no mark says that it was durable, is cut."""
    disk, script = SimulatedDisk(), Script(5)
    journal = journal_on(disk)
    script.start(journal)
    script.turn(journal)
    journal.sync()
    acknowledged, mark = script.state, disk.read(DIRECTORY / MARK_NAME)
    end = replay_end(disk)
    script.turn(journal)
    journal.sync()
    content = disk.read(DIRECTORY / disk.names(DIRECTORY)[0])
    damaged = content[: end + 20] + bytes([content[end + 20] ^ 1]) + content[end + 21 :]
    disk.put(DIRECTORY / disk.names(DIRECTORY)[0], damaged)
    with pytest.raises(JournalCorrupt):
        journal_on(disk)
    disk.put(DIRECTORY / MARK_NAME, mark)
    again = journal_on(disk)
    assert state_of(again) == acknowledged
    assert again.torn_groups == 1
    assert not disk.read(DIRECTORY / disk.names(DIRECTORY)[0])[end:].strip(b"\0"), "and is gone"
    assert journal_on(disk).torn_groups == 0


def replay_end(disk: SimulatedDisk) -> int:
    contents = replay(disk.names(DIRECTORY), lambda name: disk.read(DIRECTORY / name))
    assert contents is not None
    return contents.segments[-1].end


def test_other_files_in_the_directory_do_not_matter() -> None:
    for name in ("1.segment", "0000000000000001.segment.bak", "000000000000000x.segment", "lock"):
        assert segment_number(name) is None
    assert segment_number("0000000000000042.segment") == 42
