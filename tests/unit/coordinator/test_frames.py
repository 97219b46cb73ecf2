"""Frames: cut anywhere, and judged by their length before anything is kept for them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamfill_coordinator.raft.frames import KEEPALIVE, FrameReader, FrameTooLong, frame_of


def payloads(reader: FrameReader) -> list[bytes]:
    return list(iter(reader.next, None))


@given(
    st.lists(st.binary(max_size=40), max_size=20),
    st.lists(st.integers(min_value=0, max_value=900), max_size=20),
)
def test_a_stream_comes_back_as_its_payloads_wherever_it_is_cut(
    sent: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(frame_of(payload) for payload in sent)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader, got = FrameReader(limit=40), []
    for start, end in itertools.pairwise(edges):
        reader.feed(stream[start:end])
        got += payloads(reader)
    assert got == sent


def test_a_length_over_the_limit_is_refused_as_soon_as_it_is_known() -> None:
    reader = FrameReader(limit=10)
    reader.feed(frame_of(bytes(10)) + (11).to_bytes(4, "big")[:3])
    assert payloads(reader) == [bytes(10)]
    reader.feed((11).to_bytes(4, "big")[3:])
    with pytest.raises(FrameTooLong, match="11 bytes, at most 10"):
        reader.next()


def test_a_keepalive_is_an_empty_payload() -> None:
    reader = FrameReader(limit=0)
    reader.feed(KEEPALIVE)
    assert payloads(reader) == [b""]


def test_the_limit_counts_from_the_next_frame_on() -> None:
    reader = FrameReader(limit=1)
    reader.feed(frame_of(b"a") + frame_of(b"bcd"))
    assert reader.next() == b"a"
    reader.limit = 3
    assert reader.next() == b"bcd"
