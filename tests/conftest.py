"""Fixtures that all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fixtures_questdb import mortal_questdb, questdb_environment, questdb_server, table_name
from real_parts import small_disk

__all__ = ["mortal_questdb", "questdb_environment", "questdb_server", "small_disk", "table_name"]


@pytest.fixture(autouse=True)
def root_logging_as_it_was() -> Iterator[None]:
    """A command that runs in the test's process configures all logging of that process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
