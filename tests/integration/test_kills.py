"""Kill cycles with real processes: thirty members, ten times all, twenty inside a snapshot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from seamfill_chaos.kills.cycles import Account, Cycle, KillPlan, Target, run_kills
from seamfill_chaos.kills.ledger import summary
from seamfill_chaos.live.directory_trap import spring_when_made
from seamfill_chaos.live.scene import Totals

SEED = 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_no_kill_loses_or_doubles_an_acknowledged_operation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan's defaults are what the product promises; hundreds are run by hand."""
    account = await run_kills(KillPlan(directory=tmp_path, seed=SEED))
    with capsys.disabled():
        print("\n" + summary(account))
    assert account.failures() == []
    assert account.totals.in_doubt > 0, "no kill ever met an operation under way"
    assert account.totals.digests_agreed > 0


def a_kill(target: Target, *, rate: float = 150.0, is_hit: bool = True) -> Cycle:
    return Cycle(
        number=1,
        target=target,
        victims=("n1",),
        is_hit=is_hit,
        had_leader=False,
        rate=rate,
        silence_s=0.1,
        recovery_s=1.0,
        asked_again=10,
    )


def an_account(*cycles: Cycle) -> Account:
    plan = KillPlan(directory=Path(), seed=1, members=1, all_at_once=0, in_snapshots=1)
    return Account(plan, cycles=list(cycles), totals=Totals(acknowledged=10), disks_compared=1)


def test_a_run_whose_kills_all_happened_succeeds() -> None:
    assert an_account(a_kill(Target.MEMBER), a_kill(Target.SNAPSHOT)).failures() == []


@pytest.mark.parametrize(
    "cycles",
    [
        [a_kill(Target.MEMBER)],
        [a_kill(Target.MEMBER), a_kill(Target.SNAPSHOT, is_hit=False)],
        [a_kill(Target.MEMBER, rate=99.0), a_kill(Target.SNAPSHOT)],
    ],
    ids=["a kind did not happen", "it came too late", "hardly any traffic"],
)
def test_a_run_that_proved_nothing_fails(cycles: list[Cycle]) -> None:
    account = an_account(*cycles)
    assert len(account.failures()) == 1
    assert "FAILED" in summary(account)


async def test_the_trap_springs_for_its_ending_alone(tmp_path: Path) -> None:
    sprung: list[str] = []
    trap = asyncio.create_task(
        spring_when_made(tmp_path, ".partial", lambda: sprung.append("now"), timeout_s=20)
    )
    await asyncio.sleep(0.05)  # the kernel tells a thread, and the thread us
    (tmp_path / "whole").touch()
    await asyncio.sleep(0.05)
    assert sprung == []
    (tmp_path / "half.partial").touch()
    assert await trap
    assert sprung == ["now"]


async def test_a_trap_that_nothing_walks_into_says_so(tmp_path: Path) -> None:
    assert not await spring_when_made(tmp_path, ".partial", lambda: None, timeout_s=0.1)
