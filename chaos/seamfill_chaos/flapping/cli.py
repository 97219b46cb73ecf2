"""The command `seamfill-chaos flapping`."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click

from seamfill_chaos.flapping.flapping import FlapPlan, Stretch, run_flapping
from seamfill_chaos.flapping.ledger import append_to_ledger, stretch_line, summary
from seamfill_chaos.live.command_line import run_to_verdict, scratch
from seamfill_chaos.live.namespaces import Wires
from seamfill_chaos.live.scene import NODES

__all__ = ["flapping"]


@click.command()
@click.option(
    "--for",
    "lasting_s",
    default=600.0,
    show_default=True,
    type=click.FloatRange(5.0),
    metavar="SECONDS",
    help="How long links flap in all.",
)
@click.option("--seed", type=int, help="Decides what is cut when.  [default: drawn]")
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
def flapping(lasting_s: float, seed: int | None, ledger: Path | None, keep: Path | None) -> None:
    """Cut and heal links between real nodes every 0.2 to 2 s, and account for every operation.

    Three coordinators start, each in a network namespace of its own; needs root, ip and nft. Every
    ten seconds all links are healed, and it is measured how long the nodes take to agree.

    Exit code 0: nothing lost, no stale read, never two leaders in a term, agreement within 5 s.
    """
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    with scratch(keep) as directory:
        plan = FlapPlan(directory=directory, seed=seed, lasting_s=lasting_s)
        click.echo(f"links flap for {lasting_s:g} s, seed {seed}, files in {directory}")
        sys.exit(run_to_verdict(lambda: _run(plan, ledger)))


async def _run(plan: FlapPlan, ledger: Path | None) -> bool:
    async with Wires(NODES) as wires:
        account = await run_flapping(plan, wires, on_stretch=_say)
    click.echo(f"\n{summary(account)}")
    if ledger is not None:
        append_to_ledger(ledger, account)
    return not account.failures()


def _say(stretch: Stretch) -> None:
    click.echo(stretch_line(stretch))
