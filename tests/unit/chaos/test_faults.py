"""Which requests a lie is told to."""

from __future__ import annotations

from seamfill_chaos.faults import Asked, LieBook
from seamfill_chaos.faults_file import parse_lies

KLINES = "/api/v3/klines"


def indexes(book: LieBook, asked: Asked) -> list[int]:
    return [lie.index for lie in book.pick(asked)]


def bars(start_ms: int, end_ms: int, symbol: str = "ETHUSDT") -> Asked:
    return Asked(path=KLINES, symbol=symbol, start_ms=start_ms, end_ms=end_ms)


def book(text: str) -> LieBook:
    return LieBook(parse_lies(text))


def test_requests_are_numbered_for_each_lie_by_its_own_prefix() -> None:
    lies = book(
        "[[lie]]\nkind='reset'\npath='/api/v3/klines'\nwhen=[2]\n"
        "[[lie]]\nkind='reset'\npath='/api'\nwhen=[2]\n"
    )
    assert indexes(lies, Asked(path="/api/v3/ping")) == []
    assert indexes(lies, bars(0, 1)) == [2]
    assert indexes(lies, bars(0, 1)) == [1]
    assert indexes(lies, Asked(path="/sapi")) == []


def test_a_range_is_met_by_every_request_that_overlaps_it() -> None:
    lies = book("[[lie]]\nkind='reset'\nstart=100\nend=200\n")
    assert [indexes(lies, bars(*span)) for span in ((0, 100), (200, 300))] == [[], []]
    assert [indexes(lies, bars(*span)) for span in ((0, 101), (199, 300), (120, 130))] == [[1]] * 3
    assert indexes(lies, Asked(path=KLINES)) == []


def test_only_requests_for_the_range_are_numbered_when_there_is_one() -> None:
    lies = book("[[lie]]\nkind='reset'\nstart=100\nend=200\nwhen=[1]\n")
    assert indexes(lies, bars(0, 50)) == []
    assert indexes(lies, bars(50, 150)) == [1]
    assert indexes(lies, bars(50, 150)) == []


def test_a_symbol_narrows_the_candidates() -> None:
    lies = book("[[lie]]\nkind='reset'\nsymbol='ETHUSDT'\nwhen=[1]\n")
    assert indexes(lies, bars(0, 1, "BTCUSDT")) == []
    assert indexes(lies, bars(0, 1)) == [1]


def test_lies_about_rows_do_not_count_requests_without_rows() -> None:
    lies = book("[[lie]]\nkind='drop_bars'\npath='/api'\nwhen=[1]\n")
    assert indexes(lies, Asked(path="/api/v3/time")) == []
    assert indexes(lies, bars(0, 1)) == [1]
