"""The file system without waiting for its disk.

For tests of what members say to each other: an fdatasync on a busy disk can outlast an election,
and three members wait in one loop. What a disk keeps is tested with one that loses power
(``test_cluster_on_journal``) and with real processes.
"""

from __future__ import annotations

from pathlib import Path

from seamfill_coordinator.raft.journal_files import File, OsFiles


class UnsyncedFiles(OsFiles):
    """Satisfies ``Files``; a sync has nothing to do."""

    def create(self, path: Path, *, reserve: int) -> File:
        return _Unsynced(super().create(path, reserve=reserve))

    def open(self, path: Path) -> File:
        return _Unsynced(super().open(path))

    def sync_directory(self, directory: Path) -> None:
        pass


class _Unsynced:
    def __init__(self, file: File) -> None:
        self.write = file.write
        self.cut = file.cut
        self.read = file.read
        self.size = file.size
        self.close = file.close

    def sync_data(self) -> None:
        pass

    def sync(self) -> None:
        pass
