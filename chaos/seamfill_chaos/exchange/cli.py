"""The command `seamfill-chaos exchange`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from seamfill_chaos.exchange.app import DEFAULT_HISTORY, ExchangeConfig, run
from seamfill_chaos.exchange.generated import History
from seamfill_chaos.exchange.market import SETTLE_MS
from seamfill_chaos.exchange.recorded import RecordingUnusable
from seamfill_chaos.exchange.server import DELAY_MS_MAX
from seamfill_chaos.exchange.weights import DEFAULT_WEIGHTS, WeightRules
from seamfill_chaos.faults import Lie
from seamfill_chaos.faults_file import LiesInvalid, parse_lies

EXIT_VALIDATION = 8
"""Exit code of a file whose content is wrong; 2 stays for wrong command lines."""


class TimeParam(click.ParamType[Any]):
    """Take ISO 8601 with a zone, or epoch milliseconds; give milliseconds UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the time in milliseconds, or fail with a message that shows the format."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit():
            return int(value)
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return round(moment.timestamp() * 1_000)
        return self.fail(f"{value!r} is neither like 2024-01-01T00:00:00Z nor epoch milliseconds")


class ListenParam(click.ParamType[Any]):
    """Take HOST:PORT; port 0 asks for a free one."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return host and port."""
        if isinstance(value, tuple):
            return value
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65_535:
            self.fail(f"{value!r} is not like 127.0.0.1:8090")
        return host.strip("[]"), int(port)


@click.command("exchange")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with SYMBOL.parquet files (ts, open, high, low, close, volume) and optionally "
    "exchangeInfo.json. Without it, bars are generated.",
)
@click.option(
    "--listen",
    type=ListenParam(),
    default=("127.0.0.1", 0),
    show_default="127.0.0.1:0",
    help="Where to serve; port 0 takes a free one.",
)
@click.option(
    "--now",
    "now_ms",
    type=TimeParam(),
    help="The exchange's clock, which runs on from there. Default: settle + one interval after "
    "the latest bar of all symbols.",
)
@click.option("--lies", "lies_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="TOML file of [[lie]] tables; see docs/reference/lies.md.")  # fmt: skip
@click.option("--delay-ms", type=click.IntRange(0, DELAY_MS_MAX), default=0, show_default=True,
              help="Answer each klines request so much later.")  # fmt: skip
@click.option("--weight-limit", type=click.IntRange(1), default=DEFAULT_WEIGHTS.limit,
              show_default=True, help="Request weight per minute and address.")  # fmt: skip
@click.option("--settle-ms", type=click.IntRange(0), default=SETTLE_MS, show_default=True,
              help="For so long after its close, a bar may still change.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=DEFAULT_HISTORY.seed, show_default=True,
              help="Generated bars: the same seed gives the same bars.")  # fmt: skip
@click.option("--symbols", default=",".join(DEFAULT_HISTORY.symbols), show_default=True,
              help="Generated bars: symbols, separated by commas.")  # fmt: skip
@click.option("--start", "start_ms", type=TimeParam(), default=DEFAULT_HISTORY.start_ms,
              show_default="2024-01-01T00:00:00Z", help="Generated: the first minute.")  # fmt: skip
@click.option("--bars", "minutes", type=click.IntRange(1, 5_000_000),
              default=DEFAULT_HISTORY.minutes, show_default=True,
              help="Generated bars: minutes of history, outages included.")  # fmt: skip
@click.option("--outages", type=click.IntRange(0, 1_000), default=DEFAULT_HISTORY.outages,
              show_default=True, help="Generated bars: outages of the venue.")  # fmt: skip
@click.option("--warm", is_flag=True, help="Encode all bars before the ready line.")
def exchange(
    *,
    data: Path | None,
    listen: tuple[str, int],
    now_ms: int | None,
    lies_file: Path | None,
    delay_ms: int,
    weight_limit: int,
    settle_ms: int,
    seed: int,
    symbols: str,
    start_ms: int,
    minutes: int,
    outages: int,
    warm: bool,
) -> None:
    """Serve Binance's spot REST surface from recorded or generated bars, and lie on request.

    Prints one JSON line on stdout when ready: {"event":"ready","url":…,"pid":…}.
    Under /__control/ the exchange tells what it was asked, and its clock, lies and bars change.
    """
    try:
        history = History(
            seed=seed,
            symbols=tuple(symbol.strip() for symbol in symbols.split(",")),
            start_ms=start_ms,
            minutes=minutes,
            outages=outages,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    config = ExchangeConfig(
        data=data,
        history=history,
        host=listen[0],
        port=listen[1],
        now_ms=now_ms,
        settle_ms=settle_ms,
        lies=_read_lies(lies_file),
        delay_ms=delay_ms,
        weights=WeightRules(limit=weight_limit),
        warm=warm,
    )
    try:
        asyncio.run(run(config, _say_ready))
    except (RecordingUnusable, ValueError) as error:
        _fail(str(error), EXIT_VALIDATION)
    except OSError as error:
        _fail(f"can not listen on {listen[0]}:{listen[1]}: {error}", 1)
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit(130)


def _read_lies(file: Path | None) -> tuple[Lie, ...]:
    if file is None:
        return ()
    try:
        return parse_lies(file.read_text())
    except (LiesInvalid, UnicodeDecodeError) as error:
        _fail(f"{file}: {error}", EXIT_VALIDATION)


def _say_ready(url: str) -> None:
    print(json.dumps({"event": "ready", "url": url, "pid": os.getpid()}), flush=True)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"seamfill-chaos exchange: {message}", err=True)
    sys.exit(code)
