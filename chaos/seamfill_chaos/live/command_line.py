"""How a chaos command runs and ends: on Ctrl-C and SIGTERM in order, on a failure in one line.

Owns signals and exit codes: 0 as promised, 1 not, 130 interrupted. Must not know what is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import click

from seamfill.errors import SeamfillError

__all__ = ["run_to_verdict", "scratch"]

INTERRUPTED: Final = 130


@contextlib.contextmanager
def scratch(keep: Path | None) -> Iterator[Path]:
    """Give the directory that is to be kept, or one that is removed afterwards."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="seamfill-") as directory:
        yield Path(directory)


def run_to_verdict(run: Callable[[], Coroutine[Any, Any, bool]]) -> int:
    """Run to the end and return the exit code; everything that ``run`` started is stopped."""
    try:
        return 0 if asyncio.run(_until_signal(run)) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted; everything that was started is stopped", err=True)
        return INTERRUPTED
    except SeamfillError as error:
        click.echo(f"failed: {error}", err=True)
    except ExceptionGroup as group:
        ours, rest = group.split(SeamfillError)
        if rest is not None:
            raise rest from None
        for leaf in _leaves(ours):
            click.echo(f"failed: {leaf}", err=True)
    return 1


async def _until_signal(run: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
    # asyncio.run turns SIGINT into a cancellation; SIGTERM gets the same orderly end.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run()


def _leaves(group: ExceptionGroup[SeamfillError] | None) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions if group else ():
        found += _leaves(error) if isinstance(error, ExceptionGroup) else [error]
    return found
