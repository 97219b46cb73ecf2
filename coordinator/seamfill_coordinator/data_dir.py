"""The directory of one node: whose it is, and that only one process uses it.

Owns the identity file, with the incarnation that is drawn once, and the lock. Must not know what
else lies in the directory.

Invariants: while a ``DataDir`` is open no other process has it open (the kernel drops the lock when
the process ends, however it ends); a directory keeps the cluster and node it was created for.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, ClassVar, Final

from seamfill.errors import SeamfillError
from seamfill_coordinator.raft.journal import draw_incarnation

__all__ = [
    "DataDir",
    "DataDirInUse",
    "DataDirUnusable",
    "DirectoryLock",
    "open_data_dir",
    "write_atomically",
]

_FORMAT: Final = 2
"""1 had no incarnation, and a journal of another kind."""
_IDENTITY: Final = "node.json"


class DataDirUnusable(SeamfillError):
    """The data directory can not be this node's; give another --data-dir or the right ids."""

    code: ClassVar[str] = "data_dir_unusable"


class DataDirInUse(SeamfillError):
    """Another process uses this directory; stop it first."""

    code: ClassVar[str] = "data_dir_in_use"


class DirectoryLock:
    """An exclusive lock on a directory, held until ``release`` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        """Create the directory if needed and lock it. Raises ``DataDirInUse``, ``OSError``."""
        directory.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DataDirInUse(
                f"{directory} is used by another process (pid {holder or 'unknown'})"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class DataDir:
    """A node's directory, locked for this process until ``release``."""

    def __init__(self, lock: DirectoryLock, path: Path, identity: dict[str, Any]) -> None:
        self._lock = lock
        self._path = path
        self._identity = identity

    @property
    def incarnation(self) -> str:
        """The life of the node that began when this directory was created."""
        return str(self._identity["incarnation"])

    @property
    def has_journal(self) -> bool:
        """Whether a journal was begun here, so that one that is gone is a loss."""
        return bool(self._identity["has_journal"])

    def journal_was_begun(self) -> None:
        """Remember it. Raises ``DataDirUnusable``."""
        if not self.has_journal:
            self._identity["has_journal"] = True
            write_atomically(self._path / _IDENTITY, self._identity)

    def release(self) -> None:
        """Let others have it. Safe to repeat."""
        self._lock.release()


def open_data_dir(directory: Path, *, cluster_id: str, node_id: str) -> DataDir:
    """Lock the directory for this node, giving it this identity and a new incarnation if it is new.

    Raises ``DataDirInUse``; ``DataDirUnusable`` when it belongs to another node or cluster, was
    written by another version, or can not be written.
    """
    try:
        lock = DirectoryLock(directory)
    except OSError as exc:
        raise DataDirUnusable(f"--data-dir {directory}: {exc.strerror}") from exc
    try:
        identity = _claim_identity(directory, {"cluster_id": cluster_id, "node_id": node_id})
    except BaseException:
        lock.release()
        raise
    return DataDir(lock, directory, identity)


def _claim_identity(directory: Path, mine: dict[str, str]) -> dict[str, Any]:
    path = directory / _IDENTITY
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (directory / "journal").exists():
            # Without its identity a log could join a cluster that it contradicts.
            raise DataDirUnusable(f"{directory} has a journal but no {_IDENTITY}") from None
        identity = {
            "format": _FORMAT,
            **mine,
            "incarnation": draw_incarnation(),
            "has_journal": False,
        }
        write_atomically(path, identity)
        return identity
    except (OSError, ValueError) as exc:
        raise DataDirUnusable(f"{path} can not be read: {exc}") from exc
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise DataDirUnusable(f"{path} has a format this version does not know")
    for name, value in mine.items():
        if found.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise DataDirUnusable(
                f"{directory} belongs to {name} {found.get(name)}, not {value} "
                f"(see {flag} and --data-dir)"
            )
    if not isinstance(found.get("incarnation"), str) or "has_journal" not in found:
        raise DataDirUnusable(f"{path} does not say which incarnation this is")
    return found


def write_atomically(path: Path, document: dict[str, Any]) -> None:
    """Write JSON so that after a crash the file is whole, or absent. Raises ``DataDirUnusable``."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        raise DataDirUnusable(f"{path}: {exc.strerror}") from exc
