"""When to write a snapshot, and which part of the log may go then.

Owns the trigger, the writer that is under way, and how much of the log stays for members that are
only a little behind. Must not know how a snapshot is written.

Invariant: the log is trimmed only to a snapshot that is durable, directory included, and never
beyond what a snapshot that is being shipped needs to be followed by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.journal_format import Entry
from seamfill_coordinator.raft.membership import ConfigurationLog
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore, SnapshotWriter

__all__ = ["Compaction", "CompactionLimits", "compaction_every"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionLimits:
    """How often, and what stays."""

    every_entries: int = 20_000
    every_bytes: int = 64 << 20
    keep_entries: int = 2_000
    """Entries before the snapshot that stay: a member that is back soon needs no snapshot."""
    keep_bytes: int = 8 << 20


def compaction_every(entries: int) -> CompactionLimits:
    """Return the limits for a snapshot every so many entries; no more than as many stay before."""
    limits = CompactionLimits(every_entries=entries)
    return replace(limits, keep_entries=min(limits.keep_entries, entries))


class Compaction:
    """The snapshots of one node."""

    def __init__(
        self,
        store: SnapshotStore,
        limits: CompactionLimits,
        *,
        newest_index: int,
        journal: DurableJournal,
        on_written: Callable[[SnapshotInfo], None],
    ) -> None:
        """``newest_index``: of the newest snapshot, 0 without one."""
        self._store = store
        self._limits = limits
        self._newest_index = newest_index
        self._journal = journal
        self._bytes_then = journal.bytes_written
        self._on_written = on_written
        self._writer: SnapshotWriter | None = None
        self._asked = False

    @property
    def is_busy(self) -> bool:
        """Whether the next turn has a slice to write."""
        return self._writer is not None or self._asked

    @property
    def newest_index(self) -> int:
        """Last index of the newest durable snapshot; 0 without one."""
        return self._newest_index

    def ask(self) -> None:
        """Write a snapshot at the next turn, whatever the limits say."""
        self._asked = True

    def step(
        self, machine: Callable[[], LeaseMachine], core: Core, configurations: ConfigurationLog
    ) -> bool:
        """Begin one when it is time, write a slice of it; return whether one became durable.

        ``machine`` returns the machine as the last applied entry left it.
        """
        if self._writer is None and self._is_due(core.applied_index):
            self._asked = False
            self._bytes_then = self._journal.bytes_written
            self._writer = self._store.begin(
                machine(),
                last_index=core.applied_index,
                last_term=core.applied_term,
                configuration=configurations.at(core.applied_index),
            )
        if self._writer is None:
            return False
        info = self._writer.step()
        if info is None:
            return False
        self._writer = None
        self._newest_index = info.last_index
        self._store.drop_older_than(info)
        self._on_written(info)
        return True

    def trim(
        self, core: Core, configurations: ConfigurationLog, *, shipped_index: int | None
    ) -> None:
        """Drop the log's beginning that nobody needs."""
        index = (
            self._newest_index if shipped_index is None else min(self._newest_index, shipped_index)
        )
        index = self._first_kept(core.log, index)
        if index > core.first_index:
            core.trim(index)
            configurations.trimmed(index)

    def installed(self, info: SnapshotInfo) -> None:
        """Note a snapshot that came from a leader; one that is being written is older."""
        self.abandon()
        self._newest_index = info.last_index
        self._store.drop_older_than(info)
        self._bytes_then = self._journal.bytes_written

    def abandon(self) -> None:
        """Give up the one that is being written. Safe to repeat."""
        self._asked = False
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _is_due(self, applied_index: int) -> bool:
        if applied_index <= max(self._newest_index, 1):
            return False
        limits = self._limits
        return (
            self._asked
            or applied_index - self._newest_index >= limits.every_entries
            or self._journal.bytes_written - self._bytes_then >= limits.every_bytes
        )

    def _first_kept(self, log: Sequence[Entry], snapshot_index: int) -> int:
        """Return the index at which the log should begin; the snapshot's last entry stays."""
        first = log[0][1]
        index = snapshot_index
        size = 0
        floor = max(first, snapshot_index - self._limits.keep_entries)
        while index > floor:
            size += len(log[index - 1 - first][0])
            if size > self._limits.keep_bytes:
                break
            index -= 1
        return index
