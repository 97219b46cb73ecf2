"""The command `seamfill-chaos demo`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from seamfill.errors import SeamfillError
from seamfill_chaos.demo.scenario import DemoOptions, run_demo
from seamfill_chaos.demo.screen import Screen

__all__ = ["demo"]

INTERRUPTED = 130


@click.command()
@click.option("--bars", default=28_800, show_default=True, type=click.IntRange(2_000, 500_000))
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same bars.")
@click.option(
    "--delay-ms",
    default=2_500,
    show_default=True,
    type=click.IntRange(0, 60_000),
    help="How slowly the exchange answers; faster leaves less to kill.",
)
@click.option("--questdb/--no-questdb", default=True, help="Use a real QuestDB where possible.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep all files and logs here.")
def demo(bars: int, seed: int, delay_ms: int, questdb: bool, keep: Path | None) -> None:
    """Fill a hole with a cluster that is being killed, and prove the result.

    Three coordinators, two workers, an exchange and a store start on 127.0.0.1. A strategy asks
    the SDK for bars that are not there. A leader and a worker are killed on the way. In the end
    what the SDK returned is compared with what the exchange holds.

    Exit code 0: equal. 1: different, or something did not start.
    """
    with contextlib.ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory("-seamfill")))
        options = DemoOptions(
            directory=directory, bars=bars, seed=seed, delay_ms=delay_ms, use_questdb=questdb
        )
        sys.exit(_run(options))


def _run(options: DemoOptions) -> int:
    console = Console(highlight=False)
    try:
        with Screen(console) as screen:
            return 0 if asyncio.run(_until_signal(options, screen)) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; everything that was started is stopped", style="yellow")
        return INTERRUPTED
    except SeamfillError as error:
        console.print(f"the demo failed: {error}", style="red", markup=False)
    except ExceptionGroup as group:
        ours, rest = group.split(SeamfillError)
        if rest is not None:
            raise rest from None
        for leaf in _leaves(ours):
            console.print(f"the demo failed: {leaf}", style="red", markup=False)
    return 1


def _leaves(group: ExceptionGroup[SeamfillError] | None) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions if group else ():
        found += _leaves(error) if isinstance(error, ExceptionGroup) else [error]
    return found


async def _until_signal(options: DemoOptions, screen: Screen) -> bool:
    # asyncio.run turns SIGINT into a cancellation; SIGTERM gets the same orderly end.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run_demo(options, screen)
