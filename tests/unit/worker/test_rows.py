"""One bad row refuses the answer, and the refusal says what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamfill.errors import SourceMalformed
from seamfill_worker.sources.rows import columns_of_rows, trusted_bars

MINUTE = 60_000
Rows = list[list[Any]]


def good(count: int = 5) -> Rows:
    return [[n * MINUTE, "1.5", "2.0", "1.0", "1.25", "10"] for n in range(1, count + 1)]


def read(rows: Rows, *, start_ms: int = MINUTE, limit: int = 10) -> list[int]:
    bars = trusted_bars(
        columns_of_rows(rows), start_ms=start_ms, limit_bars=limit, interval_ms=MINUTE
    )
    return [int(ts) for ts in bars.ts_ms]


def test_strings_and_numbers_become_bars() -> None:
    assert read(good()) == [MINUTE * n for n in range(1, 6)]
    assert read([[MINUTE, 1.5, 2, 1, 1.25, 0]]) == [MINUTE]
    assert read([]) == []


def test_rows_that_come_newest_first_are_turned_around() -> None:
    assert read(good()[::-1]) == [MINUTE * n for n in range(1, 6)]


@pytest.mark.parametrize(
    ("row", "column", "value", "says"),
    [
        (2, 0, 3 * MINUTE + 1, "off the grid"),
        (2, 0, 2 * MINUTE, "bar 120000: sent twice"),
        (2, 0, MINUTE * 1, "out of order"),
        (0, 0, 0, "out of range: before 60000"),
        (2, 0, "180000", "not integers"),
        (2, 0, 180000.0, "not integers"),
        (2, 0, None, "not integers"),
        (2, 0, True, "out of order|off the grid"),
        (2, 1, "NaN", "not finite"),
        (2, 2, "inf", "not finite"),
        (2, 3, None, "not finite or absent"),
        (2, 4, "abc", "column close holds something that is no number"),
        (2, 2, "1.4", "high is not the highest"),
        (2, 3, "1.3", "low is not the lowest"),
        (2, 5, "-1", "negative volume"),
    ],
)
def test_a_bad_row_is_named(row: int, column: int, value: object, says: str) -> None:
    rows = good()
    rows[row][column] = value
    with pytest.raises(SourceMalformed, match=says):
        read(rows)


def test_more_rows_than_were_asked_for_are_refused() -> None:
    with pytest.raises(SourceMalformed, match="5 rows were sent, 4 were asked for"):
        read(good(), limit=4)


@pytest.mark.parametrize("rows", [[[MINUTE, 1, 1, 1, 1]], [[MINUTE, 1, 1, 1, 1, 1], [MINUTE]], [3]])
def test_rows_of_another_shape_are_refused(rows: Any) -> None:
    with pytest.raises(SourceMalformed):
        read(rows)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.lists(st.lists(JSON, max_size=7), max_size=4))
def test_any_json_gives_bars_or_a_refusal(rows: Any) -> None:
    """Nothing else escapes: what a venue sends is not ours to trust."""
    try:
        times = read(rows)
    except SourceMalformed:
        return
    assert times == sorted(set(times))
