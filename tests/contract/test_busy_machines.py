"""The one excuse of a test about leadership: it must be a real one, and it must not last."""

from __future__ import annotations

import asyncio
import time

import pytest

from contract import busy_machines
from contract.busy_machines import EXCUSED_FROM_MS, ROUNDS, excused


class Fresh:
    """A fixture that counts how often it began again."""

    def __init__(self) -> None:
        self.renewals = 0

    async def renew(self) -> None:
        self.renewals += 1


async def hold_up() -> None:
    """Block the loop, as a machine does that gives its time to others."""
    await asyncio.sleep(0)  # the watch has begun
    time.sleep(1.2 * EXCUSED_FROM_MS / 1000)  # noqa: ASYNC251  # blocking is what is tested


async def test_without_a_hold_up_a_failure_is_one_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However busy this machine is now, by this measure it is not.
    monkeypatch.setattr(busy_machines, "EXCUSED_FROM_MS", 600_000)
    fresh, rounds = Fresh(), []

    @excused
    async def story(cluster: Fresh) -> None:
        rounds.append(cluster)
        await asyncio.sleep(0)
        raise AssertionError("an election that nothing explains")

    with pytest.raises(AssertionError, match="nothing explains"):
        await story(cluster=fresh)
    assert (len(rounds), fresh.renewals) == (1, 0)


async def test_after_a_hold_up_a_story_is_told_again_on_a_new_cluster() -> None:
    fresh = Fresh()

    @excused
    async def story(cluster: Fresh) -> None:
        if cluster.renewals < 2:
            await hold_up()
            pytest.fail("DID NOT RAISE")

    await story(cluster=fresh)
    assert fresh.renewals == 2


async def test_what_fails_in_every_round_fails() -> None:
    fresh = Fresh()

    @excused
    async def story(cluster: Fresh) -> None:
        await hold_up()
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await story(cluster=fresh)
    assert fresh.renewals == ROUNDS - 1
