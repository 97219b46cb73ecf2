"""The journal's bytes: what goes in comes out, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamfill_coordinator.raft import journal_format
from seamfill_coordinator.raft.journal_format import (
    BadBytes,
    Group,
    Mark,
    SegmentHeader,
    UnknownVersion,
    decode_group,
    decode_header,
    decode_mark,
    encode_group,
    encode_header,
    encode_mark,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
INDEX = st.integers(0, 2**60)
TEXT = st.text(max_size=20)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    first, keep = draw(INDEX), draw(INDEX)
    start = max(first, keep + 1)
    commands = draw(
        st.lists(
            st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 2), st.binary()),
            max_size=6,
        )
    )
    return Group(
        term=draw(U64),
        vote=draw(st.none() | TEXT.filter(bool)),
        commit=draw(U64),
        first=first,
        keep=keep,
        entries=[(c, i, draw(U64)) for i, c in enumerate(commands, start)],
    )


@given(groups(), U32, st.binary(max_size=50), st.binary(max_size=50))
def test_a_group_comes_back_wherever_it_lies(
    group: Group, crc: int, before: bytes, after: bytes
) -> None:
    data, group_crc = encode_group(group, crc)
    assert decode_group(before + data + after, len(before), crc) == (
        group,
        group_crc,
        len(before) + len(data),
    )


@given(groups(), U32, U32)
def test_a_group_is_valid_only_behind_the_one_it_was_written_behind(
    group: Group, crc: int, other: int
) -> None:
    if crc != other:
        data, _ = encode_group(group, crc)
        with pytest.raises(BadBytes):
            decode_group(data, 0, other)


@given(groups(), st.data())
def test_no_flipped_bit_is_taken(group: Group, data: st.DataObject) -> None:
    content = bytearray(encode_group(group, 0)[0])
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadBytes):
        decode_group(bytes(content), 0, 0)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_junk_is_refused_and_nothing_else_happens(junk: bytes) -> None:
    for decode in (decode_header, decode_mark, lambda data: decode_group(data, 0, 0)):
        with pytest.raises((BadBytes, UnknownVersion)):
            decode(junk)


def test_a_declared_length_is_not_believed_before_it_fits() -> None:
    data = bytearray(
        encode_group(Group(term=1, vote=None, commit=1, first=1, keep=0, entries=[]), 0)[0]
    )
    data[4:8] = (2**32 - 1).to_bytes(4, "little")
    with pytest.raises(BadBytes, match="length"):
        decode_group(bytes(data), 0, 0)


def test_a_group_over_the_limit_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_format, "GROUP_BYTES_MAX", 1000)
    group = Group(term=1, vote=None, commit=1, first=1, keep=0, entries=[(b"\0" * 1000, 1, 1)])
    with pytest.raises(BadBytes, match="at most 1000"):
        encode_group(group, 0)


@given(TEXT, TEXT, U64, U64, U32)
def test_a_header_comes_back(
    cluster_id: str, incarnation: str, segment: int, end: int, previous_crc: int
) -> None:
    header = SegmentHeader(
        cluster_id=cluster_id,
        incarnation=incarnation,
        segment=segment,
        previous_end=end,
        previous_crc=previous_crc,
    )
    data, crc = encode_header(header)
    assert decode_header(data + b"groups follow") == (header, crc, len(data))


@given(st.data())
def test_no_flipped_bit_of_a_header_is_taken(data: st.DataObject) -> None:
    header = SegmentHeader(
        cluster_id="c", incarnation="i", segment=3, previous_end=9, previous_crc=7
    )
    content = bytearray(encode_header(header)[0])
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises((BadBytes, UnknownVersion)):
        decode_header(bytes(content))


@given(U64, U64, U32, st.integers(0, 255))
def test_a_mark_comes_back_and_no_flipped_bit_is_taken(
    segment: int, end: int, crc: int, bit: int
) -> None:
    mark = Mark(segment=segment, end=end, crc=crc)
    content = bytearray(encode_mark(mark))
    assert decode_mark(bytes(content)) == mark
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadBytes):
        decode_mark(bytes(content))


def test_the_format_does_not_drift() -> None:
    """These bytes lie on disks; a change needs a new version."""
    group = Group(term=5, vote="n2", commit=8, first=7, keep=8, entries=[(b"\0hi", 9, 5)])
    assert encode_group(group, 1)[0].hex() == GROUP_HEX
    header = SegmentHeader(
        cluster_id="c1", incarnation="ab", segment=2, previous_end=99, previous_crc=3
    )
    assert encode_header(header)[0].hex() == HEADER_HEX
    assert encode_mark(Mark(segment=2, end=300, crc=4)).hex() == MARK_HEX


GROUP_HEX = (
    "35d2be25400000000500000000000000080000000000000007000000000000000800000000000000"
    "0100000002006e3200050000000000000003000000006869"
)
HEADER_HEX = (
    "5345414d4a524e4c0100da47441f1c0002000000000000006300000000000000030000000200616202006331"
)
MARK_HEX = "e84233b7040000002c0100000000000002000000000000000000000000000000"
