"""What nodes wrote down, beside what clients heard: the last judgement of a run that is over.

Owns the reading of data directories as evidence for the checkers. Must not know how the run went.
Only for runs that wrote no snapshot: the log has to be whole from its first entry on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from seamfill.errors import SeamfillError
from seamfill_chaos.checkers.agreement import Agreement, Life
from seamfill_chaos.checkers.judge import judge
from seamfill_chaos.history import History
from seamfill_coordinator.machine.outcomes import (
    Completed,
    Granted,
    Outcome,
    Rejected,
)
from seamfill_coordinator.raft.journal_format import EntryKind
from seamfill_coordinator.raft.journal_replay import Contents, replay

__all__ = ["JournalsIncomplete", "judge_journals"]


class JournalsIncomplete(SeamfillError):
    """The journals do not hold the whole log, so that it can not be judged."""

    code = "journals_incomplete"


def judge_journals(
    data_dirs: Mapping[str, Path], history: History, digests: Mapping[int, str]
) -> list[str]:
    """Return all violations: nodes that differ, answers that the log does not bear out, reads that
    no order explains. ``digests``: index → what a node said its state was.

    The nodes must have stopped. Raises ``JournalsIncomplete``, ``JournalCorrupt``.
    """
    contents = {name: _contents(directory) for name, directory in data_dirs.items()}
    # What one node knows to be committed is committed, whoever else knows it yet.
    committed = max(journal.commit for journal in contents.values())
    agreement = Agreement()
    for name, journal in contents.items():
        life = Life(node=name, incarnation=journal.header.incarnation, number=1)
        for entry, index, term in journal.entries:
            if index <= committed and entry[0] == EntryKind.COMMAND:
                agreement.applied(life, index, term, entry[1:])
    for index, digest in digests.items():
        agreement.digests.setdefault(index, digest)
    return [str(violation) for violation in judge(history, agreement, told=_told).violations]


def _contents(data_dir: Path) -> Contents:
    directory = data_dir / "journal"
    names = [path.name for path in directory.iterdir()]
    contents = replay(names, lambda name: (directory / name).read_bytes(), where=f"{directory}/")
    if contents is None or contents.first > 1:
        raise JournalsIncomplete(f"{directory} does not begin with the first entry")
    return contents


def _told(outcome: Outcome) -> object:
    """Return what of an outcome goes over HTTP."""
    match outcome:
        case Rejected(reason=reason):
            return reason
        case Completed():
            return Completed
        case Granted(grants=grants):
            return [(grant.symbol, grant.start_ms, grant.end_ms, grant.fence) for grant in grants]
        case _:
            return outcome
