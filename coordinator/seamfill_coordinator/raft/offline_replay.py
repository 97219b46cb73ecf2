"""A node's state from its directory alone: the newest snapshot, and the journal after it.

Owns the walk over the entries and which digests are noted. Changes nothing in the directory, and
must not need consensus: what is committed is what the journal itself says, which may be less than
the cluster knows.

Invariant: the state is the one that the node had, or will have, after the same index, if that entry
is committed; state digests at equal indexes of two members are equal, or one of them is broken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from seamfill.errors import SeamfillError
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.digests import DIGEST_EVERY
from seamfill_coordinator.raft.journal import JournalIncomplete
from seamfill_coordinator.raft.journal_files import Files
from seamfill_coordinator.raft.journal_format import EntryKind
from seamfill_coordinator.raft.journal_replay import Contents, replay
from seamfill_coordinator.raft.snapshot_format import SnapshotHeader
from seamfill_coordinator.raft.snapshot_store import load_file, newest_file

__all__ = ["NothingToReplay", "ReplayRefused", "Replayed", "replay_directory"]


class NothingToReplay(SeamfillError):
    """There is neither a snapshot nor a journal; give a node's data directory."""

    code: ClassVar[str] = "nothing_to_replay"


class ReplayRefused(SeamfillError):
    """The state at that index can not be had from this directory; the text says why."""

    code: ClassVar[str] = "replay_refused"


@dataclass(slots=True, kw_only=True)
class Replayed:
    """Where the replay ended."""

    machine: LeaseMachine
    cluster_id: str
    index: int = 0
    term: int = 0
    """Of the last entry that was applied."""
    snapshot_index: int | None = None
    commit_index: int
    """Up to which the journal says that entries are committed; the cluster may know more."""
    last_index: int
    entries: int = 0
    """Applied from the journal."""
    digests: dict[int, str] = field(default_factory=dict)
    """Multiples of 64 → state digest, as ``/v1/cluster`` tells them."""

    @property
    def is_committed(self) -> bool:
        """Whether the journal itself says that the state will last."""
        return self.index <= self.commit_index


def replay_directory(data_dir: Path, files: Files, *, until: int | None = None) -> Replayed:
    """Return the state after ``until``, or after the last entry known to be committed.

    Raises ``NothingToReplay``, ``ReplayRefused``, the errors of a damaged snapshot or journal,
    ``MachineTooOld`` and ``OSError``.
    """
    snapshots, journal = data_dir / "snapshots", data_dir / "journal"
    path = newest_file(files, snapshots)
    header, machine = (None, LeaseMachine()) if path is None else load_file(files, path)
    contents = replay(
        files.names(journal), lambda name: files.read(journal / name), where=f"{journal}/"
    )
    if header is None and contents is None:
        raise NothingToReplay(f"{data_dir} has neither a snapshot nor a journal")
    result = _start(header, machine, contents)
    _check_they_meet(journal, header, contents)
    target = max(result.index, result.commit_index) if until is None else until
    if not result.index <= target <= result.last_index:
        raise ReplayRefused(
            f"index {target} is not here: the snapshot ends at {result.index}, "
            f"the journal at {result.last_index}"
        )
    if contents is not None:
        _apply(result, contents, target)
    return result


def _start(
    header: SnapshotHeader | None, machine: LeaseMachine, contents: Contents | None
) -> Replayed:
    snapshot_index = None if header is None else header.last_index
    index = snapshot_index or 0
    result = Replayed(
        machine=machine,
        cluster_id=header.cluster_id if header is not None else "",
        index=index,
        term=0 if header is None else header.last_term,
        snapshot_index=snapshot_index,
        commit_index=index,
        last_index=index,
    )
    if contents is not None:
        result.cluster_id = contents.header.cluster_id
        result.commit_index = max(index, min(contents.commit, contents.last))
        result.last_index = max(index, contents.last)
    if index and index % DIGEST_EVERY == 0:
        result.digests[index] = machine.state_digest()
    return result


def _check_they_meet(
    journal: Path, header: SnapshotHeader | None, contents: Contents | None
) -> None:
    if contents is None:
        return
    if header is not None and header.cluster_id != contents.header.cluster_id:
        raise ReplayRefused(
            f"the snapshot is of cluster {header.cluster_id}, "
            f"the journal of {contents.header.cluster_id}"
        )
    covered = 0 if header is None else header.last_index
    if contents.first > covered + 1:
        raise JournalIncomplete(
            f"{journal} begins at index {contents.first}, and no snapshot reaches to there"
        )


def _apply(result: Replayed, contents: Contents, target: int) -> None:
    applier = Applier(result.machine)
    for entry, index, term in contents.entries:
        if index <= result.index:
            continue
        if index > target:
            break
        if entry[0] == EntryKind.COMMAND:
            applier.apply(index, entry[1:])
            result.entries += 1
        result.index, result.term = index, term
        if index % DIGEST_EVERY == 0:
            result.digests[index] = result.machine.state_digest()
