"""The directory of one node: whose it is, and that only one process uses it.

Owns the identity file and the lock. Must not know what else lies in the directory.

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

__all__ = ["DataDirInUse", "DataDirUnusable", "DirectoryLock", "open_data_dir", "write_atomically"]

_FORMAT: Final = 1


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


def open_data_dir(directory: Path, *, cluster_id: str, node_id: str) -> DirectoryLock:
    """Lock the directory for this node, giving it this identity if it is new.

    Raises ``DataDirInUse``; ``DataDirUnusable`` when it belongs to another node or cluster, was
    written by a newer version, or can not be written.
    """
    try:
        lock = DirectoryLock(directory)
    except OSError as exc:
        raise DataDirUnusable(f"--data-dir {directory}: {exc.strerror}") from exc
    try:
        _claim_identity(directory, {"cluster_id": cluster_id, "node_id": node_id})
    except BaseException:
        lock.release()
        raise
    return lock


def _claim_identity(directory: Path, mine: dict[str, str]) -> None:
    path = directory / "node.json"
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (directory / "journal").exists():
            # Without its identity a log could join a cluster that it contradicts.
            raise DataDirUnusable(f"{directory} has a journal but no node.json") from None
        write_atomically(path, {"format": _FORMAT, **mine})
        return
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
