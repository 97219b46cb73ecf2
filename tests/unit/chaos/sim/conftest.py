"""One loop in virtual time per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seamfill_chaos.sim.loop import VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()
