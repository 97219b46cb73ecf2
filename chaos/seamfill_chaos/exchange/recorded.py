"""Recorded bars: the only file that reads them from a folder.

A folder holds `SYMBOL.parquet` (columns `ts` in milliseconds, `open high low close volume`) and
optionally `exchangeInfo.json`, a recorded answer of the real exchange.
A file that breaks an invariant of the exchange's bars is refused by name rather than repaired.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seamfill.bars import Bars
from seamfill.errors import SeamfillError
from seamfill_chaos.exchange.bars import MINUTE_MS, find_fault

SYMBOL_PATTERN = re.compile(r"[A-Z0-9]{2,20}")
COLUMNS = ("ts", "open", "high", "low", "close", "volume")


class RecordingUnusable(SeamfillError):
    """The folder of recorded bars can not be served; the message names the file and the fault."""

    code = "recording_unusable"


def load_bars(folder: Path) -> dict[str, Bars]:
    """Return every symbol's bars in the folder. Raises RecordingUnusable."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise RecordingUnusable(f"{folder}: holds no SYMBOL.parquet")
    return {_symbol_of(file): _read_bars(file) for file in files}


def load_exchange_info(folder: Path) -> dict[str, Any] | None:
    """Return the recorded `exchangeInfo.json`, or None where there is none.

    Raises RecordingUnusable when it is there and is not one.
    """
    file = folder / "exchangeInfo.json"
    if not file.exists():
        return None
    try:
        info = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise RecordingUnusable(f"{file}: {error}") from error
    if not isinstance(info.get("symbols"), list):
        raise RecordingUnusable(f"{file}: has no list `symbols`")
    return info


def _symbol_of(file: Path) -> str:
    if not SYMBOL_PATTERN.fullmatch(file.stem):
        raise RecordingUnusable(f"{file}: {file.stem!r} is not a symbol like BTCUSDT")
    return file.stem


def _read_bars(file: Path) -> Bars:
    try:
        table = pq.read_table(file, columns=list(COLUMNS))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RecordingUnusable(f"{file}: {error}") from error
    absent = [name for name in COLUMNS if name not in table.column_names]
    if absent:
        raise RecordingUnusable(f"{file}: has no column {absent[0]!r}")
    if not pa.types.is_int64(table.schema.field("ts").type):
        raise RecordingUnusable(f"{file}: column 'ts' must be int64 milliseconds")
    try:
        prices = {
            name: table[name].to_numpy().astype(np.float64, casting="safe") for name in COLUMNS[1:]
        }
    except TypeError as error:
        raise RecordingUnusable(f"{file}: {error}") from error
    ts_ms = table["ts"].to_numpy().astype(np.int64, casting="unsafe")
    bars = Bars(ts_ms=ts_ms, **prices)
    fault = find_fault(bars, MINUTE_MS)
    if fault is not None:
        raise RecordingUnusable(f"{file}: {fault}")
    return bars
