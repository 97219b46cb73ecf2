"""Sessions: at most once, bounded, and surviving a snapshot."""

from __future__ import annotations

import pytest

from machine.machine_setup import Bench, acquire, submit
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import (
    Command,
    Limits,
    OpenSession,
    Request,
    SetLimits,
    Stamp,
)
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Opened, Rejected, RejectReason, Reply


def _open(bench: Bench) -> int:
    outcome = bench.do(OpenSession())
    assert isinstance(outcome, Opened)
    return outcome.client


def _ask(bench: Bench, client: int, sequence: int, low: int = 0) -> Reply:
    request = Request(operations=(acquire(),), client=client, sequence=sequence, low=low)
    return bench.apply(request).replies[0]


def _reason(reply: Reply) -> RejectReason | None:
    outcome = reply.outcomes[0]
    return outcome.reason if isinstance(outcome, Rejected) else None


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.do(submit(0, 100_000))
    return bench


def test_a_repetition_gets_the_first_reply_and_changes_nothing(bench: Bench) -> None:
    client = _open(bench)
    first = _ask(bench, client, 3)
    rev = bench.machine.rev
    again = _ask(bench, client, 3)
    assert again.repeated
    assert (again.outcomes, again.rev) == (first.outcomes, first.rev)
    assert bench.machine.rev == rev
    assert _ask(bench, client, 2).outcomes != first.outcomes, "order of sequences is free"


def test_a_repetition_is_found_after_a_restore(bench: Bench) -> None:
    client = _open(bench)
    first = _ask(bench, client, 0)
    bench.machine = LeaseMachine.restore(bench.machine.snapshot())
    again = _ask(bench, client, 0)
    assert again.repeated
    assert again.outcomes == first.outcomes


def test_what_the_client_has_heard_is_forgotten_and_refused(bench: Bench) -> None:
    client = _open(bench)
    _ask(bench, client, 0)
    _ask(bench, client, 5, low=5)
    assert bench.machine.state.sessions[client].replies.keys() == {5}
    assert _reason(_ask(bench, client, 0)) is RejectReason.SESSION_UNKNOWN


def test_the_window_of_sequences_is_bounded(bench: Bench) -> None:
    client = _open(bench)
    assert _reason(_ask(bench, client, 255)) is None
    assert _reason(_ask(bench, client, 256)) is RejectReason.INVALID
    assert _reason(_ask(bench, client, 256, low=1)) is None


def test_unknown_and_idle_sessions_are_refused(bench: Bench) -> None:
    assert _reason(_ask(bench, 77, 0)) is RejectReason.SESSION_UNKNOWN
    client, busy = _open(bench), _open(bench)
    bench.wait(599_000)
    _ask(bench, busy, 0)
    bench.wait(1_000)
    assert _reason(_ask(bench, client, 0)) is RejectReason.SESSION_UNKNOWN
    assert _reason(_ask(bench, busy, 1)) is None
    assert _open(bench) not in {client, busy}, "a client id is never given out again"


def test_at_the_caps_a_new_session_is_refused_and_live_ones_stay(bench: Bench) -> None:
    client = _open(bench)
    bench.do(SetLimits(limits=Limits(sessions=1)))
    refusal = bench.do(OpenSession())
    assert isinstance(refusal, Rejected)
    assert refusal.reason is RejectReason.LIMIT_EXCEEDED
    bench.do(SetLimits(limits=Limits(session_bytes=10)))
    assert _reason(_ask(bench, client, 0)) is None
    refusal = bench.do(OpenSession())
    assert isinstance(refusal, Rejected)
    assert refusal.reason is RejectReason.LIMIT_EXCEEDED


def test_requests_of_one_command_are_deduplicated_one_by_one(bench: Bench) -> None:
    """A proposal that is lost and repeated may be aggregated with others the second time."""
    client = _open(bench)
    one = Request(operations=(acquire(),), client=client, sequence=0)
    two = Request(operations=(acquire(),), client=client, sequence=1)
    bench.apply(one)
    replies = bench.apply(one, two).replies
    assert [reply.repeated for reply in replies] == [True, False]


def test_a_command_of_another_version_changes_nothing(bench: Bench) -> None:
    before = bench.machine.snapshot()
    stamp = Stamp(term=9, reign_ms=9, wall_ms=9)
    command = Command(version=2, stamp=stamp, requests=(Request(operations=(acquire(),)),))
    reply = bench.machine.apply(command).replies[0]
    assert _reason(reply) is RejectReason.UNKNOWN_COMMAND
    assert bench.machine.snapshot() == before
    assert encode_command(command)[1] == 2
