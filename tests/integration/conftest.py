"""Where the acceptance runs store bars: a real QuestDB, or files in a directory of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.filling import StoreUnderTest


@pytest.fixture
def questdb_store(request: pytest.FixtureRequest, table_name: str) -> StoreUnderTest:
    """A table of its own in the run's QuestDB server."""
    environment = request.getfixturevalue("questdb_environment")
    return StoreUnderTest(spec=f"questdb:{table_name}", environment=environment)


@pytest.fixture
def parquet_store(tmp_path: Path) -> StoreUnderTest:
    return StoreUnderTest(spec=f"parquet:{tmp_path / 'bars'}")


@pytest.fixture(params=["questdb", "parquet"])
def store(request: pytest.FixtureRequest) -> StoreUnderTest:
    """Both stores, one after the other."""
    chosen: StoreUnderTest = request.getfixturevalue(f"{request.param}_store")
    return chosen


@pytest.fixture
def one_store(questdb_store: StoreUnderTest) -> StoreUnderTest:
    """The production store, where running everything on both would only take time."""
    return questdb_store
