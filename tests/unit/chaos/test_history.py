"""What callers asked and heard: recorded, written down, read back, merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamfill.errors import InvalidInput
from seamfill_chaos.history import Ending, Read, Recorder, Seen, load, save
from seamfill_coordinator.machine.commands import Claim, Request
from seamfill_coordinator.machine.outcomes import Claimed, Rejected, RejectReason, Reply


class Times:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


CLAIM = Request(operations=(Claim(key="k", lease_ms=1_000),), client=3, sequence=7, low=7)
GRANT = Reply(outcomes=(Claimed(token="4", ttl_ms=1_000, completion_ratio=None),), rev=9)
SESSION_UNKNOWN = Reply(outcomes=(Rejected(reason=RejectReason.SESSION_UNKNOWN),), rev=9)


def test_a_file_holds_what_was_recorded(tmp_path: Path) -> None:
    times = Times()
    path = tmp_path / "history.jsonl"
    with path.open("ab", buffering=0) as sink:
        recorder = Recorder(times, sink=sink)
        claim = recorder.invoke("a", CLAIM, node="n1")
        times.now_ms = 5
        read = recorder.invoke("b", Read(key="k", floor_rev=3), node="n2")
        recorder.retry(claim, node="n2", in_doubt=True)
        recorder.note("fault.killed", node="n1")
        recorder.ok(claim, GRANT)
        recorder.ok(read, Seen(token="4", rev=9))
        lost = recorder.invoke("a", CLAIM, node="n1")
        recorder.unknown(lost, "no answer")
        recorder.refused(recorder.invoke("a", CLAIM, node="n1"), "not_leader")
        recorder.invoke("b", CLAIM, node="n1")

        history = load(path)  # while the writer still lives, as after its kill

    assert history == recorder.history()
    first, second, third, fourth, fifth = history.operations
    assert (first.asked, first.answer, first.nodes) == (CLAIM, GRANT, ("n1", "n2"))
    assert (first.invoked_at_ms, first.returned_at_ms) == (0, 5)
    assert second.answer == Seen(token="4", rev=9)
    assert (third.ending, third.returned, third.why) == (Ending.UNKNOWN, None, "no answer")
    assert (fourth.ending, fourth.why) == (Ending.REFUSED, "not_leader")
    assert (fifth.ending, fifth.returned_at_ms) == (Ending.UNKNOWN, None)
    assert history.notes[0].facts == {"node": "n1"}


def test_a_line_that_a_kill_cut_off_is_not_read(tmp_path: Path) -> None:
    recorder = Recorder(Times())
    recorder.ok(recorder.invoke("a", CLAIM, node="n1"), GRANT)
    path = tmp_path / "history.jsonl"
    save(path, recorder.events)
    path.write_bytes(path.read_bytes()[:-5])
    (operation,) = load(path).operations
    assert operation.ending is Ending.UNKNOWN


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    recorder = Recorder(Times())
    recorder.ok(recorder.invoke("a", CLAIM, node="n1"), GRANT)
    path = tmp_path / "history.jsonl"
    save(path, recorder.events)
    path.write_bytes(path.read_bytes().replace(b"answered", b"anwsered"))
    with pytest.raises(InvalidInput, match=r"history\.jsonl:2"):
        load(path)


@pytest.mark.parametrize("in_doubt", [False, True])
def test_a_refusal_proves_nothing_of_an_earlier_try_in_doubt(in_doubt: bool) -> None:
    recorder = Recorder(Times())
    refused = recorder.invoke("a", CLAIM, node="n1")
    recorder.retry(refused, node="n2", in_doubt=in_doubt)
    recorder.refused(refused, "not_leader")
    forgotten = recorder.invoke("a", CLAIM, node="n1")
    recorder.retry(forgotten, node="n2", in_doubt=in_doubt)
    recorder.ok(forgotten, SESSION_UNKNOWN)
    endings = [operation.ending for operation in recorder.history().operations]
    assert endings == (
        [Ending.UNKNOWN, Ending.UNKNOWN] if in_doubt else [Ending.REFUSED, Ending.ANSWERED]
    )


def test_order_is_of_events_in_one_file_and_of_milliseconds_between_files(tmp_path: Path) -> None:
    """Two writers' events in the same millisecond count as concurrent; of one they are ordered."""
    times = Times()
    one, other = Recorder(times), Recorder(times)
    one.ok(one.invoke("a", CLAIM, node="n1"), GRANT)
    one.ok(one.invoke("a", CLAIM, node="n1"), GRANT)
    other.ok(other.invoke("b", CLAIM, node="n1"), GRANT)
    times.now_ms = 1
    other.ok(other.invoke("b", CLAIM, node="n1"), GRANT)
    first, second = one.history().operations
    assert first.returned is not None and first.returned < second.invoked

    save(tmp_path / "one", one.events)
    save(tmp_path / "other", other.events)
    history = load(tmp_path / "one", tmp_path / "other")
    assert sorted(operation.number for operation in history.operations) == [1, 2, 3, 4]
    early = [operation for operation in history.operations if operation.invoked_at_ms == 0]
    (late,) = [operation for operation in history.operations if operation.invoked_at_ms == 1]
    for operation in early:
        assert operation.returned is not None
        assert operation.returned < late.invoked
        assert all(operation.returned > another.invoked for another in early)
