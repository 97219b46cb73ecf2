"""A set of runs proves something only when it met what is interesting."""

from __future__ import annotations

import pytest

from seamfill_chaos.sim.moments import REQUIRED, SEEDS_FOR_ALL, missing_moments


def test_many_runs_that_met_everything_miss_nothing() -> None:
    assert missing_moments(dict.fromkeys(REQUIRED, 1), runs=SEEDS_FOR_ALL) == []


@pytest.mark.parametrize("name", REQUIRED)
def test_what_many_runs_never_met_is_named(name: str) -> None:
    met = dict.fromkeys(REQUIRED, 3) | {name: 0}
    assert missing_moments(met, runs=SEEDS_FOR_ALL) == [f"{name} ({REQUIRED[name]})"]
    del met[name]
    assert missing_moments(met, runs=SEEDS_FOR_ALL) == [f"{name} ({REQUIRED[name]})"]


def test_few_runs_may_miss_anything() -> None:
    assert missing_moments({}, runs=SEEDS_FOR_ALL - 1) == []
