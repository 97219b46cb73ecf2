"""Writes a fetched frame to a Parquet file, all of it or nothing.

Owns the file's columns (``ts`` int64 ms, then the values, sorted by ``ts``) and the way it comes
into being: written beside the target, made durable, then renamed over it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from seamfill.bars import VALUE_COLUMNS
from seamfill.errors import InvalidInput
from seamfill.frame import frame_to_bars

__all__ = ["write_frame"]


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Replace ``path`` by the frame. Raises ``InvalidInput`` naming ``--output`` when it can not.

    A reader sees the old file or the new one, never half of one, also when this process is killed.
    """
    bars = frame_to_bars(frame)
    table = pa.table(
        {
            "ts": pa.array(bars.ts_ms, type=pa.int64()),
            **{name: pa.array(getattr(bars, name)) for name in VALUE_COLUMNS},
        }
    )
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise InvalidInput("--output", f"can not write {path}: {exc.strerror or exc}") from exc
