"""Fixtures that all tests share, and the Hypothesis profiles.

``ci`` is the default: the same small run every time, however slow the machine; ``soak`` is large
and random. ``SEAMFILL_HYPOTHESIS_PROFILE`` chooses.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from fixtures_questdb import mortal_questdb, questdb_environment, questdb_server, table_name
from real_parts import small_disk

__all__ = ["mortal_questdb", "questdb_environment", "questdb_server", "small_disk", "table_name"]

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "soak",
    deadline=None,
    max_examples=5_000,
    stateful_step_count=120,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("SEAMFILL_HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def root_logging_as_it_was() -> Iterator[None]:
    """A command that runs in the test's process configures all logging of that process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
