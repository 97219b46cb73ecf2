"""Real parts that a machine may lack: found here, or skipped with one line that names them.

With ``SEAMFILL_REQUIRE_REAL=1``, as in CI, a missing part is a failure.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["part_missing", "recorded_data", "small_disk"]


def part_missing(reason: str) -> NoReturn:
    """Skip with one line that names the part, or fail where every part is required."""
    if os.environ.get("SEAMFILL_REQUIRE_REAL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def recorded_data() -> Path:
    """Return the folder of the recorded Binance bars."""
    shared = os.environ.get("SEAMFILL_DATA")
    checkout = Path(__file__).resolve().parents[1]
    folder = (Path(shared) if shared else checkout.parent / "shared" / "data") / "binance_spot_1m"
    if not folder.is_dir():
        part_missing(f"recorded market data: {folder} is absent; set SEAMFILL_DATA")
    return folder


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A tmpfs of one megabyte."""
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", place]
        if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
            part_missing("a full disk: mounting a tmpfs needs root")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)
