"""``coordinator worker``: who fills windows, and letting one finish."""

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

__all__ = ["worker"]


@click.group()
def worker() -> None:
    """Look at workers, and drain one."""


@worker.command("list")
@endpoint_options
@output_option()
def list_workers(*, endpoints: Endpoints, output: Output) -> None:
    """List the workers that have asked for work."""
    answer = call(endpoints, lambda client: client.workers())
    if output is not Output.TABLE:
        emit_rows(answer.workers, answer, output)
        return
    print_table(
        ("WORKER", "STATE", "LEASES", "LAST HEARD", "COMPLETED", "FAILED"),
        [
            (
                each.id,
                each.state,
                each.leases,
                f"{each.last_seen_ms / 1000:.1f} s ago",
                each.completed_total,
                each.failed_total,
            )
            for each in answer.workers
        ],
        none="No worker has asked for work yet: seamfill-worker run --coordinator URL",
    )


@worker.command()
@click.argument("worker_id", metavar="ID")
@endpoint_options
@output_option(Output.TABLE, Output.JSON)
def drain(*, worker_id: str, endpoints: Endpoints, output: Output) -> None:
    """Grant a worker nothing more and let it finish what it holds; it stops by itself."""
    call(endpoints, lambda client: client.drain_worker(worker_id))
    if output is Output.TABLE:
        click.echo(f"{worker_id} is draining")
    else:
        emit({"worker": worker_id, "state": "draining"}, output)
