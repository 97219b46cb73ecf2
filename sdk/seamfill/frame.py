"""Bars as the pandas frame that strategies get.

Owns the frame's exact shape, the same on pandas 2.2 and 3: index ``ts`` (the bar's open),
``datetime64[ns, UTC]``, float64 ``open high low close volume``, unique and ascending. Missing bars
are absent rows. Must not fetch, fill or repair anything.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from seamfill.bars import VALUE_COLUMNS, Bars

__all__ = ["bars_to_frame", "frame_to_bars"]


def bars_to_frame(bars: Bars) -> pd.DataFrame:
    """Return the bars as a frame; the columns share the arrays' memory where pandas allows it."""
    # pandas 3 would keep ms resolution and pandas 2.2 makes ns: say it, so that joins do not
    # silently change resolution between versions.
    index = pd.DatetimeIndex(bars.ts_ms.astype("datetime64[ms]").astype("datetime64[ns]"))
    return pd.DataFrame(
        {name: getattr(bars, name) for name in VALUE_COLUMNS},
        index=index.tz_localize("UTC").rename("ts"),
    )


def frame_to_bars(frame: pd.DataFrame) -> Bars:
    """Return the columns of a frame that ``bars_to_frame`` made."""
    index = frame.index
    assert isinstance(index, pd.DatetimeIndex)
    ts_ms = index.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    columns = {name: frame[name].to_numpy(dtype=np.float64) for name in VALUE_COLUMNS}
    return Bars(ts_ms=ts_ms, **columns)
