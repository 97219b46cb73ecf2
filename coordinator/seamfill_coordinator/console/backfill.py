"""``coordinator backfill``: have ranges filled, and follow it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from seamfill.client import FINAL_STATES, CoordinatorClient
from seamfill.clock import SystemClock
from seamfill.config import SeamlessConfig
from seamfill.errors import InvalidInput
from seamfill.presets import load_presets, load_venues
from seamfill.protocol.backfills import BackfillPlan, BackfillRequest, BackfillView, Wanted
from seamfill.protocol.values import DatasetSpec, Redo, SeriesId
from seamfill.terminal import FILE, TIME, Exit, Output, emit, output_option, say
from seamfill.times import ceil_to_grid, floor_to_grid, format_ms
from seamfill.waiting import BudgetSpent, run_within
from seamfill_coordinator.console.connecting import (
    Endpoints,
    call,
    confirm,
    emit_rows,
    endpoint_options,
    print_table,
)
from seamfill_coordinator.console.status import backfill_line, unfilled_lines

__all__ = ["backfill"]

F = TypeVar("F", bound=Callable[..., Any])

redo_type = click.Choice([each.value for each in Redo])


@click.group()
def backfill() -> None:
    """Have ranges of market data filled: create, plan, follow, stop, try again."""


def _range_options(command: F) -> F:
    for option in reversed(
        (
            click.option("--dataset", required=True, help="A preset, like ohlcv.binance.spot.1m."),
            click.option(
                "--symbol",
                "symbols",
                required=True,
                multiple=True,
                help="As its source spells it, like BTC/USDT; repeat for more.",
            ),
            click.option("--start", type=TIME, required=True, metavar="TIME", help="First bar."),
            click.option(
                "--end", type=TIME, required=True, metavar="TIME", help="End, not included."
            ),
            click.option(
                "--window-bars",
                type=click.IntRange(1, 100_000),
                help="Bars that one lease covers.  [default: the preset's]",
            ),
            click.option(
                "--priority",
                type=click.IntRange(-1000, 1000),
                default=0,
                show_default=True,
                help="Larger goes first.",
            ),
            click.option(
                "--deadline",
                type=TIME,
                metavar="TIME",
                help="Among equal priorities the earlier deadline goes first.",
            ),
            click.option(
                "--store",
                metavar="SPEC",
                help="parquet:DIR or questdb:TABLE instead of the preset's storage. A dataset"
                " keeps the store of its first backfill.",
            ),
            click.option("--id", "backfill_id", help="Repeating a create with it is harmless."),
            click.option(
                "--redo",
                type=redo_type,
                help="missing: look again for bars proved absent. failed: try violated bars again."
                " restated: fetch verified bars again, because the source changed them.",
            ),
            click.option(
                "--presets",
                "presets_file",
                type=FILE,
                envvar="SEAMFILL_PRESETS_FILE",
                show_envvar=True,
                help="Use this presets file instead of the packaged one.",
            ),
            endpoint_options,
            output_option(),
        )
    ):
        command = option(command)
    return command


@backfill.command()
@_range_options
@click.option("--dry-run", is_flag=True, help="Only tell what it would amount to.")
def create(*, dry_run: bool, endpoints: Endpoints, output: Output, **options: Any) -> None:
    """Ask for the bars of [start, end) of one or several symbols.

    Bars that are verified already are not fetched again; work that others asked for is shared.
    A time inside a bar means that whole bar.
    Prints the backfill's id on stdout as soon as it is accepted and does not wait for it.

    \b
    Example:
      coordinator backfill create --dataset ohlcv.binance.spot.1m --symbol BTC/USDT \\
        --start 2021-04-20T20:40:00Z --end 2021-05-20T20:40:00Z
    """
    _create(endpoints, output, dry_run=dry_run, **options)


@backfill.command()
@_range_options
def plan(*, endpoints: Endpoints, output: Output, **options: Any) -> None:
    """Tell what a create with the same options would amount to, and change nothing."""
    _create(endpoints, output, dry_run=True, **options)


def _create(endpoints: Endpoints, output: Output, **options: Any) -> None:
    async def submit(client: CoordinatorClient) -> BackfillPlan:
        return await client.submit(await _request(client, **options))

    answer = call(endpoints, submit)
    _show_plan(answer, output)
    if answer.already_violated and options["redo"] is None:
        say("violated bars stay as they are; try them again with --redo failed")


async def _request(
    client: CoordinatorClient,
    *,
    dataset: str,
    symbols: tuple[str, ...],
    start: int,
    end: int,
    window_bars: int | None,
    priority: int,
    deadline: int | None,
    store: str | None,
    backfill_id: str | None,
    redo: str | None,
    presets_file: Path | None,
    dry_run: bool,
) -> BackfillRequest:
    if end <= start:
        raise InvalidInput("--end", f"{format_ms(end)} is not after --start {format_ms(start)}")
    preset = load_presets(presets_file).preset(dataset)
    for symbol in symbols:
        preset.check_symbol(symbol)
    spec = preset.dataset_spec(load_venues(SeamlessConfig.from_env().venues_file), store=store)
    if store is None:
        spec = await _with_registered_store(client, dataset, symbols[0], spec)
    start_ms = floor_to_grid(start, spec.interval_ms)
    end_ms = ceil_to_grid(end, spec.interval_ms)
    return BackfillRequest(
        dataset=dataset,
        spec=spec,
        wanted=tuple(Wanted(symbol=symbol, start_ms=start_ms, end_ms=end_ms) for symbol in symbols),
        id=backfill_id,
        window_bars=window_bars or preset.backfill.window_bars,
        priority=priority,
        deadline_ms=deadline,
        redo=Redo(redo) if redo else None,
        dry_run=dry_run,
    )


async def _with_registered_store(
    client: CoordinatorClient, dataset: str, symbol: str, spec: DatasetSpec
) -> DatasetSpec:
    """Keep to the store of the dataset's first backfill when no other one is insisted on."""
    known = await client.coverage(SeriesId(dataset=dataset, symbol=symbol), in_flight=False)
    if known.spec is None:
        return spec
    return msgspec.structs.replace(spec, store=known.spec.store)


def _show_plan(answer: BackfillPlan, output: Output) -> None:
    if output is not Output.TABLE:
        emit(answer, output)
        return
    if answer.dry_run:
        click.echo("planned, nothing was changed")
    else:
        click.echo(f"{answer.id}  accepted{', as before' if answer.repeated else ''}")
    click.echo(f"  {format_ms(answer.start_ms)} – {format_ms(answer.end_ms)}")
    if answer.end_ms < answer.requested_end_ms:
        click.echo(f"  cut to what has closed; {format_ms(answer.requested_end_ms)} was asked for")
    click.echo(f"  {answer.bars:,} bars, {answer.windows:,} windows to fill")
    click.echo(
        f"  already {answer.already_covered:,} verified, {answer.already_gap:,} proved absent,"
        f" {answer.already_violated:,} violated"
    )
    if not answer.dry_run:
        say(f"follow it: coordinator backfill watch {answer.id}")


@backfill.command("list")
@click.option("--active", is_flag=True, help="Only those that are not finished.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@endpoint_options
@output_option()
def list_backfills(*, active: bool, limit: int, endpoints: Endpoints, output: Output) -> None:
    """List backfills with their progress."""
    answer = call(endpoints, lambda client: client.backfills(active_only=active, limit=limit))
    if output is not Output.TABLE:
        emit_rows(answer.backfills, answer, output)
        return
    print_table(
        ("ID", "STATE", "DONE", "VERIFIED", "ABSENT", "VIOLATED", "WANTED", "DATASET", "SYMBOLS"),
        [_row(each) for each in answer.backfills],
        none="There are no backfills.",
    )
    if answer.total > len(answer.backfills):
        say(f"{answer.total - len(answer.backfills)} more; see --limit")


def _row(view: BackfillView) -> tuple[object, ...]:
    # One symbol: with more of them the usual row does not fit into a hundred columns.
    more = f" +{len(view.symbols) - 1}" if len(view.symbols) > 1 else ""
    return (
        view.id,
        view.state,
        f"{view.ratio:.2%}",
        f"{view.bars_verified:,}",
        f"{view.bars_gap:,}",
        f"{view.bars_violated:,}",
        f"{view.bars_wanted:,}",
        view.dataset,
        " ".join(view.symbols[:1]) + more,
    )


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@endpoint_options
@output_option()
def show(*, backfill_id: str, endpoints: Endpoints, output: Output) -> None:
    """Show one backfill: progress, what is left, and what keeps it from being done."""
    view = call(endpoints, lambda client: client.backfill(backfill_id))
    _show_view(view, output)


def _show_view(view: BackfillView, output: Output) -> None:
    if output is not Output.TABLE:
        emit(view, output)
        return
    click.echo(backfill_line(view))
    click.echo(f"  {view.dataset}  {' '.join(view.symbols)}")
    click.echo(f"  {format_ms(view.start_ms)} – {format_ms(view.end_ms)}")
    for line in unfilled_lines(view):
        click.echo(f"  {line}")
    has_given_up = any(each.state == "violated" for each in view.unfilled)
    if view.windows_violated and not has_given_up:
        click.echo("  what was violated here has been filled since")
    elif view.windows_violated:
        click.echo(
            f"  {view.windows_violated:,} windows have violated bars;"
            f" try them again: coordinator backfill retry {view.id}"
        )


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0), metavar="S", help="Wait at most so long."
)
@endpoint_options
@output_option()
def watch(
    *, backfill_id: str, timeout_s: float | None, endpoints: Endpoints, output: Output
) -> None:
    """Follow a backfill until it ends; survives the loss of nodes.

    Exit codes: 0 complete, 6 timed out (the backfill goes on), 7 ended incomplete or cancelled.
    """
    follow = _FollowOnTerminal() if output is Output.TABLE else _FollowInJson(output)

    async def watching(client: CoordinatorClient) -> None:
        async for view in client.watch(backfill_id):
            follow.show(view)
            if view.state in FINAL_STATES:
                return

    async def bounded(client: CoordinatorClient) -> bool:
        if timeout_s is None:
            await watching(client)
            return True
        try:
            await run_within(SystemClock(), int(timeout_s * 1000), watching(client))
        except BudgetSpent:
            return False
        return True

    try:
        ended = call(endpoints, bounded)
    finally:
        follow.close()
    if not ended:
        say(f"{backfill_id} did not end within {timeout_s} s; it goes on")
        raise SystemExit(Exit.TIMED_OUT)
    if follow.last is None or follow.last.state != "complete":
        raise SystemExit(Exit.INCOMPLETE)


class _FollowInJson:
    """One line per change, or only the last view as one document."""

    def __init__(self, output: Output) -> None:
        self.last: BackfillView | None = None
        self._output = output

    def show(self, view: BackfillView) -> None:
        self.last = view
        if self._output is Output.JSONL:
            emit(view, self._output)

    def close(self) -> None:
        if self._output is Output.JSON and self.last is not None:
            emit(self.last, self._output)


class _FollowOnTerminal:
    """A progress bar on a terminal, one line per change elsewhere; the end is printed in full."""

    def __init__(self) -> None:
        self.last: BackfillView | None = None
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TextColumn("bars"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()

    def show(self, view: BackfillView) -> None:
        self.last = view
        done = view.bars_verified + view.bars_gap + view.bars_violated
        if self._progress is None:
            say(backfill_line(view))
            return
        if not self._progress.tasks:
            self._progress.add_task(view.id, total=view.bars_wanted)
        task_id = self._progress.tasks[0].id
        self._progress.update(task_id, completed=done, total=view.bars_wanted)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self.last is not None:
            _show_view(self.last, Output.TABLE)


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@endpoint_options
@output_option()
def cancel(*, backfill_id: str, yes: bool, endpoints: Endpoints, output: Output) -> None:
    """Stop a backfill for good. What is verified stays; what others want as well goes on."""
    confirm(f"Cancel backfill {backfill_id}?", yes=yes)
    _show_view(call(endpoints, lambda client: client.cancel(backfill_id)), output)


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@endpoint_options
@output_option()
def pause(*, backfill_id: str, endpoints: Endpoints, output: Output) -> None:
    """Grant nothing more for a backfill until it is resumed; leases under way finish."""
    _show_view(call(endpoints, lambda client: client.pause(backfill_id)), output)


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@endpoint_options
@output_option()
def resume(*, backfill_id: str, endpoints: Endpoints, output: Output) -> None:
    """Go on with a paused backfill."""
    _show_view(call(endpoints, lambda client: client.resume(backfill_id)), output)


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@click.option("--redo", type=redo_type, default=Redo.FAILED.value, show_default=True)
@endpoint_options
@output_option()
def retry(*, backfill_id: str, redo: str, endpoints: Endpoints, output: Output) -> None:
    """Try again what a finished backfill could not fill, as a new backfill."""
    _show_plan(call(endpoints, lambda client: client.retry(backfill_id, Redo(redo))), output)
