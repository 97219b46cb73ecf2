"""A journal on a simulated disk, and a plain model of what it must remember."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from seamfill_chaos.disk import SimulatedDisk
from seamfill_coordinator.raft.journal import DurableJournal, open_journal
from seamfill_coordinator.raft.journal_files import Files
from seamfill_coordinator.raft.journal_format import Entry, EntryKind

DIRECTORY = Path("/node/journal")
SEGMENT_BYTES = 4096
ANY_SNAPSHOT = 1 << 60
"""For journals that were trimmed: there is a snapshot, however far."""


@dataclass(slots=True)
class Fatal:
    """Records what should have ended the process."""

    calls: list[tuple[str, BaseException]] = field(default_factory=list)

    def __call__(self, what: str, exc: BaseException) -> None:
        self.calls.append((what, exc))


def journal_on(
    files: Files,
    *,
    directory: Path = DIRECTORY,
    fatal: Fatal | None = None,
    cluster_id: str = "c1",
    incarnation: str = "life-1",
    snapshot_index: int | None = ANY_SNAPSHOT,
    must_exist: bool = False,
    segment_bytes: int = SEGMENT_BYTES,
) -> DurableJournal:
    return open_journal(
        directory,
        cluster_id=cluster_id,
        incarnation=incarnation,
        fatal=fatal or Fatal(),
        files=files,
        snapshot_index=snapshot_index,
        must_exist=must_exist,
        segment_bytes=segment_bytes,
    )


@dataclass(frozen=True, slots=True)
class State:
    """What a journal remembers."""

    entries: tuple[Entry, ...] = ()
    term: int = 0
    vote: str | None = None

    @property
    def next_index(self) -> int:
        return self.entries[-1][1] + 1 if self.entries else 1


def state_of(journal: DurableJournal) -> State:
    return State(tuple(journal[:]), journal.getCurrentTerm(), journal.getVotedForNodeId())


def command(rng: random.Random) -> bytes:
    return bytes([rng.choice((0, 0, 0, 0, 1, 2))]) + rng.randbytes(rng.randrange(0, 90))


class Script:
    """Random turns of a core: done to a journal and to the model alike."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.state = State()

    def start(self, journal: DurableJournal) -> None:
        self._append(journal, 1)

    def turn(self, journal: DurableJournal) -> None:
        """Append, and now and then a new term, a vote, a truncation, all of one turn."""
        rng = self._rng
        if rng.random() < 0.15:
            self._vote(journal)
        if rng.random() < 0.15 and len(self.state.entries) > 4:
            self._truncate(journal, keep=len(self.state.entries) - rng.randrange(1, 4))
        self._append(journal, rng.randrange(0, 8))
        journal.setRaftCommitIndex(max(1, self.state.next_index - 5))
        if rng.random() < 0.05:
            journal.onOneSecondTimer()

    def compact(self, journal: DurableJournal) -> None:
        """Trim as after a snapshot of all but the last few entries."""
        drop = max(0, len(self.state.entries) - 6)
        journal.deleteEntriesTo(drop)
        self.state = replace(self.state, entries=self.state.entries[drop:])

    def install(self, journal: DurableJournal) -> None:
        """Replace the log as after a received snapshot, far ahead."""
        at = self.state.next_index + 100
        journal.begin_at(at, self.state.term)
        begun = ((bytes([EntryKind.NOOP]), at, self.state.term),)
        self.state = replace(self.state, entries=begun)

    def _vote(self, journal: DurableJournal) -> None:
        term = self.state.term + self._rng.randrange(1, 3)
        vote = self._rng.choice((None, "n1", "n2", "n3"))
        journal.setCurrentTerm(term, vote)
        self.state = replace(self.state, term=term, vote=vote)

    def _truncate(self, journal: DurableJournal, *, keep: int) -> None:
        journal.deleteEntriesFrom(keep)
        self.state = replace(self.state, entries=self.state.entries[:keep])

    def _append(self, journal: DurableJournal, count: int) -> None:
        for _ in range(count):
            entry = (command(self._rng), self.state.next_index, self.state.term)
            journal.add(*entry)
            self.state = replace(self.state, entries=(*self.state.entries, entry))


def grown_disk(seed: int = 1, turns: int = 60) -> tuple[SimulatedDisk, State]:
    """Return a disk with a closed journal of a few segments, trimmed once, and what it holds."""
    disk, script = SimulatedDisk(), Script(seed)
    journal = journal_on(disk)
    script.start(journal)
    for turn in range(turns):
        script.turn(journal)
        if turn == turns // 3:
            script.compact(journal)
        journal.sync()
    journal.close()
    return disk, script.state
