"""The frame that strategies get, and the file that the command line writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from contract.sdk_rig import MINUTE_MS, T0, make_bars
from seamfill.bars import Bars, content_digest
from seamfill.errors import InvalidInput
from seamfill.frame import bars_to_frame, frame_to_bars
from seamfill.frame_file import write_frame


@pytest.mark.parametrize("minutes", [0, 1, 60])
def test_the_frame_has_the_same_shape_on_every_pandas(minutes: int) -> None:
    frame = bars_to_frame(make_bars(T0, T0 + minutes * MINUTE_MS))
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert (frame.index.name, str(frame.index.dtype)) == ("ts", "datetime64[ns, UTC]")
    assert list(frame.columns) == ["open", "high", "low", "close", "volume"]
    assert set(frame.dtypes) == {np.dtype("float64")}
    assert len(frame) == minutes


def test_bars_survive_the_way_through_a_frame() -> None:
    bars = make_bars(T0, T0 + 60 * MINUTE_MS)
    assert content_digest(frame_to_bars(bars_to_frame(bars))) == content_digest(bars)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    for minutes in (60, 5):
        write_frame(bars_to_frame(make_bars(T0, T0 + minutes * MINUTE_MS)), path)
        assert pq.read_table(path)["ts"].to_pylist()[-1] == T0 + (minutes - 1) * MINUTE_MS
    assert [each.name for each in tmp_path.iterdir()] == ["out.parquet"]


def test_a_file_that_can_not_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    path.mkdir()
    with pytest.raises(InvalidInput) as caught:
        write_frame(bars_to_frame(Bars.empty()), path)
    assert caught.value.field == "--output"
    assert [each.name for each in tmp_path.iterdir()] == ["out.parquet"]
