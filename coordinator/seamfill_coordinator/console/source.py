"""``coordinator source``: budgets and breakers of exchanges, and giving one a rest."""

from __future__ import annotations

import click

from seamfill.terminal import Output, emit, output_option
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
    """Grant no window of a source (like ccxt:binance) until it is resumed."""
    call(endpoints, lambda client: client.pause_source(name))
    _tell(name, "paused", output)


@source.command()
@click.argument("name", metavar="SOURCE")
@endpoint_options
@output_option(Output.TABLE, Output.JSON)
def resume(*, name: str, endpoints: Endpoints, output: Output) -> None:
    """Grant windows of a source again."""
    call(endpoints, lambda client: client.resume_source(name))
    _tell(name, "resumed", output)


def _tell(name: str, state: str, output: Output) -> None:
    if output is Output.TABLE:
        click.echo(f"{name} is {state}")
    else:
        emit({"source": name, "state": state}, output)
