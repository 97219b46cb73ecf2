"""Where a result comes from: the code and the machine, in a line each, printed beside it.

Owns those two lines. Must not know any result.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

__all__ = ["current_commit", "describe_machine"]

_GIT_S: Final = 5.0


def current_commit() -> str:
    """Return the commit this program was started from, or its version."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return f"version {version('seamfill')}"
    return found.stdout.strip()


def describe_machine(*packages: str) -> str:
    """Return one line: processor, cores, memory, kernel, Python, versions of ``packages``."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
        + (f", {versions}" if versions else "")
    )
