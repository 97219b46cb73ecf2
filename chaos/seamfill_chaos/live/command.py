"""Run one command line to its end, as an operator would, and keep what it printed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from seamfill_chaos.live.processes import ProcessFailed, program

__all__ = ["Printed", "run_command"]

COMMAND_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """How a command ended, and its two streams."""

    line: str
    exit_code: int
    stdout: str
    stderr: str

    def document(self) -> Any:
        """Return stdout as the one JSON document it should be; raises ``ProcessFailed``."""
        if self.exit_code != 0:
            raise ProcessFailed(f"$ {self.line}\nexit code {self.exit_code}\n{self.stderr}")
        return json.loads(self.stdout)


async def run_command(
    name: str,
    *arguments: str | int | Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> Printed:
    """Run a seamfill console script; kill it and raise ``ProcessFailed`` after ``timeout_s``."""
    line = [str(program(name)), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *line,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    shown = " ".join([name, *map(str, arguments)])
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        raise ProcessFailed(f"$ {shown}\nstill running after {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Printed(
        line=shown,
        exit_code=process.returncode,
        stdout=stdout.decode(),
        stderr=stderr.decode(),
    )
