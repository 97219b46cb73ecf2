"""How much is simulated: ``--sim-seeds``, ``SEAMFILL_SIM_SEEDS``, ``…_SECONDS``, ``…_JOBS``."""

from __future__ import annotations

import os

import pytest


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
    return asked if ".." in asked else f"1..{asked}"


@pytest.fixture(scope="session")
def seconds() -> str:
    """Virtual seconds of each seed of the long run; by hand they are 120."""
    return os.environ.get("SEAMFILL_SIM_SECONDS", "60")


@pytest.fixture(scope="session")
def jobs() -> int:
    """How many runs at a time; the processors of this machine unless said otherwise."""
    return int(os.environ.get("SEAMFILL_SIM_JOBS", os.cpu_count() or 1))
