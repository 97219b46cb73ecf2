"""Times as people write them: what is taken, and what is refused with which guess."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from seamfill.errors import InvalidInput
from seamfill.times import ceil_to_grid, floor_to_grid, format_ms, parse_time, to_ms

T0 = 1_618_963_200_000


@pytest.mark.parametrize(
    "value",
    [
        T0,
        np.int64(T0),
        datetime(2021, 4, 21, tzinfo=UTC),
        datetime(2021, 4, 21, 2, tzinfo=timezone(timedelta(hours=2))),
        pd.Timestamp("2021-04-21", tz="UTC"),
        pd.Timestamp("2021-04-20 20:00", tz="America/New_York"),
        "2021-04-21T00:00:00Z",
        "2021-04-21T02:00+02:00",
    ],
)
def test_every_spelling_means_the_same_moment(value: datetime | int | str) -> None:
    assert to_ms(value, "start") == T0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (datetime(2021, 4, 21), "no time zone"),  # noqa: DTZ001 (the point of the test)
        (pd.Timestamp("2021-04-21"), "no time zone"),
        ("2021-04-21", "no time zone"),
        ("yesterday", "not a time"),
        (T0 // 1000, "looks like seconds"),
        (T0 * 1000, "looks like microseconds"),
        (T0 * 1_000_000, "looks like nanoseconds"),
        (True, "not a bool"),
        (1.5, "not float"),
        (pd.NaT, "NaT"),
        (None, "not NoneType"),
        (-1, "before 1970"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(value: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        to_ms(value, "start")  # type: ignore[arg-type]  # wrong types are the point
    assert caught.value.field == "start"


def test_the_guess_of_another_unit_names_the_moment_that_was_probably_meant() -> None:
    with pytest.raises(InvalidInput, match=r"1618963200000 \(2021-04-21T00:00:00Z\)"):
        to_ms(T0 // 1000, "start")


def test_an_end_between_two_ms_is_rounded_up_when_asked() -> None:
    moment = pd.Timestamp(T0 * 1_000_000 + 1, tz="UTC")
    assert to_ms(moment, "end") == T0
    assert to_ms(moment, "end", round_up=True) == T0 + 1
    micro = datetime(2021, 4, 21, 0, 0, 0, 1, tzinfo=UTC)
    assert to_ms(micro, "end", round_up=True) == T0 + 1


def test_a_command_line_may_say_milliseconds_or_iso() -> None:
    assert parse_time(str(T0), "--start") == parse_time(" 2021-04-21T00:00:00Z ", "--start") == T0
    with pytest.raises(InvalidInput, match="seconds"):
        parse_time(str(T0 // 1000), "--start")
    with pytest.raises(InvalidInput, match="write 2021-01-01T00:00:00Z"):
        parse_time("2021", "--start")


def test_grid_and_format_are_inverse_to_what_people_read() -> None:
    assert floor_to_grid(T0 + 1, 60_000) == T0
    assert ceil_to_grid(T0 + 1, 60_000) == T0 + 60_000
    assert ceil_to_grid(T0, 60_000) == T0
    assert format_ms(T0) == "2021-04-21T00:00:00Z"
    assert format_ms(T0 + 7) == "2021-04-21T00:00:00.007Z"
