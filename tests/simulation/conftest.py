"""How much is simulated: ``--sim-seeds``, ``SEAMFILL_SIM_SEEDS``, ``…_SECONDS``, ``…_JOBS``.

The long run has seeds of its own for every state of the code: nobody has seen them before, and
whoever tests that code again gets the same ones.
"""

from __future__ import annotations

import os
import subprocess
import zlib
from pathlib import Path

import pytest

_RANGES = 1_000_000
"""The code gets one of so many ranges of seeds; those below are for hand and regressions."""
_CODE = ("HEAD:coordinator", "HEAD:chaos", "HEAD:sdk")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sim-seeds",
        default=os.environ.get("SEAMFILL_SIM_SEEDS", "1000"),
        help="Seeds of the long simulation: a number, or A..B.",
    )


@pytest.fixture(scope="session")
def seeds(request: pytest.FixtureRequest) -> str:
    """The seeds of the long run, as the command takes them."""
    asked = str(request.config.getoption("--sim-seeds"))
    if ".." in asked:
        return asked
    first = (1 + zlib.crc32(_committed_code()) % _RANGES) * 1_000_000
    return f"{first}..{first + int(asked) - 1}"


@pytest.fixture(scope="session")
def seconds() -> str:
    """Virtual seconds of each seed of the long run; by hand they are 120."""
    return os.environ.get("SEAMFILL_SIM_SECONDS", "60")


@pytest.fixture(scope="session")
def jobs() -> int:
    """How many runs at a time; the processors of this machine unless said otherwise."""
    return int(os.environ.get("SEAMFILL_SIM_JOBS", os.cpu_count() or 1))


def _committed_code() -> bytes:
    """Return what git calls the folders that are simulated; nothing where there is no git."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", here, "rev-parse", *_CODE], capture_output=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return found.stdout
