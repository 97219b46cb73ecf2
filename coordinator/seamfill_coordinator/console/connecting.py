"""How an operator's command reaches the cluster.

Owns the options ``--endpoint`` and ``--timeout`` and the client they make. The token comes from
``SEAMFILL_TOKEN`` or ``SEAMFILL_TOKEN_FILE``, never from the command line, where others see it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.table import Table

from seamfill.client import CoordinatorClient
from seamfill.config import SeamlessConfig
from seamfill.coordinator_link import parse_urls
from seamfill.errors import InvalidInput
from seamfill.terminal import Exit, Output, emit, execute, say

__all__ = ["PROGRAM", "Endpoints", "call", "confirm", "endpoint_options", "print_table", "run"]

PROGRAM: Final = "coordinator"
LOCAL: Final = "http://127.0.0.1:8080"
REFRESH_S: Final = 2.0
_TIMEOUT: Final = "seamfill.call_timeout_s"

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the cluster is, and how long a call may take."""

    urls: tuple[str, ...]
    timeout_s: float

    def client(self) -> CoordinatorClient:
        """Return a client that is not open yet."""
        config = SeamlessConfig.from_env()
        return CoordinatorClient(
            self.urls, token=config.token, ca_file=config.ca_file, timeout_s=self.timeout_s
        )


def endpoint_options(command: F) -> F:
    """Add ``--endpoint`` (repeatable) and ``--timeout`` as the parameter ``endpoints``."""

    def gather(ctx: click.Context, _param: click.Parameter, urls: tuple[str, ...]) -> Endpoints:
        try:
            given = urls or SeamlessConfig.from_env().coordinator_urls or (LOCAL,)
            return Endpoints(parse_urls(given, field="--endpoint"), ctx.meta[_TIMEOUT])
        except InvalidInput as exc:
            if exc.field == "--endpoint":
                raise click.BadParameter(exc.message.removeprefix("--endpoint: ")) from exc
            raise click.UsageError(exc.message) from exc  # it names the environment variable

    timeout = click.option(
        "--call-timeout",
        "call_timeout_s",
        type=click.FloatRange(0.1, 600),
        default=10.0,
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=lambda ctx, _param, value: ctx.meta.__setitem__(_TIMEOUT, value),
        metavar="SECONDS",
        help="How long to look for a node that answers.",
    )
    endpoint = click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        metavar="URL",
        callback=gather,
        help="A node's URL; repeat for more of the same cluster."
        f"  [env: SEAMFILL_COORDINATOR_URL; default: {LOCAL}]",
    )
    return timeout(endpoint(command))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; tell errors and exit as all commands do."""
    return execute(work, program=PROGRAM)


def call(endpoints: Endpoints, work: Callable[[CoordinatorClient], Awaitable[T]]) -> T:
    """Open a client, do the work with it, close it; errors are told and end the process."""

    async def opened() -> T:
        async with endpoints.client() as client:
            return await work(client)

    return run(opened())


def repeat(endpoints: Endpoints, show: Callable[[CoordinatorClient], Awaitable[None]]) -> None:
    """Do the work every two seconds until it is interrupted."""

    async def forever(client: CoordinatorClient) -> None:
        while True:
            await show(client)
            await asyncio.sleep(REFRESH_S)

    call(endpoints, forever)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, none: str) -> None:
    """Print rows for people, or the sentence that there are none."""
    if not rows:
        click.echo(none)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)


def console() -> Console:
    """Return a console on the present stdout (tests replace it); wide when it is no terminal."""
    is_terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, width=None if is_terminal else 200, highlight=False, soft_wrap=False
    )


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that can not be taken back; scripts are not asked."""
    if yes or not sys.stdin.isatty():
        return
    if not click.confirm(question, err=True):
        say("nothing was done")
        raise SystemExit(Exit.FAILURE)


def emit_rows(rows: Sequence[object], document: object, output: Output) -> None:
    """Print all rows as one document, or one line each."""
    if output is Output.JSONL:
        for row in rows:
            emit(row, output)
    else:
        emit(document, output)
