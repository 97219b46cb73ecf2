"""``coordinator source``: budgets and breakers of exchanges, and giving one a rest."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable

import click

from seamfill.client import CoordinatorClient
from seamfill.terminal import Output, emit, output_option, say
from seamfill_coordinator.console.connecting import (
    Endpoints,
    call,
    emit_rows,
    endpoint_options,
    print_table,
)
from seamfill_coordinator.console.status import source_state

__all__ = ["source"]


@click.group()
def source() -> None:
    """Look at sources, pause one, go on with it."""


@source.command("list")
@endpoint_options
@output_option()
def list_sources(*, endpoints: Endpoints, output: Output) -> None:
    """List sources with the weight that is left of their budgets."""
    answer = call(endpoints, lambda client: client.sources())
    if output is not Output.TABLE:
        emit_rows(answer.sources, answer, output)
        return
    print_table(
        ("SOURCE", "BUDGET LEFT", "PER MINUTE", "STATE"),
        [
            (each.source, each.weight_available, each.weight_per_minute, source_state(each))
            for each in answer.sources
        ],
        none="No worker has offered a source yet.",
    )


@source.command()
@click.argument("name", metavar="SOURCE")
@endpoint_options
@output_option(Output.TABLE, Output.JSON)
def pause(*, name: str, endpoints: Endpoints, output: Output) -> None:
    """Grant no window of a source (like ccxt:binance) until it is resumed.

    A source that no worker has offered yet is paused as well, with a warning: it may be a slip.
    """
    unknown = call(endpoints, lambda client: _unless_known(client, name, client.pause_source))
    _warn(unknown, name)
    _tell(name, "paused", output)


@source.command()
@click.argument("name", metavar="SOURCE")
@endpoint_options
@output_option(Output.TABLE, Output.JSON)
def resume(*, name: str, endpoints: Endpoints, output: Output) -> None:
    """Grant windows of a source again."""
    unknown = call(endpoints, lambda client: _unless_known(client, name, client.resume_source))
    _warn(unknown, name)
    _tell(name, "resumed", output)


async def _unless_known(
    client: CoordinatorClient, name: str, change: Callable[[str], Awaitable[object]]
) -> tuple[str, ...] | None:
    """Make the change; return the sources that there are, or None when ``name`` is one of them."""
    names = tuple(each.source for each in (await client.sources()).sources)
    await change(name)
    return None if name in names else names


def _warn(others: tuple[str, ...] | None, name: str) -> None:
    if others is None:
        return
    # All names begin alike (ccxt:), which is not what makes two of them near.
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
    if near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"there are {', '.join(others)}" if others else "nor any other"
    say(f"coordinator: no worker has offered {name!r} yet; {hint}")


def _tell(name: str, state: str, output: Output) -> None:
    if output is Output.TABLE:
        click.echo(f"{name} is {state}")
    else:
        emit({"source": name, "state": state}, output)
