"""``coordinator snapshot``: have a running node write one. ``cli`` adds the offline commands."""

from __future__ import annotations

import click

from seamfill.terminal import Output, emit, output_option
from seamfill_coordinator.console.connecting import Endpoints, call, endpoint_options

__all__ = ["snapshot"]


@click.group()
def snapshot() -> None:
    """Save a node's state, look at what was saved, begin a new cluster from it."""


@snapshot.command()
@endpoint_options
@output_option(Output.TABLE, Output.JSON)
def save(*, endpoints: Endpoints, output: Output) -> None:
    """Have a running node write a snapshot of all that it has applied to its own disk.

    The first --endpoint that answers does it; leader or not is the same. Copy the file it names:
    that is the backup. The node itself replaces it by newer ones.
    """
    answer = call(endpoints, lambda client: client.save_snapshot())
    if output is Output.JSON:
        emit(answer, output)
        return
    click.echo(
        f"{answer.node_id} wrote {answer.file}: index {answer.last_index}, "
        f"term {answer.last_term}, {answer.bytes:,} bytes"
    )
