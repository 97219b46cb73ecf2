"""What nodes wrote down, beside what clients heard: the last judgement of a run that is over.

Owns the reading of data directories as evidence. Must not know how the run went. The nodes must
have stopped. ``judge_journals`` is only for runs that wrote no snapshot: it needs the log from its
first entry on. ``compare_states`` starts from each node's newest snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from seamfill.errors import SeamfillError
from seamfill_chaos.checkers.agreement import Agreement, Life
from seamfill_chaos.checkers.judge import judge
from seamfill_chaos.history import History
from seamfill_coordinator.machine.codec import apply_encoded
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import (
    Already,
    Completed,
    Granted,
    Outcome,
    Rejected,
)
from seamfill_coordinator.raft.journal_files import OsFiles
from seamfill_coordinator.raft.journal_format import EntryKind
from seamfill_coordinator.raft.journal_replay import Contents, replay
from seamfill_coordinator.raft.snapshot_store import SnapshotStore

__all__ = ["JournalsIncomplete", "compare_states", "judge_journals"]


class JournalsIncomplete(SeamfillError):
    """The journals do not hold the whole log, so that it can not be judged."""

    code = "journals_incomplete"


def judge_journals(
    data_dirs: Mapping[str, Path], history: History, digests: Mapping[int, str]
) -> list[str]:
    """Return all violations: nodes that differ, answers that the log does not bear out, reads that
    no order explains. ``digests``: index → what a node said its state was.

    Raises ``JournalsIncomplete``, ``JournalCorrupt``.
    """
    contents = {name: _contents(directory) for name, directory in data_dirs.items()}
    late = [name for name, journal in contents.items() if journal.first > 1]
    if late:
        raise JournalsIncomplete(f"the log of {', '.join(late)} does not begin with entry 1")
    # What one node knows to be committed is committed, whoever else knows it yet.
    committed = max(journal.commit for journal in contents.values())
    agreement = Agreement()
    for name, journal in contents.items():
        life = Life(node=name, incarnation=journal.header.incarnation, number=1)
        for entry, index, term in journal.entries:
            if index <= committed and entry[0] == EntryKind.COMMAND:
                agreement.applied(life, index, term, entry[1:])
    judgement = judge(
        history,
        agreement.commands,
        {**digests, **agreement.digests},
        terms=agreement.terms,
        told=_told,
    )
    return [str(violation) for violation in (*agreement.violations, *judgement.violations)]


def _contents(data_dir: Path) -> Contents:
    directory = data_dir / "journal"
    names = [path.name for path in directory.iterdir()]
    contents = replay(names, lambda name: (directory / name).read_bytes(), where=f"{directory}/")
    if contents is None:
        raise JournalsIncomplete(f"{directory} holds no journal")
    return contents


def compare_states(data_dirs: Mapping[str, Path]) -> tuple[int, list[str]]:
    """Apply what each node has on its disk anew: newest snapshot, then journal.

    Return at how many indexes the states of two nodes could be compared, and the differences.
    Raises ``JournalsIncomplete``, ``JournalCorrupt``, ``SnapshotInvalid``.
    """
    contents = {name: _contents(directory) for name, directory in data_dirs.items()}
    committed = max(journal.commit for journal in contents.values())
    known: dict[int, tuple[str, str]] = {}
    compared: set[int] = set()
    differences: list[str] = []
    for name, journal in contents.items():
        for index, digest in _states(data_dirs[name], journal, committed):
            first, expected = known.setdefault(index, (name, digest))
            if first != name:
                compared.add(index)
            if digest != expected:
                differences.append(f"the disks of {first} and {name} differ at index {index}")
    return len(compared), differences


def _states(data_dir: Path, journal: Contents, committed: int) -> Iterator[tuple[int, str]]:
    """Yield index and state digest for everything that this node can tell from its disk."""
    store = SnapshotStore(data_dir / "snapshots", OsFiles(), cluster_id=journal.header.cluster_id)
    newest = store.newest()
    machine = LeaseMachine() if newest is None else store.load(newest)
    start = 0 if newest is None else newest.last_index
    if newest is not None:
        yield start, machine.state_digest()
    if journal.first > start + 1:
        raise JournalsIncomplete(f"{data_dir}: entries {start + 1} to {journal.first - 1} miss")
    for entry, index, _ in journal.entries:
        if start < index <= committed:
            if entry[0] == EntryKind.COMMAND:
                apply_encoded(machine, entry[1:])
            yield index, machine.state_digest()


def _told(outcome: Outcome) -> object:
    """Return what of an outcome goes over HTTP."""
    match outcome:
        case Rejected(reason=reason):
            return reason
        case Already() | Completed():
            return type(outcome)
        case Granted(grants=grants):
            return [(grant.symbol, grant.start_ms, grant.end_ms, grant.fence) for grant in grants]
        case _:
            return outcome
