"""What the exchange makes of bars: generated, written as rows, half filled, restated, rolled up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamfill.bars import Bars, content_digest
from seamfill_chaos.exchange.bars import (
    Row,
    find_fault,
    partly_filled,
    restated,
    rolled_up,
    rows_of,
)
from seamfill_chaos.exchange.generated import History, generate, outage_ranges
from seamfill_chaos.exchange.pages import BLOCK_ROWS, Pages, encode_row

MINUTE = 60_000
HISTORY = History(
    seed=7, symbols=("BTCUSDT", "ETHUSDT"), start_ms=1_704_067_200_000, minutes=3_000, outages=2
)
VALUES = st.floats(min_value=0, max_value=1e12, allow_subnormal=False)


def test_a_seed_means_the_same_bars_for_ever() -> None:
    """Golden: when this changes, every recorded seed changes its meaning."""
    digests = {symbol: content_digest(bars) for symbol, bars in generate(HISTORY).items()}
    assert digests == {
        "BTCUSDT": "40d13f22945c93997ee35bb7c1491782",
        "ETHUSDT": "914124796f2e6040635cbf4ad81c36be",
    }


def test_symbols_do_not_depend_on_each_other_and_seeds_do_matter() -> None:
    alone = generate(replace(HISTORY, symbols=("ETHUSDT",)))["ETHUSDT"]
    other = generate(replace(HISTORY, seed=8))["ETHUSDT"]
    assert content_digest(alone) == content_digest(generate(HISTORY)["ETHUSDT"])
    assert content_digest(alone) != content_digest(other)


@given(
    seed=st.integers(0, 2**40),
    outages=st.integers(0, 5),
    spare=st.integers(1, 400),
)
def test_generated_bars_are_sound_and_outages_leave_bars_on_both_sides(
    seed: int, outages: int, spare: int
) -> None:
    history = replace(
        HISTORY, seed=seed, symbols=("ETHBTC",), outages=outages, minutes=80 * outages + spare
    )
    bars = generate(history)["ETHBTC"]
    assert find_fault(bars, MINUTE) is None
    assert (bars.low > 0).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    closed = outage_ranges(history)
    assert len(closed) == outages
    assert len(bars) == history.minutes - sum(end - start for start, end in closed) // MINUTE
    for start_ms, end_ms in closed:
        assert {start_ms - MINUTE, end_ms} <= set(bars.ts_ms.tolist())


def test_a_history_too_short_for_its_outages_is_refused() -> None:
    with pytest.raises(ValueError, match="2 outages need a history of at least 160 minutes"):
        replace(HISTORY, minutes=159)


@given(st.builds(Row, st.integers(0, 2**41), VALUES, VALUES, VALUES, VALUES, VALUES))
def test_the_text_of_a_value_parses_to_the_same_bits(row: Row) -> None:
    fields = json.loads(encode_row(row, MINUTE))
    assert fields[0] == row.ts_ms
    assert tuple(map(float, fields[1:6])) == row[1:]
    assert not any("e" in text for text in fields[1:6])


def test_pages_join_rows_across_blocks() -> None:
    bars = generate(HISTORY)["ETHUSDT"]
    pages = Pages(bars, MINUTE)
    first, stop = BLOCK_ROWS - 2, 2 * BLOCK_ROWS + 3
    encoded = [json.loads(row) for row in pages.rows(first, stop)]
    assert [row[0] for row in encoded] == bars.ts_ms[first:stop].tolist()
    assert [float(row[4]) for row in encoded] == bars.close[first:stop].tolist()
    assert pages.rows(5, 5) == []


@given(st.floats(0, 1))
def test_a_partly_filled_bar_is_sound_and_never_the_final_one(progress: float) -> None:
    final = Row(0, 2.0, 3.0, 1.0, 2.5, 0.00000001)
    shown = partly_filled(final, progress)
    assert shown.volume < final.volume
    assert shown.low <= min(shown.open, shown.close) <= max(shown.open, shown.close) <= shown.high
    assert final.low <= shown.low
    assert shown.high <= final.high


def test_restating_leaves_the_given_bars_and_the_others_alone() -> None:
    bars = generate(HISTORY)["ETHUSDT"]
    before = content_digest(bars)
    start_ms, end_ms = int(bars.ts_ms[10]), int(bars.ts_ms[20])
    changed = restated(bars, start_ms, end_ms, 1.5)
    assert content_digest(bars) == before
    assert np.flatnonzero(changed.close != bars.close).tolist() == list(range(10, 20))
    assert changed.ts_ms.tolist() == bars.ts_ms.tolist()


def test_rolling_up_ignores_quiet_bars_for_prices_and_stands_on_the_grid() -> None:
    rows = [
        Row(1 * MINUTE, 9.0, 9.0, 9.0, 9.0, 0.0),
        Row(2 * MINUTE, 5.0, 7.0, 4.0, 6.0, 1.0),
        Row(4 * MINUTE, 6.0, 6.5, 5.0, 5.5, 2.0),
        Row(5 * MINUTE, 5.5, 5.5, 5.5, 5.5, 0.0),
        Row(15 * MINUTE, 5.5, 8.0, 5.5, 8.0, 3.0),
    ]
    assert list(rows_of(rolled_up(Bars.from_rows(rows), 5 * MINUTE))) == [
        Row(0, 5.0, 7.0, 4.0, 5.5, 3.0),
        Row(5 * MINUTE, 5.5, 5.5, 5.5, 5.5, 0.0),
        Row(15 * MINUTE, 5.5, 8.0, 5.5, 8.0, 3.0),
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no bars"),
        ([Row(MINUTE, 1, 1, 1, 1, 1), Row(MINUTE, 1, 1, 1, 1, 1)], "ascending"),
        ([Row(MINUTE + 1, 1, 1, 1, 1, 1)], "grid"),
        ([Row(MINUTE, 1, float("nan"), 1, 1, 1)], "finite"),
    ],
)
def test_bars_that_no_exchange_holds_are_found_out(rows: list[Row], says: str) -> None:
    assert says in (find_fault(Bars.from_rows(rows), MINUTE) or "")
