"""``coordinator coverage``: what is verified, what is absent and why."""

from __future__ import annotations

import click

from seamfill.coverage_report import coverage_document, coverage_lines
from seamfill.protocol.values import SeriesId
from seamfill.terminal import TIME, Output, emit, output_option
from seamfill_coordinator.console.connecting import Endpoints, call, endpoint_options

__all__ = ["coverage"]


@click.group()
def coverage() -> None:
    """Look at what is known of a series, bar by bar."""


@coverage.command()
@click.option("--dataset", required=True, help="Like ohlcv.binance.spot.1m.")
@click.option("--symbol", required=True, help="Like BTC/USDT.")
@click.option("--start", type=TIME, metavar="TIME", help="Only from here on.")
@click.option("--end", type=TIME, metavar="TIME", help="Only up to here, not included.")
@click.option("--as-of", metavar="REV|TIME", help="As it was at a revision or a time.")
@endpoint_options
@output_option()
def show(
    *,
    dataset: str,
    symbol: str,
    start: int | None,
    end: int | None,
    as_of: str | None,
    endpoints: Endpoints,
    output: Output,
) -> None:
    """Show verified ranges with their generation, gaps with reason and receipt, and what is due."""
    series = SeriesId(dataset=dataset, symbol=symbol)
    answer = call(endpoints, lambda client: client.coverage(series, start, end, as_of=as_of))
    if output is Output.TABLE:
        for line in coverage_lines(answer):
            click.echo(line)
    else:
        emit(coverage_document(answer), output)
