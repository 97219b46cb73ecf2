"""Reading lies: what the format means, and how mistakes in it are named."""

from __future__ import annotations

import pytest

from seamfill_chaos.faults import DropBars, Lie, LieKind, OutOfRange, Span, Status
from seamfill_chaos.faults_file import LIES_MAX, LiesInvalid, parse_lies

NINE, TEN = 1_619_082_000_000, 1_619_085_600_000


def parse_one(text: str) -> Lie:
    [lie] = parse_lies("[[lie]]\n" + text)
    return lie


def test_the_documented_example_means_what_it_says() -> None:
    first, second, third = parse_lies(
        """
        [[lie]]
        kind = "status"
        code = 429
        headers = { "Retry-After" = "2" }
        path = "/api/v3/klines"
        when = [3, 7, 8]

        [[lie]]
        kind = "html_200"
        path = "/api/v3/klines"
        every = 10

        [[lie]]
        kind = "drop_bars"
        path = "/api/v3/klines"
        bars = ["2021-04-22T10:00:00Z", "2021-04-22T10:30:00Z"]
        when = [1]
        """
    )
    assert first.act == Status(code=429, headers=(("Retry-After", "2"),))
    assert [n for n in range(1, 12) if first.selection.picks(n)] == [3, 7, 8]
    assert [n for n in range(1, 31) if second.selection.picks(n)] == [10, 20, 30]
    assert third.act == DropBars(bars_ms=(TEN, TEN + 1_800_000))
    assert [lie.index for lie in (first, second, third)] == [1, 2, 3]


def test_nothing_but_kind_is_needed() -> None:
    for kind in LieKind:
        lie = parse_one(f'kind = "{kind.value}"' + ("\ncode = 500" * (kind is LieKind.STATUS)))
        assert lie.kind is kind
        assert lie.selection.picks(1)
        assert lie.span.is_everything


@pytest.mark.parametrize(
    "text",
    [
        f"start = {NINE}\nend = {TEN}",
        'start = "2021-04-22T09:00:00Z"\nend = "2021-04-22T12:00:00+02:00"',
        "start = 2021-04-22T09:00:00Z\nend = 2021-04-22T10:00:00Z",
        'when = { start = "2021-04-22T09:00:00Z", end = "2021-04-22T10:00:00Z" }',
    ],
)
def test_a_range_may_be_written_in_several_ways(text: str) -> None:
    assert parse_one('kind = "reset"\n' + text).span == Span(start_ms=NINE, end_ms=TEN)


def test_when_may_be_a_number_a_list_or_a_table() -> None:
    for text in ("when = 4", "when = [4]", "when = { requests = [4] }"):
        selection = parse_one('kind = "reset"\n' + text).selection
        assert [n for n in range(9) if selection.picks(n)] == [4]
    assert parse_one('kind = "reset"\nwhen = { every = 3 }').selection.every == 3


def test_a_body_may_be_a_table() -> None:
    act = parse_one('kind = "status"\ncode = 503\nbody = { code = -1008, msg = "busy" }').act
    assert act == Status(code=503, body='{"code": -1008, "msg": "busy"}')


def test_counts_may_be_zero_where_the_other_side_is_not() -> None:
    assert parse_one('kind = "out_of_range"\nbefore = 0').act == OutOfRange(before=0, after=1)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('kind = "nonsense"', "lie 1: kind: 'nonsense' is unknown; one of status, html_200"),
        ("path = '/x'", "lie 1: kind: is missing"),
        ('kind = "status"', 'lie 1 ("status"): code: is missing'),
        ('kind = "status"\ncode = "429"', 'lie 1 ("status"): code: must be an integer'),
        ('kind = "status"\ncode = 999', 'lie 1 ("status"): code:'),
        ('kind = "status"\ncode = 200\nheaders = 3', "headers:"),
        ('kind = "status"\ncode = 200\nheaders = { a = "x\\ny" }', "headers:"),
        ('kind = "status"\ncode = 200\nbody = 3', "body:"),
        ('kind = "reset"\npath = "api"', "path: must be a text that starts with /"),
        ('kind = "reset"\nsymbol = 3', "symbol: must be a text"),
        ('kind = "reset"\nwhen = []', "when:"),
        ('kind = "reset"\nwhen = [0]', "when:"),
        ('kind = "reset"\nwhen = [true]', "when:"),
        ('kind = "reset"\nwhen = { each = 3 }', "when.each: unknown"),
        ('kind = "reset"\nevery = 2\nwhen = { every = 3 }', "when.every: is given twice"),
        ('kind = "reset"\nevery = 0', "every:"),
        ('kind = "reset"\nfrom_request = 0', "from_request:"),
        ('kind = "reset"\nstart = "2021-04-22"', "start:"),
        ('kind = "reset"\nstart = 2021-04-22', "start:"),
        ('kind = "reset"\nstart = 5\nend = 5', "end: must be later than start"),
        ('kind = "reset"\nevrey = 5', "evrey: unknown for this kind"),
        ('kind = "hang"\nseconds = 0', "seconds:"),
        ('kind = "hang"\nseconds = nan', "seconds:"),
        ('kind = "truncate"\nkeep = 1', "keep:"),
        ('kind = "truncate"\nshort = 1', "short: must be true or false"),
        ('kind = "empty"\nbody = "{}"', "body:"),
        ('kind = "drop_bars"\nbars = 3', "bars:"),
        ('kind = "drop_bars"\nbars = ["10:00"]', "bars:"),
        ('kind = "duplicate_bars"\ncount = 0', "count:"),
        ('kind = "restate"\nfactor = 1.0', "factor: 1 changes nothing"),
        ('kind = "off_grid"\nshift_ms = 60000', "shift_ms:"),
        ('kind = "out_of_range"\nbefore = 0\nafter = 0', "before:"),
    ],
)
def test_a_mistake_is_named_by_lie_and_field(text: str, names: str) -> None:
    with pytest.raises(LiesInvalid) as caught:
        parse_one(text)
    assert names in str(caught.value)
    assert str(caught.value).startswith("lie 1")


def test_the_number_of_the_lie_is_its_place_in_the_file() -> None:
    with pytest.raises(LiesInvalid, match=r'^lie 2 \("hang"\): seconds:'):
        parse_lies('[[lie]]\nkind = "reset"\n[[lie]]\nkind = "hang"\nseconds = -1')


@pytest.mark.parametrize(
    "text",
    ["[lie]\nkind='reset'", "lie = 3", "lies = []", "[[lie", "[[lie]]\nkind='reset'\n" * 257],
)
def test_what_is_no_list_of_lies_is_refused(text: str) -> None:
    assert LIES_MAX == 256
    with pytest.raises(LiesInvalid):
        parse_lies(text)
