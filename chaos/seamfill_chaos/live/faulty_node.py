"""A real coordinator node on a disk whose fsync begins to fail when it is told to.

Owns one fault of the disk and a program that runs a node on it, with the flags of
``coordinator serve``: ``python -m seamfill_chaos.live.faulty_node FAULT serve …``.
From the moment the file ``FAULT`` exists, the next sync fails with EIO, as a broken disk's does.
Whatever the node asks of its files afterwards is noted in that file: a node that goes on after a
failed sync may acknowledge what the kernel has already dropped. Everything else is the real node;
only the operator's rendering of errors is not in between.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from seamfill.logs import configure_logging
from seamfill_coordinator.app import run_node
from seamfill_coordinator.config import load_config
from seamfill_coordinator.raft.journal_files import File, OsFiles

__all__ = ["FAILED", "FailingFiles", "main"]

FAILED: Final = "sync failed"
"""The first line that is noted in the fault file; others are a node's mistakes."""


class FailingFiles:
    """The operating system's files, until ``fault`` exists."""

    def __init__(self, fault: Path) -> None:
        self._files = OsFiles()
        self._fault = fault
        self._has_failed = False

    def make_directory(self, directory: Path) -> None:
        self._files.make_directory(directory)

    def names(self, directory: Path) -> list[str]:
        return self._files.names(directory)

    def read(self, path: Path) -> bytes:
        return self._files.read(path)

    def create(self, path: Path, *, reserve: int) -> File:
        self.note(f"create {path.name}")
        return _FailingFile(self._files.create(path, reserve=reserve), self, path.name)

    def open(self, path: Path) -> File:
        return _FailingFile(self._files.open(path), self, path.name)

    def rename(self, source: Path, target: Path) -> None:
        self.note(f"rename {source.name}")
        self._files.rename(source, target)

    def remove(self, path: Path) -> None:
        self.note(f"remove {path.name}")
        self._files.remove(path)

    def sync_directory(self, directory: Path) -> None:
        self.fail_if_told(f"sync {directory.name}")
        self._files.sync_directory(directory)

    def note(self, what: str) -> None:
        """Write down what is asked after the failure."""
        if self._has_failed:
            with self._fault.open("a") as file:
                file.write(f"{what}\n")

    def fail_if_told(self, what: str) -> None:
        """Raise EIO at the first sync after the fault was switched on; after that, only note."""
        self.note(what)
        if not self._has_failed and self._fault.exists():
            self._has_failed = True
            self.note(FAILED)
            raise OSError(errno.EIO, os.strerror(errno.EIO), what)


class _FailingFile:
    """A file of the operating system whose syncs go through the fault."""

    def __init__(self, file: File, files: FailingFiles, name: str) -> None:
        self._file = file
        self._files = files
        self._name = name

    def read(self, offset: int, length: int) -> bytes:
        return self._file.read(offset, length)

    def size(self) -> int:
        return self._file.size()

    def write(self, offset: int, data: bytes) -> None:
        self._files.note(f"write {self._name}")
        self._file.write(offset, data)

    def sync_data(self) -> None:
        self._files.fail_if_told(f"sync {self._name}")
        self._file.sync_data()

    def sync(self) -> None:
        self._files.fail_if_told(f"sync {self._name}")
        self._file.sync()

    def cut(self, offset: int, *, reserve: int) -> None:
        self._files.note(f"cut {self._name}")
        self._file.cut(offset, reserve=reserve)

    def close(self) -> None:
        self._file.close()


def main(words: list[str]) -> None:
    """Run a node: ``FAULT serve --flag value …``."""
    fault, serve, *rest = words
    assert serve == "serve"
    config = load_config(_flags(rest), os.environ)
    configure_logging(node=config.node_id)
    asyncio.run(run_node(config, on_ready=_print_ready, files=FailingFiles(Path(fault))))


def _flags(words: list[str]) -> dict[str, object]:
    flags: dict[str, list[str]] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        flags.setdefault(name.removeprefix("--"), []).append(value)
    return {name: values if name == "peer" else values[0] for name, values in flags.items()}


def _print_ready(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
