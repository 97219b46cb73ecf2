"""The commands `seamfill-chaos parts …`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from seamfill_chaos.parts import questdb as part
from seamfill_chaos.parts.maven import PartMissing, parts_directory

__all__ = ["parts"]

_LOOK_AGAIN_S: Final = 0.5
T = TypeVar("T")


@click.group("parts")
def parts() -> None:
    """Get and run real parts for tests and the demo; they are kept in $SEAMFILL_PARTS or .parts."""


@parts.group("questdb")
def questdb() -> None:
    """A real QuestDB server, from Maven; needs Java 17."""


@questdb.command("fetch")
def fetch_command() -> None:
    """Fetch the server once, check its sha256, and print where it is."""
    click.echo(_or_exit(part.fetch_questdb()))


@questdb.command("run")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the server keeps its tables, configuration and log.  [default: beside the parts]",
)
def run_command(data_dir: Path | None) -> None:
    """Run a server on free loopback ports until SIGTERM or Ctrl-C.

    The ready line carries the two variables that lead workers and readers here.
    """
    _or_exit(_run(data_dir or parts_directory() / "questdb-data"))


async def _run(data_dir: Path) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    async with part.running(data_dir) as server:
        ready = {"event": "ready", "pid": server.pid, "url": server.http_url, **server.environment}
        click.echo(json.dumps(ready))
        sys.stdout.flush()
        while server.running and not asked_to_stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asked_to_stop.wait(), _LOOK_AGAIN_S)
        if not asked_to_stop.is_set():
            raise PartMissing(f"QuestDB ended by itself; see {server.log}")


def _or_exit(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except PartMissing as missing:
        raise click.ClickException(missing.message) from missing
