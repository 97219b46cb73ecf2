"""Peer messages: each comes back as it was, and nothing else is ever taken for one."""

from __future__ import annotations

import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamfill_coordinator.raft.membership import Configuration, Member
from seamfill_coordinator.raft.messages import (
    Append,
    Appended,
    BadMessage,
    Founded,
    Hello,
    HigherTerm,
    Message,
    PreVoteReply,
    PreVoteRequest,
    SnapshotPart,
    SnapshotTaken,
    Vote,
    VoteRequest,
    decode_message,
    encode_message,
)

NUMBER = st.integers(min_value=0, max_value=2**63 - 1)
WORD = st.text(max_size=20)
MEMBER = st.builds(Member, WORD, WORD)
MEMBERS = st.lists(MEMBER, max_size=4).map(tuple)
CONFIGURATION = st.builds(Configuration, MEMBERS, MEMBERS)
ENTRY = st.tuples(st.binary(max_size=40), NUMBER, NUMBER)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello,
        protocol=NUMBER,
        cluster_id=WORD,
        node_id=WORD,
        incarnation=WORD,
        configuration=st.none() | CONFIGURATION,
        peer_ids=st.lists(WORD, max_size=4).map(tuple),
    ),
    st.builds(Founded, configuration=CONFIGURATION),
    st.builds(
        Append,
        term=NUMBER,
        previous_index=NUMBER,
        previous_term=NUMBER,
        commit_index=NUMBER,
        entries=st.lists(ENTRY, max_size=4).map(tuple),
    ),
    st.builds(Appended, term=NUMBER, next_index=NUMBER, success=st.booleans(), reset=st.booleans()),
    st.builds(VoteRequest, term=NUMBER, last_index=NUMBER, last_term=NUMBER),
    st.builds(Vote, term=NUMBER),
    st.builds(PreVoteRequest, term=NUMBER, last_index=NUMBER, last_term=NUMBER),
    st.builds(PreVoteReply, term=NUMBER, granted=st.booleans()),
    st.builds(HigherTerm, term=NUMBER),
    st.builds(
        SnapshotPart,
        term=NUMBER,
        last_index=NUMBER,
        last_term=NUMBER,
        size=NUMBER,
        offset=NUMBER,
        data=st.binary(max_size=40),
    ),
    st.builds(SnapshotTaken, term=NUMBER, last_index=NUMBER, offset=NUMBER),
)


def decoded_or_refused(data: bytes) -> Message | None:
    """Decode; anything but a message or ``BadMessage`` fails the test."""
    try:
        return decode_message(data)
    except BadMessage:
        return None


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_refused(data: bytes) -> None:
    decoded_or_refused(data)


@given(MESSAGES, st.data())
def test_a_damaged_message_is_a_message_or_refused(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decoded_or_refused(bytes(damaged))


@given(MESSAGES, st.data())
def test_a_message_cut_short_or_followed_by_more_is_refused(
    message: Message, data: st.DataObject
) -> None:
    encoded = encode_message(message)
    assert decoded_or_refused(encoded[: data.draw(st.integers(0, len(encoded) - 1))]) is None
    assert decoded_or_refused(encoded + data.draw(st.binary(min_size=1, max_size=9))) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x92\x63\x01",  # an unknown tag
        b"\x93\x05\x01\x01",  # one field too many
        b"\x91\x05",  # one too few
        b"\x92\x05\xa11",  # a text for a number
        b"\x92\x05\xc3",  # a truth for a number
        b"\x92\x05\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",  # 1.0 for 1
        b"\x97\x00\x01\xa1c\xa1n\xa1i\xc0" + b"\x91" * 15_000,  # deeper than any message
        pickle.dumps(("seamfill/1", "c1", "n2")),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    assert decoded_or_refused(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x96\x02\x01\x01\x01\x01\xdd\xff\xff\xff\xff",  # four billion entries
        b"\x97\x00\x01\xa1c\xa1n\xa1i\xc0\xdd\xff\xff\xff\xff",  # four billion peers
        b"\x97\x00\x01\xdb\xff\xff\xff\xff",  # a name of 4 GiB
        b"\x97\x09\x01\x01\x01\x01\x01\xc6\xff\xff\xff\xff",  # a part of 4 GiB
    ],
)
def test_declared_sizes_take_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        assert decoded_or_refused(data) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
