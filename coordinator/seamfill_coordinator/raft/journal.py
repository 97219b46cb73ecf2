"""The durable Raft journal: what this node has promised, on disk before anyone hears of it.

Owns what the core sees: log, term and vote, and which part of them the next group must carry.
``journal_writer.py`` puts groups on the disk, ``journal_replay.py`` reads them back,
``journal_format.py`` has the bytes, ``journal_files.py`` the file system. Implements, by shape, the
``Journal`` of pysyncobj 0.3.17 (hence the camel-cased names), but must not import it; must not know
the machine, the peers or the clock: commands are bytes whose first one is their kind.

Everything the core does to its journal is buffered in memory; ``sync`` writes it as one *group*,
with one write and one fdatasync, and the group is on disk as a whole or not at all. So a turn's
entries, truncation, term and vote share one disk access, and "clear, then add two entries" after a
snapshot is atomic without a second file.

Invariants:

* after ``sync`` returned, all that was done before it survives the process and the power;
* a write or fsync that failed is never tried again: the kernel may have dropped the dirty pages and
  would report success over the loss. ``fatal`` is called once; if it returns, every later ``sync``
  raises, so that nothing can be acknowledged;
* what is in memory and not yet durable is exactly what the next group brings.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final, NoReturn, overload

from seamfill.errors import SeamfillError
from seamfill_coordinator.raft.journal_files import Files, OsFiles
from seamfill_coordinator.raft.journal_format import (
    KINDS,
    BadBytes,
    Entry,
    EntryKind,
    Group,
    SegmentHeader,
    term_at,
)
from seamfill_coordinator.raft.journal_replay import (
    MARK_NAME,
    Contents,
    JournalCorrupt,
    replay,
)
from seamfill_coordinator.raft.journal_writer import SegmentWriter

__all__ = [
    "SEGMENT_BYTES",
    "DurableJournal",
    "JournalFailed",
    "JournalForeign",
    "JournalIncomplete",
    "JournalUnusable",
    "draw_incarnation",
    "open_journal",
]

SEGMENT_BYTES: Final = 16 << 20
"""Reserved at once. Larger ones are replayed longer at a start, smaller ones begin more often."""


class JournalUnusable(SeamfillError):
    """The journal can not be read or written; see the file named, and the disk it is on."""

    code: ClassVar[str] = "journal_unusable"


class JournalForeign(SeamfillError):
    """The journal belongs to another cluster or another life of this node; give its own --data-dir.

    A node whose data directory was created anew is a new *incarnation*: it has forgotten its votes
    and acknowledgements, so that it must not count as the one it was.
    """

    code: ClassVar[str] = "journal_foreign"


class JournalIncomplete(SeamfillError):
    """The journal begins where a snapshot ended, but that snapshot is not here; restore it.

    Without it the entries before are lost, and this node would carry on with an empty past.
    """

    code: ClassVar[str] = "journal_incomplete"


class JournalFailed(SeamfillError):
    """The journal could not be made durable; the process must end. Free the disk, or replace it."""

    code: ClassVar[str] = "journal_failed"


def draw_incarnation() -> str:
    """Draw the name of a new life of a node; once, when its data directory is created."""
    return secrets.token_hex(16)


def open_journal(
    directory: Path,
    *,
    cluster_id: str,
    incarnation: str,
    fatal: Callable[[str, BaseException], None],
    files: Files | None = None,
    snapshot_index: int | None = None,
    must_exist: bool = False,
    segment_bytes: int = SEGMENT_BYTES,
) -> DurableJournal:
    """Open the journal in ``directory``, create it if it is new, cut a torn group off its end.

    The shell must call ``sync()``

    * before any acknowledgement, vote or vote request leaves this node, and so before anything
      that was appended here is counted as held by this node: before the next ``doTick`` of a
      leader, which counts itself;
    * after a complete turn of the core, never in the middle of one: what one turn did (``clear``
      and the two ``add`` of a snapshot) is one group.

    A leader may send its appends first and sync while the followers sync. Before a snapshot is
    durable, directory included, the core must not be told so: ``deleteEntriesTo`` believes it.

    ``fatal(what, exc)`` is called when a write or fsync failed, once, and should end the process.
    ``snapshot_index``: index of the last entry in the snapshot that will be loaded, None without
    one. After loading, ``begin_at`` lines the log up with it. ``must_exist``: whether this
    incarnation had a journal before, so that one that is gone is a loss and not a beginning.

    Raises ``JournalCorrupt`` (file and offset), ``JournalForeign``, ``JournalIncomplete``,
    ``JournalVersionUnknown``, ``JournalUnusable`` (an ``OSError``).
    """
    files = OsFiles() if files is None else files
    try:
        contents = _read(directory, files, must_exist=must_exist)
        if contents is not None:
            _check_identity(directory, contents.header, cluster_id, incarnation)
            _check_beginning(directory, contents, snapshot_index)
        writer = SegmentWriter(
            directory,
            files,
            contents,
            cluster_id=cluster_id,
            incarnation=incarnation,
            segment_bytes=segment_bytes,
        )
    except OSError as exc:
        raise JournalUnusable(f"{exc.filename or directory}: {exc.strerror or exc}") from exc
    return DurableJournal(writer, contents, fatal=fatal)


def _read(directory: Path, files: Files, *, must_exist: bool) -> Contents | None:
    names = files.names(directory)
    if must_exist and MARK_NAME not in names:
        raise JournalCorrupt(f"{directory}/{MARK_NAME}", 0, "missing, and this node had a journal")
    return replay(names, lambda name: files.read(directory / name), where=f"{directory}/")


def _check_identity(
    directory: Path, header: SegmentHeader, cluster_id: str, incarnation: str
) -> None:
    for what, found, mine in (
        ("cluster", header.cluster_id, cluster_id),
        ("incarnation", header.incarnation, incarnation),
    ):
        if found != mine:
            raise JournalForeign(f"{directory} is of {what} {found}, this node is of {mine}")


def _check_beginning(directory: Path, contents: Contents, snapshot_index: int | None) -> None:
    # The log keeps the snapshot's last entry: what follows it is compared with it.
    if contents.first > max(1, snapshot_index or 0):
        has = "there is none" if snapshot_index is None else f"there is one up to {snapshot_index}"
        raise JournalIncomplete(
            f"{directory} begins at index {contents.first}; of a snapshot of the rest, {has}"
        )


class DurableJournal:
    """A node's log, term and vote; see ``open_journal`` for when to call ``sync``."""

    def __init__(
        self,
        writer: SegmentWriter,
        contents: Contents | None,
        *,
        fatal: Callable[[str, BaseException], None],
    ) -> None:
        self._writer = writer
        self._fatal = fatal
        self._failure: BaseException | None = None
        self._entries: list[Entry] = [] if contents is None else contents.entries
        self._first = 1 if contents is None else contents.first
        self._next = self._first + len(self._entries)
        self._keep = self._next - 1
        """Last entry that is durable and still valid; all behind it goes into the next group."""
        self._term = 0 if contents is None else contents.term
        self._vote = None if contents is None else contents.vote
        self._commit = 1 if contents is None else contents.commit
        self._commit_written = self._commit
        self.needs_sync = False
        """Whether something was done that would not survive."""
        self.torn_groups = 0 if contents is None or contents.torn is None else 1
        """Groups cut off at the start: 0 or 1."""
        self.groups_written = 0
        self.bytes_written = 0

    # What the shell calls

    @property
    def durable_index(self) -> int:
        """Index up to which the log is on disk as it is now."""
        return min(self._keep, self._next - 1)

    @property
    def size(self) -> int:
        """Bytes of the journal's files, reserved ones included."""
        return self._writer.size

    def sync(self) -> None:
        """Make everything done so far durable. Raises ``JournalFailed``, after ``fatal``."""
        if self._failure is not None:
            raise JournalFailed(f"the journal failed before: {self._failure}") from self._failure
        if not self.needs_sync:
            return
        # The core never has an empty log at the end of its turn; made durable, it would make a
        # node that forgot everything look like one that has nothing to remember.
        assert self._entries, "synced between clear and add"
        group = Group(
            term=self._term,
            vote=self._vote,
            commit=min(self._commit, self._next - 1),
            first=self._first,
            keep=self._keep,
            entries=self._entries[max(self._keep + 1, self._first) - self._first :],
        )
        try:
            self.bytes_written += self._writer.write(group)
        except (OSError, BadBytes) as exc:
            self._fail(exc)
        self.groups_written += 1
        self._keep = self._next - 1
        self._commit_written = self._commit
        self.needs_sync = False

    @property
    def entries(self) -> Sequence[Entry]:
        """The log as it is now, contiguous; a view that must not be changed."""
        return self._entries

    def begin_at(self, index: int, term: int) -> None:
        """Line the log up with a snapshot whose last entry had this index and term.

        If the log has that entry, it stays as it is. Otherwise all of it is older than the
        snapshot, or contradicts it, and is replaced by an empty entry in its place.
        """
        if term_at(self._entries, index) == term:
            return
        self.clear()
        self.add(bytes([EntryKind.NOOP]), index, term)

    def close(self) -> None:
        """Sync, unless it failed before, and let go of the files. Safe to repeat."""
        if self._writer.is_closed:
            return
        try:
            if self._failure is None:
                self.sync()
        finally:
            self._writer.close()

    # What pysyncobj calls

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append; only in memory until ``sync``."""
        if not self._entries:
            self._first = self._next = idx
        # Our own bugs: a hole in the log, a kind that could not be read back.
        assert idx == self._next, "entries are contiguous"
        assert command[0] in KINDS, "the first byte is the entry's kind"
        self._entries.append((command, idx, term))
        self._next = idx + 1
        self.needs_sync = True

    def clear(self) -> None:
        """Drop all entries; the next ``add`` may have any index."""
        self._entries.clear()
        self._keep = 0
        self.needs_sync = True

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """Drop the entries from this position (not index) on."""
        if entryFrom <= 0:
            self.clear()
            return
        del self._entries[entryFrom:]
        self._next = self._first + len(self._entries)
        self._keep = min(self._keep, self._next - 1)
        self.needs_sync = True

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """Drop the entries before this position (not index)."""
        del self._entries[: max(entryTo, 0)]
        self._first = self._next - len(self._entries)
        self.needs_sync = True

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Change term and vote; only in memory until ``sync``."""
        self._term, self._vote = term, votedForNodeId
        self.needs_sync = True

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        return self._vote

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Remember it for the next group. It is a hint, and alone not worth one."""
        self._commit = raftCommitIndex

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return self._commit

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Let a commit index that has moved since it was written go with the next ``sync``."""
        if self._commit != self._commit_written:
            self.needs_sync = True

    def _destroy(self) -> None:
        self.close()

    def _fail(self, exc: BaseException) -> NoReturn:
        self._failure = exc
        self._fatal("the journal could not be written", exc)
        raise JournalFailed(f"the journal could not be written: {exc}") from exc
