"""How rows are laid out for QuestDB and picked from its answers, without a server."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamfill.bars import Bars
from seamfill.connectors import GenRange
from seamfill.sources.questdb import group_ranges, rows_wanted
from seamfill.sources.questdb_address import is_plain_symbol
from seamfill.testing.store_contract import make_window
from seamfill_worker.stores.questdb_sender import rows_in_time_order

DAY_MS = 86_400_000


def test_a_flush_is_ordered_by_time_across_symbols() -> None:
    windows = [make_window(symbol, bars=50, seed=at) for at, symbol in enumerate("CAB")]
    frame = rows_in_time_order(windows)
    assert frame["ts"].is_monotonic_increasing
    assert len(frame) == 150
    for window in windows:
        rows = frame[frame["symbol"] == window.series.symbol]
        assert rows["close"].tolist() == window.bars.close.tolist()
        assert (rows["ts"].astype("int64") // 1000).tolist() == window.bars.ts_ms.tolist()


def test_of_equal_keys_the_highest_fence_comes_last_and_wins() -> None:
    windows = [make_window(bars=3, fence=fence, seed=fence) for fence in (9, 4, 7)]
    frame = rows_in_time_order(windows)
    last = frame.groupby("ts").last()
    assert last["open"].tolist() == windows[0].bars.open.tolist()


def test_windows_without_bars_are_nothing_to_send() -> None:
    assert len(rows_in_time_order([])) == 0
    assert len(rows_in_time_order([replace(make_window(), bars=Bars.empty())])) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=12
    )
)
def test_rows_are_picked_as_asking_for_each_would(steps: list[tuple[int, int, int]]) -> None:
    ranges, at = [], 0
    for hole, length, gen in steps:
        ranges.append(GenRange(start_ms=at + hole, end_ms=at + hole + length, gen=gen))
        at += hole + length
    rows = [(ts, gen) for ts in range(at + 3) for gen in range(3)]
    ts_ms = np.array([ts for ts, _ in rows], dtype=np.int64)
    gens = np.array([gen for _, gen in rows], dtype=np.int64)
    expected = [
        any(r.start_ms <= ts < r.end_ms and gen == r.gen for r in ranges) for ts, gen in rows
    ]
    assert rows_wanted(ts_ms, gens, ranges).tolist() == expected


def test_neighbouring_ranges_share_a_query_and_distant_ones_do_not() -> None:
    def at(day: int, days: int = 1, gen: int = 0) -> GenRange:
        return GenRange(start_ms=day * DAY_MS, end_ms=(day + days) * DAY_MS, gen=gen)

    assert group_ranges([]) == []
    near = [at(0), at(1, gen=1), at(3)]
    assert group_ranges(near) == [near]
    assert group_ranges([at(0), at(100), at(101)]) == [[at(0)], [at(100), at(101)]]
    long = [at(0, days=300), at(500)]
    assert group_ranges(long) == [long]


@pytest.mark.parametrize("symbol", ["BTC/USDT", "BTC/USDT:USDT", "BRK.B", "BTC-PERP", "X_1"])
def test_usual_symbols_may_stand_in_an_export(symbol: str) -> None:
    assert is_plain_symbol(symbol)


@pytest.mark.parametrize("symbol", ["", "a'b", "a b", "a\\b", "ü", "a\n", "a;b", "x" * 65, "a%"])
def test_whatever_could_end_a_quotation_may_not(symbol: str) -> None:
    assert not is_plain_symbol(symbol)
