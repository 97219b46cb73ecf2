"""What the shell and pysyncobj's core may rely on in the journal."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from pysyncobj.journal import Journal

from contract.journal_rig import (
    DIRECTORY,
    SEGMENT_BYTES,
    Fatal,
    Script,
    grown_disk,
    journal_on,
    state_of,
)
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_coordinator.raft.journal import (
    DurableJournal,
    JournalFailed,
    JournalForeign,
    JournalIncomplete,
    draw_incarnation,
    open_journal,
)
from seamfill_coordinator.raft.journal_files import Files, OsFiles
from seamfill_coordinator.raft.journal_format import Entry, EntryKind
from seamfill_coordinator.raft.journal_replay import JournalCorrupt


@pytest.fixture(params=["simulated", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, Path]:
    if request.param == "real":
        return OsFiles(), tmp_path / "node" / "journal"
    return SimulatedDisk(), DIRECTORY


def entry(index: int, term: int = 1) -> Entry:
    return (b"\0command %d" % index, index, term)


def filled(files: Files, directory: Path = DIRECTORY, *, count: int = 5) -> DurableJournal:
    """Return a journal of entries 1 … ``count``, synced."""
    journal = journal_on(files, directory=directory)
    for index in range(1, count + 1):
        journal.add(*entry(index))
    journal.sync()
    return journal


def reopened(journal: DurableJournal, files: Files, directory: Path = DIRECTORY) -> DurableJournal:
    journal.close()
    return journal_on(files, directory=directory)


def test_a_new_journal_is_empty_and_has_no_term_and_no_vote(place: tuple[Files, Path]) -> None:
    files, directory = place
    journal = journal_on(files, directory=directory, snapshot_index=None)
    assert len(journal) == 0
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (0, None)
    assert journal.getRaftCommitIndex() == 1
    assert not journal.needs_sync
    journal.close()
    journal_on(files, directory=directory, snapshot_index=None).close()


def test_entries_term_vote_and_commit_survive_a_restart(place: tuple[Files, Path]) -> None:
    files, directory = place
    journal = filled(files, directory)
    journal.setCurrentTerm(7, "n2")
    journal.setRaftCommitIndex(4)
    journal.sync()
    again = reopened(journal, files, directory)
    assert again[:] == [entry(i) for i in range(1, 6)]
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (7, "n2")
    assert again.getRaftCommitIndex() == 4
    again.close()


def test_it_reads_as_the_list_that_pysyncobj_takes_it_for() -> None:
    journal = filled(SimulatedDisk())
    assert len(journal) == 5
    assert journal[0] == entry(1)
    assert journal[-1] == entry(5)
    assert journal[1:3] == [entry(2), entry(3)]
    assert journal[9:] == []
    with pytest.raises(IndexError):
        journal[5]


def test_it_has_all_that_pysyncobj_calls() -> None:
    wanted = {name for name in vars(Journal) if name == "_destroy" or not name.startswith("_")}
    assert len(wanted) > 8
    assert not {name for name in wanted if not callable(getattr(DurableJournal, name, None))}


def test_every_kind_of_entry_is_kept_as_it_is() -> None:
    disk = SimulatedDisk()
    journal = journal_on(disk)
    entries = [(bytes([kind]) + b"x" * kind, 1 + kind, 3) for kind in EntryKind]
    for each in entries:
        journal.add(*each)
    assert reopened(journal, disk)[:] == entries


@pytest.mark.parametrize("command", [b"\x03version", b"\x80pickle"])
def test_an_entry_of_unknown_kind_is_our_own_bug(command: bytes) -> None:
    with pytest.raises(AssertionError, match="kind"):
        journal_on(SimulatedDisk()).add(command, 1, 0)


def test_a_hole_in_the_log_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="contiguous"):
        filled(SimulatedDisk()).add(*entry(7))


def test_one_sync_is_one_write_and_one_fdatasync_whatever_was_done() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    steps: list[tuple[str, str]] = []
    disk.on_step = lambda name, path: steps.append((name, path.suffix))
    journal.setCurrentTerm(2, "n1")
    journal.deleteEntriesFrom(3)
    for index in range(4, 30):
        journal.add(*entry(index, 2))
    journal.sync()
    assert steps == [("write", ".segment"), ("sync", ".segment"), ("write", "")]
    journal.sync()
    assert len(steps) == 3, "nothing is written when nothing was done"


def test_what_was_not_synced_does_not_survive() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.add(*entry(6))
    journal.setCurrentTerm(9, "n3")
    assert journal.needs_sync
    assert journal.durable_index == 5
    again = journal_on(disk.copy())
    assert again[-1] == entry(5)
    assert again.getCurrentTerm() == 0
    journal.sync()
    assert (journal.durable_index, journal.needs_sync) == (6, False)


def test_a_truncated_tail_does_not_return_and_is_not_durable_meanwhile() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.deleteEntriesFrom(2)
    journal.add(*entry(3, 4))
    assert journal.durable_index == 2
    assert reopened(journal, disk)[:] == [entry(1), entry(2), entry(3, 4)]


def test_what_was_appended_truncated_and_appended_in_one_turn_is_one_group() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.add(*entry(6))
    journal.add(*entry(7))
    journal.deleteEntriesFrom(5)
    journal.add(*entry(6, 9))
    assert reopened(journal, disk)[3:] == [entry(4), entry(5), entry(6, 9)]


def test_a_commit_index_alone_waits_for_the_one_second_timer() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.setRaftCommitIndex(3)
    assert not journal.needs_sync
    journal.onOneSecondTimer()
    journal.sync()
    assert journal.groups_written == 2
    journal.onOneSecondTimer()
    assert not journal.needs_sync
    assert reopened(journal, disk).getRaftCommitIndex() == 3


def test_trimming_removes_whole_segments_and_only_after_it_is_durable() -> None:
    disk, _ = grown_disk()
    journal = journal_on(disk)
    before = disk.names(DIRECTORY)
    journal.deleteEntriesTo(len(journal) - 2)
    assert disk.names(DIRECTORY) == before
    kept = state_of(journal)
    journal.sync()
    assert len(before) > len(disk.names(DIRECTORY)) == 2, "the mark and one segment are left"
    assert state_of(reopened(journal, disk)) == kept


def test_a_trim_to_any_entry_keeps_that_entry_and_all_behind_it() -> None:
    """Also where it is the last one of a segment."""
    disk, state = grown_disk()
    for position in range(len(state.entries)):
        copy = disk.copy()
        journal = journal_on(copy)
        journal.deleteEntriesTo(position)
        journal.sync()
        journal.close()
        assert journal_on(copy)[:] == list(state.entries[position:])


def test_a_turn_that_outgrows_a_segment_gets_one_of_its_size() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.add(b"\0" * (3 * SEGMENT_BYTES), 6, 1)
    journal.sync()
    journal.add(*entry(7))
    again = reopened(journal, disk)
    assert [len(command) for command, _, _ in again[5:]] == [3 * SEGMENT_BYTES, len(entry(7)[0])]


def test_many_turns_on_a_real_disk_are_read_back(tmp_path: Path) -> None:
    script = Script(3)
    journal = journal_on(OsFiles(), directory=tmp_path)
    script.start(journal)
    for turn in range(300):
        script.turn(journal)
        if turn % 90 == 80:
            script.compact(journal)
        journal.sync()
        if turn % 40 == 0:
            journal = reopened(journal, OsFiles(), tmp_path)
            assert state_of(journal) == script.state
    journal.close()


# Snapshots


def test_a_log_that_begins_late_is_refused_without_its_snapshot() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.deleteEntriesTo(3)
    journal.close()
    for snapshot_index in (None, 3):
        with pytest.raises(JournalIncomplete, match="begins at index 4"):
            journal_on(disk, snapshot_index=snapshot_index)
    journal_on(disk, snapshot_index=4)


def test_a_snapshot_that_the_log_contains_changes_nothing() -> None:
    """What follows it was acknowledged, perhaps by this node alone."""
    disk = SimulatedDisk()
    journal = reopened(filled(disk), disk)
    before = journal[:]
    for index in (before[0][1], before[2][1], before[-1][1]):
        journal.begin_at(index, before[index - before[0][1]][2])
        assert journal[:] == before


@pytest.mark.parametrize(
    ("index", "term"), [(4, 9), (6, 1), (81, 1)], ids=["another term", "next", "far ahead"]
)
def test_a_snapshot_that_the_log_does_not_contain_replaces_it(index: int, term: int) -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.begin_at(index, term)
    begun = [(bytes([EntryKind.NOOP]), index, term)]
    assert journal[:] == begun
    following = (b"\0next", index + 1, term)
    journal.add(*following)
    assert reopened(journal, disk)[:] == [*begun, following]


def test_replacing_the_log_is_atomic_as_pysyncobj_does_it() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    found: list[list[Entry]] = []

    def restart(_name: str, _path: Path) -> None:
        for fate in Fate:
            found.append(journal_on(disk.after_power_loss(fate, random.Random(1)))[:])

    disk.on_step = restart
    journal.clear()
    journal.add(*entry(80))
    journal.add(*entry(81))
    journal.sync()
    assert {len(log) for log in found} == {5, 2}


def test_syncing_between_clear_and_add_is_our_own_bug() -> None:
    journal = filled(SimulatedDisk())
    journal.clear()
    with pytest.raises(AssertionError, match="between clear and add"):
        journal.sync()


# Whose it is


@pytest.mark.parametrize(
    ("cluster_id", "incarnation", "says"),
    [("c2", "life-1", "of cluster c1"), ("c1", "life-2", "of incarnation life-1")],
)
def test_another_clusters_or_lifes_journal_is_refused(
    cluster_id: str, incarnation: str, says: str
) -> None:
    disk = SimulatedDisk()
    filled(disk).close()
    with pytest.raises(JournalForeign, match=says):
        journal_on(disk, cluster_id=cluster_id, incarnation=incarnation)


def test_a_journal_that_is_gone_is_not_begun_anew() -> None:
    """It would be a node with its old name that has forgotten its vote."""
    disk = SimulatedDisk()
    with pytest.raises(JournalCorrupt, match="this node had a journal"):
        journal_on(disk, must_exist=True)
    journal_on(disk).close()
    journal_on(disk, must_exist=True).close()


def test_incarnations_are_drawn_anew() -> None:
    assert len({draw_incarnation() for _ in range(100)}) == 100


# A failing disk


@pytest.mark.parametrize("step", ["write", "sync"])
@pytest.mark.parametrize("suffix", [".segment", ""])
def test_a_failed_write_or_fsync_is_fatal_once_and_never_repeated(step: str, suffix: str) -> None:
    disk, fatal = SimulatedDisk(), Fatal()
    journal = journal_on(disk, fatal=fatal, segment_bytes=400)
    journal.add(*entry(1))
    journal.sync()
    attempts: list[str] = []

    def fail(name: str, path: Path) -> None:
        if (name, path.suffix) == (step, suffix):
            attempts.append(name)
            raise OSError(errno.EIO, "the device is gone")

    disk.on_step = fail
    with pytest.raises(JournalFailed, match="the device is gone"):
        for index in range(2, 99):  # the mark is synced only when a segment begins
            journal.add(*entry(index))
            journal.sync()
    assert [type(exc) for _, exc in fatal.calls] == [OSError]
    for _ in range(3):
        with pytest.raises(JournalFailed):
            journal.sync()
    journal.close()
    assert len(attempts) == len(fatal.calls) == 1, "neither is tried again"


@pytest.mark.parametrize("step", ["create", "rename", "sync_directory", "remove"])
def test_a_failure_around_segments_is_fatal_and_leaves_what_was_acknowledged(step: str) -> None:
    disk, fatal, acknowledged = SimulatedDisk(), Fatal(), 1
    journal = journal_on(disk, fatal=fatal, segment_bytes=400)
    journal.add(*entry(1))
    journal.sync()

    def fail(name: str, _path: Path) -> None:
        if name == step:
            raise OSError(errno.EIO, "the device is gone")

    disk.on_step = fail
    with pytest.raises(JournalFailed):
        for index in range(2, 99):
            journal.add(*entry(index))
            journal.deleteEntriesTo(len(journal) - 2)
            journal.sync()
            acknowledged = index
    assert len(fatal.calls) == 1
    for fate in Fate:
        again = journal_on(disk.after_power_loss(fate, random.Random(2)))
        assert again[-1][1] in (acknowledged, acknowledged + 1)


def test_groups_behind_the_mark_are_written_again_before_they_are_believed() -> None:
    """After a failed fsync the kernel shows pages that are on no disk, and calls them clean."""
    disk = SimulatedDisk()
    filled(disk).close()
    mark = disk.read(DIRECTORY / "mark")
    journal = journal_on(disk)
    journal.add(*entry(6))
    journal.sync()
    disk.put(DIRECTORY / "mark", mark)
    rewritten: list[str] = []
    disk.on_step = lambda name, path: rewritten.append(f"{name} {path.suffix}")
    assert journal_on(disk)[-1] == entry(6)
    assert rewritten[:2] == ["write .segment", "sync .segment"]


def test_a_full_disk_is_met_when_a_segment_begins_and_nowhere_else() -> None:
    disk, fatal = SimulatedDisk(capacity=4 * SEGMENT_BYTES), Fatal()
    journal, index = journal_on(disk, fatal=fatal), 0
    with pytest.raises(JournalFailed, match="no space"):
        while True:
            index += 1
            journal.add(*entry(index))
            journal.sync()
    assert index > 100
    assert len(fatal.calls) == 1
    assert journal_on(disk.copy())[-1] == entry(index - 1)


def test_the_default_file_system_is_the_real_one(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j", cluster_id="c", incarnation="i", fatal=Fatal())
    journal.add(*entry(1))
    journal.close()
    assert (tmp_path / "j" / "0000000000000001.segment").stat().st_size >= 16 << 20
