"""The command ``coordinator``: serve a node, run a cluster for development, and ask a cluster.

Owns the group, the server commands, their exit codes, and how this process logs. Must not know what
the operators' commands do (``console`` attaches them).

Exit codes of the servers: 0 stopped in order · 1 failure (an address is taken) · 2 usage, naming
the flag · 4 the data directory is in use · 8 the data directory belongs to another node, or its
journal or snapshot is damaged · 70 the node ended itself: going on could have lost something.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Coroutine
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final

import click

from seamfill.entry import loading
from seamfill.errors import InvalidInput, SeamfillError
from seamfill.logs import configure_logging
from seamfill.terminal import Program
from seamfill_coordinator import console
from seamfill_coordinator.config import load_config
from seamfill_coordinator.raft.certs_cli import certs
from seamfill_coordinator.raft.journal_cli import journal
from seamfill_coordinator.raft.offline_cli import inspect, replay, restore

__all__ = ["main"]

PROGRAM: Final = "coordinator"
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_CONFLICT: Final = 4
EXIT_INVALID: Final = 8
_EXIT_CODES: Final = {
    "invalid_input": EXIT_USAGE,
    "data_dir_in_use": EXIT_CONFLICT,
    "data_dir_unusable": EXIT_INVALID,
    "journal_corrupt": EXIT_INVALID,
    "journal_foreign": EXIT_INVALID,
    "journal_incomplete": EXIT_INVALID,
    "journal_version_unknown": EXIT_INVALID,
    "snapshot_invalid": EXIT_INVALID,
    "snapshot_foreign": EXIT_INVALID,
    "snapshot_version_unknown": EXIT_INVALID,
}


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run and operate seamfill's coordinators: the nodes that own the leases on backfill work."""


@main.command()
@click.option("--node-id", metavar="ID", help="This node's name, for as long as its data lives.")
@click.option("--cluster-id", metavar="ID", help="The same on all nodes; guards against mixing.")
@click.option("--listen", metavar="HOST:PORT", help="HTTP API.  [default: 127.0.0.1:8080]")
@click.option(
    "--peer-listen",
    metavar="HOST:PORT",
    help="For the other nodes, over mutual TLS.  [default: 127.0.0.1:8081]",
)
@click.option(
    "--peer",
    metavar="ID=HOST:PORT",
    multiple=True,
    help="Another node's --peer-listen; repeat for each. Without any, this node is a cluster.",
)
@click.option("--data-dir", metavar="DIR", help="Where the log lives. One node, one directory.")
@click.option(
    "--certs",
    metavar="DIR",
    help="Holds ca.crt, ID.crt and ID.key, ID being --node-id; `coordinator certs init` makes them "
    "for development. Needed when there are peers that are not on loopback.",
)
@click.option(
    "--profile",
    metavar="dev|prod",
    help="prod refuses certificates that are made for development.  [default: dev]",
)
@click.option(
    "--advertise-url",
    metavar="URL",
    help="Where others reach this node's HTTP API, if not at --listen.",
)
@click.option("--metrics-listen", metavar="HOST:PORT", help="Serve /metrics there as well.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option(
    "--snapshot-every",
    metavar="ENTRIES",
    help="Log entries between two snapshots; fewer restart faster.  [default: 20000]",
)
@click.option(
    "--journal-segment-bytes",
    metavar="BYTES",
    help="Disk space that the journal reserves at once.  [default: 16777216]",
)
@click.option("--config", metavar="FILE", help="TOML file with the same names.")
def serve(**options: object) -> None:
    """Run one coordinator node.

    Each flag is also an environment variable, COORDINATOR_<FLAG>, and a name in the --config file;
    flags win over the environment, and that over the file. Prints one JSON line on stdout when it
    serves HTTP. SIGTERM drains; a second one stops at once.
    """
    _end_with(_serve({name.replace("_", "-"): value for name, value in options.items()}))


async def _serve(flags: dict[str, object]) -> None:
    config = load_config(flags, os.environ)
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    configure_logging(level=level, node=config.node_id)
    # Imported here: `coordinator status` should not load a server and a consensus library.
    with loading(PROGRAM):
        from seamfill_coordinator.app import run_node

    await run_node(config, on_ready=_print_ready)


@main.command()
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The same directory is the same cluster, also on other ports.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help="HTTP port of the first node; the next has the next. Without it, free ones.",
)
@click.option(
    "--respawn",
    "respawn_s",
    type=click.FloatRange(0),
    is_flag=False,
    flag_value=1.0,
    metavar="[SECONDS]",
    help="Start a node that died again after so long (1 s if not said); else it stays dead.",
)
def dev(*, nodes: int, data_dir: Path, port: int | None, respawn_s: float | None) -> None:
    """Run a cluster on this machine: real node processes that end with this one.

    Prints one JSON line on stdout when all nodes serve HTTP, with each node's url, pid and the line
    that starts it by hand.
    """
    with loading(PROGRAM):
        from seamfill_coordinator.dev import DevPlan, run_dev

    configure_logging(node="dev")
    if port is not None and port + nodes - 1 > 65_535:
        raise click.BadParameter(f"{nodes} nodes do not fit above {port}", param_hint="--port")
    plan = DevPlan(nodes=nodes, data_dir=data_dir, port=port, respawn_s=respawn_s)
    _end_with(run_dev(plan, on_ready=_print_ready))


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"seamfill {installed_version('seamfill')}")


console.attach(main)
main.add_command(certs)
main.add_command(journal)
main.add_command(replay)
for offline in (inspect, restore):
    console.snapshot.add_command(offline)


def _print_ready(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document))
    sys.stdout.flush()


def _end_with(server: Coroutine[Any, Any, None]) -> None:
    """Run a server to its end; say in one line why it could not."""
    error: SeamfillError | None = None
    try:
        asyncio.run(server)
    except* SeamfillError as group:
        error = _first(group)
    if error is None:
        return
    hint = f"--{error.field}" if isinstance(error, InvalidInput) else "error"
    text = error.message.removeprefix(f"{getattr(error, 'field', '')}: ")
    click.echo(f"coordinator: {hint}: {text}", err=True)
    raise SystemExit(_EXIT_CODES.get(error.code, EXIT_FAILURE))


def _first(group: BaseExceptionGroup[SeamfillError]) -> SeamfillError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
