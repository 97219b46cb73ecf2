"""Run `seamfill-chaos sim` in an interpreter of its own, as a person would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Told:
    """What the command said, and how it ended."""

    exit_code: int
    document: dict[str, Any]
    stderr: str


def simulate(
    *arguments: str | int, cwd: Path, timeout_s: float, hash_seed: str | None = "0"
) -> Told:
    """Run the command with ``-o json``; it must print one document whatever happens.

    With another ``hash_seed`` than 0 it starts itself again, which takes a second.
    """
    line = [sys.executable, "-m", "seamfill_chaos", "sim", *map(str, arguments), "-o", "json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"}
    if hash_seed is not None:
        environment["PYTHONHASHSEED"] = hash_seed
    done = subprocess.run(
        line,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=environment,
    )
    assert done.stdout, done.stderr
    return Told(done.returncode, json.loads(done.stdout), done.stderr)
