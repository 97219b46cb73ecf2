"""Names and the rule of fences, without a file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamfill.errors import StoreRefused
from seamfill.protocol.values import SeriesId
from seamfill.sources.parquet_layout import (
    FORMAT,
    WrittenWindow,
    check_marker,
    encode_name,
    gen_directory,
    marker_bytes,
    next_take,
    parse_file_name,
    resolve,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


def window(start_ms: int, end_ms: int, fence: int, take: int = 0) -> WrittenWindow:
    return WrittenWindow(start_ms=start_ms, end_ms=end_ms, fence=fence, take=take)


WINDOWS = st.builds(
    lambda start_ms, bars, fence, take: window(start_ms, start_ms + bars, fence, take),
    st.integers(0, 40),
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(0, 2),
)


@given(st.lists(WINDOWS, max_size=12, unique=True), st.integers(0, 50), st.integers(1, 30))
def test_resolve_agrees_with_asking_for_every_bar(
    windows: list[WrittenWindow], start_ms: int, length: int
) -> None:
    end_ms = start_ms + length
    pieces = resolve(windows, start_ms, end_ms)
    answer = {at: piece.window for piece in pieces for at in range(piece.start_ms, piece.end_ms)}
    assert sum(piece.end_ms - piece.start_ms for piece in pieces) == len(answer)
    assert pieces == sorted(pieces, key=lambda piece: piece.start_ms)
    for at in range(start_ms - 2, end_ms + 2):
        ranks = [
            (held.fence, held.take)
            for held in windows
            if held.overlaps(at, at + 1) and start_ms <= at < end_ms
        ]
        found = answer.get(at)
        assert (found and (found.fence, found.take)) == max(ranks, default=None)


@given(NAMES, NAMES)
def test_different_names_differ_even_where_case_does_not_count(one: str, other: str) -> None:
    for letters in ("lower", "upper"):
        names = {encode_name(name, letters=letters).casefold() for name in (one, other)}
        assert len(names) == len({one, other})


@given(NAMES)
def test_a_name_is_one_portable_path_component(name: str) -> None:
    for letters in ("lower", "upper"):
        encoded = encode_name(name, letters=letters)
        assert len(encoded) <= 200
        assert encoded.isascii()
        assert not set(encoded) & set('/\\:*?"<>| ')
        assert encoded not in {".", ".."}
        assert not encoded.startswith(".")
        assert not encoded.endswith(".")


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("BTC/USDT", "BTC%2FUSDT"),
        ("BTC/USDT:USDT", "BTC%2FUSDT%3AUSDT"),
        ("AAPL", "AAPL"),
        ("..", "%2E%2E"),
        ("CON", "%43ON"),
        ("NUL.A", "%4EUL.A"),
        ("CONSOLE", "CONSOLE"),
        ("btc", "%62%74%63"),
    ],
)
def test_symbols_are_encoded_as_the_format_says(name: str, encoded: str) -> None:
    """A change here is a change of the format on disk."""
    assert encode_name(name, letters="upper") == encoded


def test_a_series_can_not_leave_the_directory() -> None:
    series = SeriesId(dataset="../../etc", symbol="/absolute/../..")
    relative = PurePosixPath(gen_directory(Path("/store"), series, 0)).relative_to("/store")
    assert len(relative.parts) == 3
    assert ".." not in relative.parts


@given(WINDOWS)
def test_file_names_parse_back(held: WrittenWindow) -> None:
    assert parse_file_name(held.file_name) == held


@pytest.mark.parametrize(
    "name", [".seamfill-tmp-1-00", "0-1.f1.parquet", "a-b.f1.0.parquet", "0-1.f1.0.parquet.bak"]
)
def test_other_files_are_not_windows(name: str) -> None:
    assert parse_file_name(name) is None


def test_a_take_rises_only_over_other_bounds_of_the_same_fence() -> None:
    bounds = {"start_ms": 0, "end_ms": 10, "fence": 7}
    assert next_take([], **bounds) == 0
    assert next_take([window(0, 10, 7)], **bounds) == 0
    assert next_take([window(5, 15, 8, take=4)], **bounds) == 0
    assert next_take([window(10, 20, 7, take=4)], **bounds) == 0
    assert next_take([window(5, 15, 7)], **bounds) == 1
    assert next_take([window(0, 10, 7, take=3), window(5, 15, 7, take=1)], **bounds) == 3
    assert next_take([window(0, 10, 7), window(5, 15, 7, take=1)], **bounds) == 2


def test_our_own_marker_is_understood() -> None:
    check_marker(marker_bytes(), Path("/store"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"kind":"parquet","format":%d}' % (FORMAT + 1), "upgrade seamfill"),
        (b'{"kind":"lancedb","format":1}', "lancedb"),
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b'{"kind":"parquet","format":"1"}', "damaged"),
    ],
)
def test_other_markers_are_refused_by_name(content: bytes, says: str) -> None:
    with pytest.raises(StoreRefused, match=says):
        check_marker(content, Path("/store"))
