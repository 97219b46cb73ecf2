"""The command ``seamfill``: fetch bars, look at coverage, check presets.

Owns the command line of the library. A composition root: it builds configuration and provider.
Must not hold any logic of theirs.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import click
import msgspec

from seamfill import __version__
from seamfill.client import CoordinatorClient
from seamfill.config import SeamlessConfig
from seamfill.coverage_report import coverage_document, coverage_lines
from seamfill.errors import InvalidInput
from seamfill.logs import configure_logging
from seamfill.presets import Preset, load_presets, load_venues
from seamfill.protocol.values import SeriesId
from seamfill.terminal import (
    FILE,
    TIME,
    Exit,
    Output,
    Program,
    emit,
    execute,
    exit_code,
    output_option,
    plain_table,
    say,
)

__all__ = ["main"]

PROGRAM = "seamfill"
STRATEGIES = ("seamless", "auto_backfill", "partial_fill", "fail_fast")

coordinator_option = click.option(
    "--coordinator",
    "coordinators",
    multiple=True,
    metavar="URL",
    help="A coordinator's URL; repeat for more of the same cluster."
    "  [env: SEAMFILL_COORDINATOR_URL, QMTL_SEAMLESS_COORDINATOR_URL]",
)
presets_option = click.option(
    "--presets",
    "presets_file",
    type=FILE,
    envvar="SEAMFILL_PRESETS_FILE",
    show_envvar=True,
    help="Use this presets file instead of the packaged one.",
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Market history without unexplained holes.

    Times are ISO 8601 with a zone (2021-04-20T20:40:00Z) or epoch milliseconds; ranges are
    half-open, [start, end). SEAMFILL_LOG_LEVEL=info shows what happens on the way, on stderr.
    """
    level = os.environ.get("SEAMFILL_LOG_LEVEL", "").upper()
    known = logging.getLevelNamesMapping().get(level)
    # Every error is told in one line anyway; without being asked, logs would only repeat it.
    configure_logging(level=known if known is not None else logging.CRITICAL + 1)


@main.command()
@click.argument("dataset")
@click.argument("symbol")
@click.option("--start", type=TIME, required=True, metavar="TIME", help="First bar wanted.")
@click.option("--end", type=TIME, required=True, metavar="TIME", help="End, not included.")
@coordinator_option
@click.option(
    "--store",
    metavar="SPEC",
    help="parquet:DIR or questdb:TABLE, where the preset's storage is not meant. A dataset keeps"
    " the store of its first backfill.",
)
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="seamless",
    show_default=True,
    help="seamless: fill and wait within the budget, then do as the SLA preset says."
    " auto_backfill: fill and wait, fail when it is not enough."
    " partial_fill: serve what is there, have the rest filled."
    " fail_fast: fail on any bar that is not there.",
)
@click.option(
    "--deadline-ms",
    type=click.IntRange(min=1),
    metavar="N",
    help="Total and backfill budget, instead of the SLA preset's.",
)
@click.option(
    "--as-of",
    metavar="REV|TIME",
    help="Values as they were at a coverage revision or a time.",
)
@click.option(
    "--output",
    type=FILE,
    required=True,
    metavar="FILE.parquet",
    help="Columns ts (int64 ms), open, high, low, close, volume; replaced whole.",
)
@presets_option
def fetch(
    *,
    dataset: str,
    symbol: str,
    start: int,
    end: int,
    coordinators: tuple[str, ...],
    store: str | None,
    strategy: str,
    deadline_ms: int | None,
    as_of: str | None,
    output: Path,
    presets_file: Path | None,
) -> None:
    """Write the bars of [start, end) to a Parquet file, having holes filled first.

    Bars that do not exist at the source are absent rows; each such gap is listed on stderr with its
    reason. A time inside a bar means that whole bar. Exit codes: 0 complete, 5 no coordinator,
    6 the budget ran out, 7 incomplete (with --strategy partial_fill what is there is written).

    \b
    Example:
      seamfill fetch ohlcv.binance.spot.1m BTC/USDT --start 2021-04-20T20:40:00Z \\
        --end 2021-04-21T00:00:00Z --coordinator http://127.0.0.1:8080 --output bars.parquet
    """
    # pandas and pyarrow take half a second to import; `seamfill presets` does not need them.
    from seamfill.frame_file import write_frame
    from seamfill.provider import SeamlessDataProvider
    from seamfill.read_plan import Strategy
    from seamfill.result import FetchResult, GapState

    async def run() -> FetchResult:
        config = _config(coordinators, presets_file)
        if store is not None:
            config = dataclasses.replace(config, store=store)
        async with SeamlessDataProvider(config) as provider:
            return await provider.fetch(
                SeriesId(dataset=dataset, symbol=symbol),
                start,
                end,
                strategy=Strategy(strategy),
                deadline=deadline_ms,
                as_of=as_of,
            )

    result = execute(run(), program=PROGRAM)
    try:
        write_frame(result.frame, output)
    except InvalidInput as exc:
        say(f"{PROGRAM}: {exc.message}")
        raise SystemExit(exit_code(exc)) from exc
    for gap in result.gaps:
        say(gap.describe())
    proved = sum(gap.state is GapState.PROVED for gap in result.gaps)
    verdict = "complete" if result.complete else "INCOMPLETE"
    say(
        f"{verdict}: {len(result.frame):,} bars in {output},"
        f" {proved} proved gap{'' if proved == 1 else 's'},"
        f" {len(result.gaps) - proved} unexplained"
    )
    if not result.complete:
        raise SystemExit(Exit.INCOMPLETE)


@main.command()
@click.argument("dataset")
@click.argument("symbol")
@click.option("--start", type=TIME, metavar="TIME", help="Only from here on.")
@click.option("--end", type=TIME, metavar="TIME", help="Only up to here, not included.")
@click.option("--as-of", metavar="REV|TIME", help="As it was at a revision or a time.")
@coordinator_option
@output_option()
def coverage(
    *,
    dataset: str,
    symbol: str,
    start: int | None,
    end: int | None,
    as_of: str | None,
    coordinators: tuple[str, ...],
    output: Output,
) -> None:
    """Show what is verified, what is proved absent and why, and what is being filled."""

    async def run() -> None:
        config = _config(coordinators, None)
        async with _client(config) as client:
            answer = await client.coverage(
                SeriesId(dataset=dataset, symbol=symbol), start, end, as_of=as_of
            )
        if output is Output.TABLE:
            for line in coverage_lines(answer):
                click.echo(line)
        else:
            emit(coverage_document(answer), output)

    execute(run(), program=PROGRAM)


@main.group(invoke_without_command=True)
@click.pass_context
def presets(ctx: click.Context) -> None:
    """List, show and check the presets that name datasets."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_presets, presets_file=None, output=Output.TABLE)


@presets.command("list")
@presets_option
@output_option()
def list_presets(*, presets_file: Path | None, output: Output) -> None:
    """List the datasets of a presets file."""

    async def run() -> None:
        found = load_presets(presets_file)
        if output is Output.TABLE:
            header = ("DATASET", "KIND", "INTERVAL_MS", "SOURCE", "STORAGE", "SLA")
            rows = (
                (p.id, p.kind, p.interval_ms, p.backfill.source, p.storage, p.sla_preset)
                for p in found.values()
            )
            click.echo(plain_table(header, rows))
        elif output is Output.JSONL:
            for preset in found.values():
                emit(_preset_document(preset), output)
        else:
            emit([_preset_document(preset) for preset in found.values()], output)

    execute(run(), program=PROGRAM)


@presets.command("show")
@click.argument("dataset")
@presets_option
@output_option()
def show_preset(*, dataset: str, presets_file: Path | None, output: Output) -> None:
    """Show one dataset's preset and the identity that its first backfill registers."""

    async def run() -> None:
        preset = load_presets(presets_file).preset(dataset)
        document = _preset_document(preset)
        spec = preset.dataset_spec(load_venues(SeamlessConfig.from_env().venues_file))
        document["spec"] = msgspec.to_builtins(spec)
        if output is Output.TABLE:
            for name, value in document.items():
                click.echo(f"{name:20} {value}")
        else:
            emit(document, output)

    execute(run(), program=PROGRAM)


@presets.command("check")
@click.argument("file", type=FILE)
@output_option(Output.TABLE, Output.JSON)
def check_presets(*, file: Path, output: Output) -> None:
    """Read a presets file as every component will, and say what is wrong with it, if anything."""

    async def run() -> None:
        found = load_presets(file)
        if output is Output.TABLE:
            click.echo(f"{file}: {len(found)} presets, all good")
        else:
            emit({"file": str(file), "presets": list(found)}, output)

    execute(run(), program=PROGRAM)


def _preset_document(preset: Preset) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(dataclasses.asdict(preset))
    return document


def _config(coordinators: tuple[str, ...], presets_file: Path | None) -> SeamlessConfig:
    """Take the environment, and what the command line says instead."""
    config = SeamlessConfig.from_env()
    if coordinators:
        config = dataclasses.replace(config, coordinator_urls=coordinators)
    if presets_file is not None:
        config = dataclasses.replace(config, presets_file=presets_file)
    return config


def _client(config: SeamlessConfig) -> CoordinatorClient:
    if not config.coordinator_urls:
        raise InvalidInput(
            "--coordinator", "no coordinator is named; give its URL or set SEAMFILL_COORDINATOR_URL"
        )
    return CoordinatorClient(
        config.coordinator_urls,
        token=config.token,
        ca_file=config.ca_file,
        timeout_s=config.request_timeout_s,
    )
