"""Times in a query: both spellings, and never a guess."""

from __future__ import annotations

import pytest

from seamfill.errors import InvalidInput
from seamfill_coordinator.http.times import MAX_TIME_MS, parse_range, parse_time

T0 = 1_618_963_200_000


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("0", 0),
        (str(T0), T0),
        ("2021-04-21T00:00:00Z", T0),
        ("2021-04-21T02:00:00+02:00", T0),
        ("2021-04-21T02:00:00 02:00", T0),
        ("2021-04-20T19:00:00-05:00", T0),
        ("2021-04-21T00:00:00.123Z", T0 + 123),
        ("2021-04-21 00:00:00Z", T0),
        ("9999-12-31T23:59:59Z", MAX_TIME_MS - 1_000),
    ],
)
def test_a_time_in_either_spelling(text: str, time_ms: int) -> None:
    assert parse_time("start", text) == time_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2021-04-21",
        "2021-04-21T00:00:00",
        "2021-04-21 10:00",
        "-1",
        "1e12",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+23:59",
        "٣",
        str(MAX_TIME_MS + 1),
    ],
)
def test_what_is_no_time_or_has_no_zone_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_time("start", text)
    assert refused.value.field == "start"


def test_a_range_may_be_open_but_not_turned_around() -> None:
    assert parse_range(None, "60000") == (None, 60_000)
    with pytest.raises(InvalidInput, match="end: must be after start"):
        parse_range("60000", "60000")
