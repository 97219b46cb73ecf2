"""``seamfill-worker``: the command line of a worker process.

Owns flags, environment names, exit codes and how logs are rendered. Exit codes: 0 drained, 2 wrong
usage or configuration, 4 replaced by another process of the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import sys
from pathlib import Path

import click

from seamfill.errors import InvalidInput, SeamfillError
from seamfill.logs import configure_logging
from seamfill.terminal import Program
from seamfill_worker.app import run_worker
from seamfill_worker.config import (
    TTL_MS_MAX,
    TTL_MS_MIN,
    WorkerConfig,
    default_worker_id,
    parse_ccxt_urls,
    parse_host_port,
    parse_urls,
)
from seamfill_worker.held import WorkerReplaced

__all__ = ["main"]

EXIT_USAGE = 2
EXIT_REPLACED = 4


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="seamfill", prog_name="seamfill-worker")
def main() -> None:
    """Fill windows of market data: claim leases, fetch, write, read back, complete."""


@main.command()
@click.option(
    "--coordinator",
    "coordinators",
    multiple=True,
    metavar="URL",
    envvar="WORKER_COORDINATOR",
    help="Base URL of a coordinator node; repeat for each one (environment: with commas).",
)
@click.option(
    "--worker-id",
    metavar="ID",
    envvar="WORKER_WORKER_ID",
    help="A name that outlives restarts. Two processes must not share one: the older one ends. "
    "Default: made up from host and process.",
)
@click.option(
    "--store",
    metavar="SPEC",
    envvar="WORKER_STORE",
    help="Take only work for this store: questdb:TABLE or parquet:DIR. Default: every store this "
    "process can open (QuestDB if QUESTDB_DSN is set; Parquet always).",
)
@click.option(
    "--ccxt-url",
    "ccxt_urls",
    multiple=True,
    metavar="EXCHANGE=URL",
    envvar="WORKER_CCXT_URL",
    help="Ask an exchange at another address, such as binance=http://127.0.0.1:9000.",
)
@click.option(
    "--presets",
    "presets_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar=["WORKER_PRESETS", "SEAMFILL_PRESETS_FILE"],
    help="Presets to use instead of the packaged ones.",
)
@click.option(
    "--venues",
    "venues_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar="WORKER_VENUES",
    help="Capabilities of venues (page size, weights, settling), instead of the packaged ones.",
)
@click.option(
    "--metrics-listen",
    metavar="HOST:PORT",
    envvar="WORKER_METRICS_LISTEN",
    help="Serve Prometheus metrics there; port 0 takes a free one, named in the ready line.",
)
@click.option(
    "--max-leases",
    type=click.IntRange(1, 256),
    default=24,
    show_default=True,
    envvar="WORKER_MAX_LEASES",
    help="How many windows are held at once.",
)
@click.option(
    "--flush-windows",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    envvar="WORKER_FLUSH_WINDOWS",
    help="How many windows go into one flush at most.",
)
@click.option(
    "--ttl-ms",
    type=click.IntRange(TTL_MS_MIN, TTL_MS_MAX),
    default=30_000,
    show_default=True,
    envvar="WORKER_TTL_MS",
    help="Time to live of leases; they are renewed at a third of it.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="WORKER_LOG_LEVEL",
    help="The least important events to log.",
)
def run(  # one parameter per flag
    coordinators: tuple[str, ...],
    worker_id: str | None,
    store: str | None,
    ccxt_urls: tuple[str, ...],
    presets_file: Path | None,
    venues_file: Path | None,
    metrics_listen: str | None,
    max_leases: int,
    flush_windows: int,
    ttl_ms: int,
    log_level: str,
) -> None:
    """Run one worker process until SIGTERM.

    Prints one JSON line when it is ready; logs go to stderr. SIGTERM drains: what is being fetched
    is handed back, what was fetched is finished. A second one stops at once.
    """
    configure_logging(level=logging.getLevelNamesMapping()[log_level.upper()])
    try:
        config = WorkerConfig(
            coordinators=parse_urls(coordinators),
            worker_id=worker_id or default_worker_id(),
            boot=secrets.token_hex(8),
            store=store,
            ccxt_urls=parse_ccxt_urls(ccxt_urls),
            presets_file=presets_file,
            venues_file=venues_file,
            metrics_listen=(metrics_listen and parse_host_port("metrics-listen", metrics_listen))
            or None,
            leases_max=max_leases,
            flush_windows=flush_windows,
            ttl_ms=ttl_ms,
            environment=dict(os.environ),
        )
        _run(config)
    except InvalidInput as error:
        _exit(error, EXIT_USAGE)


def _run(config: WorkerConfig) -> None:
    def ready(metrics_port: int | None) -> None:
        line: dict[str, object] = {
            "event": "ready",
            "worker_id": config.worker_id,
            "pid": os.getpid(),
        }
        if metrics_port is not None:
            line["metrics_port"] = metrics_port
        print(json.dumps(line), flush=True)

    replaced: SeamfillError | None = None
    try:
        asyncio.run(run_worker(config, ready))
    except* WorkerReplaced as group:
        # Not ended here: whatever leaves an except* clause becomes a group again.
        replaced = _first(group)
    if replaced is not None:
        _exit(replaced, EXIT_REPLACED)


def _first(group: BaseExceptionGroup[WorkerReplaced]) -> SeamfillError:
    error = group.exceptions[0]
    return error if isinstance(error, SeamfillError) else _first(error)


def _exit(error: SeamfillError, code: int) -> None:
    click.echo(f"seamfill-worker: {error.message}", err=True)
    sys.exit(code)
