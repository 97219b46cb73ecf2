"""The command `seamfill-chaos kills`."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click

from seamfill_chaos.kills.cycles import Cycle, KillPlan, run_kills
from seamfill_chaos.kills.ledger import append_to_ledger, cycle_line, summary
from seamfill_chaos.live.command_line import run_to_verdict, scratch

__all__ = ["kills"]


@click.command()
@click.option(
    "--cycles",
    default=60,
    show_default=True,
    type=click.IntRange(6, 100_000),
    help="Kills in all: half one member, a sixth all at once, a third inside a snapshot.",
)
@click.option("--seed", type=int, help="Decides whom, when and in which order.  [default: drawn]")
@click.option(
    "--snapshot-every",
    default=64,
    show_default=True,
    type=click.IntRange(16, 100_000),
    metavar="ENTRIES",
    help="How often the nodes write a snapshot.",
)
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the account to this Markdown file.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep logs, data directories and the history of all operations here.",
)
def kills(
    cycles: int, seed: int | None, snapshot_every: int, ledger: Path | None, keep: Path | None
) -> None:
    """Kill real nodes under load again and again, and account for every operation.

    Three coordinators start on 127.0.0.1 and clients claim, renew, complete and read. Nodes are
    killed with SIGKILL and started again. After each kill every operation that was ever
    acknowledged is asked for again: the same identity must give the same outcome.

    Exit code 0: nothing was lost and nothing happened twice. 1: something was, or a kind of kill
    did not happen, or there was too little traffic for the run to prove anything.
    """
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    all_at_once, in_snapshots = cycles // 6, cycles // 3
    with scratch(keep) as directory:
        plan = KillPlan(
            directory=directory,
            seed=seed,
            members=cycles - all_at_once - in_snapshots,
            all_at_once=all_at_once,
            in_snapshots=in_snapshots,
            snapshot_every=snapshot_every,
        )
        click.echo(f"{cycles} kill cycles, seed {seed}, files in {directory}")
        sys.exit(run_to_verdict(lambda: _run(plan, ledger)))


async def _run(plan: KillPlan, ledger: Path | None) -> bool:
    account = await run_kills(plan, on_cycle=_say)
    click.echo(f"\n{summary(account)}")
    if ledger is not None:
        append_to_ledger(ledger, account)
    return not account.failures()


def _say(cycle: Cycle) -> None:
    click.echo(cycle_line(cycle))
