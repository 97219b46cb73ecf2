"""Processes that the chaos tools own: started with a ready line, killed by id, never left behind.

Owns how a seamfill program is found, started, awaited, paused, killed and collected. Must not know
what the programs do. Invariants: every process started here is in ``Processes`` until it has been
reaped; leaving the ``async with`` block kills and reaps what is left, whatever happened inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from seamfill.errors import SeamfillError
from seamfill_coordinator.orphans import die_with

__all__ = ["ManagedProcess", "ProcessFailed", "Processes", "program"]

READY_TIMEOUT_S: Final = 120.0
"""For a program that hangs. One that dies is noticed at once, and a busy machine loads slowly."""

STOP_TIMEOUT_S: Final = 15.0


class ProcessFailed(SeamfillError):
    """A program ended or stayed silent instead of saying that it is ready; see its log."""

    code = "process_failed"


def program(name: str) -> Path:
    """Return the console script ``name`` of this installation."""
    return Path(sys.executable).parent / name


@dataclass(slots=True, eq=False)
class ManagedProcess:
    """One running program. ``ready`` is its ready line; ``log`` is where stderr goes."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    process: asyncio.subprocess.Process
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, then reap."""
        self.signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, wait, SIGKILL when it does not end in time; return the exit code."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.wait()
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log, for error messages."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Processes:
    """All processes of one run, and the directory their logs go to."""

    def __init__(self, directory: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._environment = dict(os.environ if environment is None else environment)
        self._all: list[ManagedProcess] = []

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Shielded: a second Ctrl-C while we clean up must not leave half of them running.
        await asyncio.shield(self.stop_all())

    async def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        ready_timeout_s: float = READY_TIMEOUT_S,
    ) -> ManagedProcess:
        """Start a program and return when it printed its ready line (one JSON document)."""
        log = self.directory / f"{name}.log"
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *map(str, argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**self._environment, **(environment or {})},
                preexec_fn=functools.partial(die_with, os.getpid()),
                # A group of its own: Ctrl-C reaches the tool alone, which then stops its children
                # in order.
                start_new_session=True,
            )
        managed = ManagedProcess(
            name=name,
            argv=tuple(map(str, argv)),
            environment=dict(environment or {}),
            log=log,
            process=process,
        )
        self._all.append(managed)
        managed.ready = await self._ready(managed, ready_timeout_s)
        return managed

    async def restart(self, dead: ManagedProcess) -> ManagedProcess:
        """Start a dead program again with the same line."""
        if dead in self._all:
            self._all.remove(dead)
        return await self.start(dead.name, dead.argv, environment=dead.environment)

    async def stop_all(self) -> None:
        """Stop what still runs, newest first, then reap everything."""
        running = [process for process in reversed(self._all) if process.running]
        for process in running:
            await process.stop(timeout_s=5.0)
        self._all.clear()

    @staticmethod
    async def _ready(managed: ManagedProcess, timeout_s: float) -> dict[str, Any]:
        stdout = managed.process.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await stdout.readline()
        except TimeoutError:
            await managed.kill()
            raise ProcessFailed(
                f"{managed.name} was not ready after {timeout_s:g} s:\n{managed.tail()}"
            ) from None
        if not line:
            code = await managed.process.wait()
            raise ProcessFailed(
                f"{managed.name} ended with exit code {code} before it was ready:\n{managed.tail()}"
            )
        document = json.loads(line)
        assert isinstance(document, dict)
        return document
