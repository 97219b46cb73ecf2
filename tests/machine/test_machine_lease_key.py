"""Lease keys: the spellings in the field, and ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamfill.lease_key import (
    NativeKey,
    OpaqueKey,
    RangeKey,
    native_key,
    parse_lease_key,
    parse_native,
    rejoin,
)


def test_colons_inside_node_and_as_of_are_kept() -> None:
    key = "ohlcv:binance:BTC/USDT:1m:60:1700000000:1700000060:world:2024-01-01T00:00:00Z"
    assert parse_lease_key(key) == RangeKey(
        node_id="ohlcv:binance:BTC/USDT:1m",
        interval_s=60,
        start_s=1_700_000_000,
        stop_s=1_700_000_120,
        world="world",
        as_of="2024-01-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        ("n:60:0:60::", ("n", 60, "", "")),
        ("n:60:0:60", ("n", 60, "", "")),
        ("n:60:0:60:w:blake3:ff", ("n", 60, "w", "blake3:ff")),
        ("n:5:60:0:60:w:", ("n:5", 60, "w", "")),
        ("n:0:60:0:60:w:", ("n:0", 60, "w", "")),
    ],
)
def test_the_first_split_from_the_left_that_makes_sense_wins(
    key: str, namespace: tuple[str, int, str, str]
) -> None:
    """``n:5:60:0``: start 60 lies behind end 0, so the split moves on."""
    parsed = parse_lease_key(key)
    assert isinstance(parsed, RangeKey)
    assert parsed.namespace == namespace


@pytest.mark.parametrize(
    "key",
    [
        "",
        "plain",
        "n:60:0",
        "60:0:60",
        "n:60:9:3",
        "n:-60:0:60",
        "n:６0:0:60",
        "n:60:0:9999999999999999",
    ],
)
def test_what_has_no_readable_range_is_opaque(key: str) -> None:
    assert parse_lease_key(key) == OpaqueKey(text=key)


@given(st.text(max_size=60))
def test_parsing_is_total_and_ranges_are_never_empty(text: str) -> None:
    parsed = parse_lease_key(text)
    assert isinstance(parsed, OpaqueKey) or parsed.start_s < parsed.stop_s
    parse_native(text)


@given(st.text("ab:/ 1", min_size=1), st.text("ab:/ 1", min_size=1), st.integers(0, 10**14))
def test_native_keys_survive_the_round_trip(dataset: str, symbol: str, start: int) -> None:
    expected = NativeKey(dataset=dataset, symbol=symbol, start_ms=start, end_ms=start + 60)
    assert parse_native(native_key(dataset, symbol, start, start + 60)) == expected


def test_a_key_split_at_the_first_colon_is_put_together_again() -> None:
    assert rejoin("ohlcv", "binance:60:0:60:::17") == ("ohlcv:binance:60:0:60::", "17")
    assert rejoin("plain", "17") is None
