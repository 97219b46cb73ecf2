"""How much is simulated: ``--sim-seeds``, ``SEAMFILL_SIM_SEEDS``, ``…_SECONDS``, ``…_JOBS``.

The long run has seeds of its own for every commit: nobody has seen them before, and whoever tests
that commit again gets the same ones.
"""

from __future__ import annotations

import os
import zlib

import pytest

from seamfill_chaos.provenance import current_commit

_RANGES = 1_000_000
"""Of so many ranges of seeds a commit gets one; seeds below them are for hand and regressions."""


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
    commit = current_commit().removesuffix("-dirty")
    first = (1 + zlib.crc32(commit.encode()) % _RANGES) * 1_000_000
    return f"{first}..{first + int(asked) - 1}"


@pytest.fixture(scope="session")
def seconds() -> str:
    """Virtual seconds of each seed of the long run; by hand they are 120."""
    return os.environ.get("SEAMFILL_SIM_SECONDS", "60")


@pytest.fixture(scope="session")
def jobs() -> int:
    """How many runs at a time; the processors of this machine unless said otherwise."""
    return int(os.environ.get("SEAMFILL_SIM_JOBS", os.cpu_count() or 1))
