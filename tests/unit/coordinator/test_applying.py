"""How the log reaches the machine: what is hashed when, and what that must not change."""

from __future__ import annotations

from seamfill.protocol.backfills import Wanted
from seamfill.protocol.values import DatasetSpec
from seamfill_coordinator.machine.codec import apply_encoded, encode_command
from seamfill_coordinator.machine.commands import Command, Request, Stamp, Submit
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.raft.applying import MAX_UNHASHED_ROWS, Applier

SERIES = 300


def submission(number: int) -> bytes:
    """Return a command that makes 300 series, the most work for a digest a command has."""
    submit = Submit(
        backfill_id=f"bf-{number}",
        dataset="bars",
        spec=DatasetSpec(kind="ohlcv", interval_ms=60_000, source="ccxt:sim", store="parquet:a"),
        wanted=tuple(
            Wanted(symbol=f"S{number * SERIES + i}", start_ms=0, end_ms=600_000)
            for i in range(SERIES)
        ),
        closed_before_ms=0,
        window_bars=10,
        priority=0,
        deadline_ms=None,
        redo=None,
        dry_run=False,
    )
    stamp = Stamp(term=1, reign_ms=0, wall_ms=0)
    return encode_command(
        Command(version=1, stamp=stamp, requests=(Request(operations=(submit,)),))
    )


def test_few_rows_wait_for_a_digest_however_much_the_log_changes() -> None:
    """A digest point, or a snapshot, must not keep the loop while it hashes all of them."""
    applier = Applier(LeaseMachine())
    waiting = []
    for index in range(1, 13):
        applier.apply(index, submission(index))
        waiting.append(applier.machine.changed_rows)
    assert max(waiting) <= MAX_UNHASHED_ROWS
    assert max(waiting) > SERIES, "they are not hashed one command at a time either"


def test_when_rows_are_hashed_changes_no_digest() -> None:
    applier, plain = Applier(LeaseMachine()), LeaseMachine()
    for index in range(1, 10):
        applier.apply(index, submission(index))
        apply_encoded(plain, submission(index))
    assert plain.changed_rows > MAX_UNHASHED_ROWS
    assert applier.machine.state_digest() == plain.state_digest()
