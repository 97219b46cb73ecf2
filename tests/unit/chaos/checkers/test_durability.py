"""Answers beside the log: each broken promise is found in a run that was right before."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from seamfill_chaos.checkers.durability import check_durability
from seamfill_chaos.checkers.replay import replay
from seamfill_chaos.history import Read, Recorder, Seen
from seamfill_coordinator.machine.codec import apply_encoded, encode_command
from seamfill_coordinator.machine.commands import (
    Barrier,
    Claim,
    Command,
    OpenSession,
    Operation,
    Request,
    Stamp,
)
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Done, Outcome, Rejected, RejectReason, Reply
from unit.chaos.checkers.small_world import contention

STAMP = Stamp(term=1, reign_ms=0, wall_ms=0)


@dataclass
class Run:
    """Requests that are committed and answered by hand. Client 1 has a session from the start."""

    recorder: Recorder = field(default_factory=lambda: Recorder(lambda: 0))
    machine: LeaseMachine = field(default_factory=LeaseMachine)
    log: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit(Request(operations=(OpenSession(),)))

    def commit(self, *requests: Request) -> Reply:
        index = len(self.log) + 1
        command = encode_command(Command(version=1, stamp=STAMP, requests=requests))
        self.log[index] = command
        return apply_encoded(self.machine, command).replies[0]

    def ask(self, asked: Request | Read) -> int:
        return self.recorder.invoke("a", asked, node="n")

    def done(self, asked: Request) -> Reply:
        """Ask, commit, answer."""
        number = self.ask(asked)
        reply = self.commit(asked)
        self.recorder.ok(number, reply)
        return reply

    def found(self, **options: object) -> str:
        requests = replay(self.log, {}).requests
        violations = check_durability(self.recorder.history(), requests, **options)  # type: ignore[arg-type]
        return "\n".join(map(str, violations))


def request(sequence: int, operation: Operation | None = None) -> Request:
    return Request(
        operations=(operation or Barrier(),), client=1, sequence=sequence, low=min(sequence, 1)
    )


ANONYMOUS = Request(operations=(Barrier(),))


def test_a_good_run_has_nothing_to_tell() -> None:
    run = Run()
    run.done(request(1))
    run.done(ANONYMOUS)
    run.recorder.unknown(run.ask(request(2)), "no answer")
    run.commit(request(2))
    run.recorder.unknown(run.ask(request(3)), "no answer")
    run.recorder.refused(run.ask(request(4)), "not_leader")
    run.recorder.ok(run.ask(request(1)), run.commit(request(1)))  # said twice, as its own operation
    run.recorder.ok(run.ask(Read(key="k", floor_rev=4)), Seen(token=None, rev=4))
    assert run.found() == ""


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32))
def test_every_run_of_the_real_machine_is_accepted(seed: int) -> None:
    world = contention(seed)
    requests = replay(world.agreement.commands, {}).requests
    assert check_durability(world.recorder.history(), requests) == []


def test_a_lost_acknowledgement_is_found() -> None:
    for asked in (request(1), ANONYMOUS):
        run = Run()
        run.recorder.ok(run.ask(asked), Reply(outcomes=(Done(),), rev=2))
        assert "was acknowledged and is lost" in run.found()


def test_an_anonymous_effect_that_is_someone_elses_is_found() -> None:
    run = Run()
    number = run.ask(ANONYMOUS)
    reply = run.commit(request(1, Claim(key="k", lease_ms=1_000)))
    run.recorder.ok(number, Reply(outcomes=(Done(),), rev=reply.rev))
    assert "at its rev 2 there is (Claim(" in run.found()


def test_another_outcome_or_rev_than_the_logs_is_found() -> None:
    for field_of_reply in ({"rev": 9}, {"outcomes": (Rejected(reason=RejectReason.HELD),)}):
        run = Run()
        number = run.ask(request(1))
        run.recorder.ok(number, replace(run.commit(request(1)), **field_of_reply))
        assert "the log gives" in run.found()


def test_another_request_under_its_identity_is_found() -> None:
    run = Run()
    number = run.ask(request(1))
    run.recorder.ok(number, run.commit(request(1, Claim(key="k", lease_ms=1_000))))
    assert "under its identity (Claim(" in run.found()


def test_two_effects_of_one_operation_are_found() -> None:
    run = Run()
    run.done(request(1))
    run.commit(request(1))
    requests = replay(run.log, {}).requests
    twice = [*requests[:-1], *requests[1:2]]
    (violation,) = check_durability(run.recorder.history(), twice)
    assert "took effect 2 times" in str(violation)


def test_two_answers_with_one_rev_are_found() -> None:
    run = Run()
    first, second = run.ask(ANONYMOUS), run.ask(ANONYMOUS)
    reply = run.commit(ANONYMOUS)
    run.recorder.ok(first, reply)
    run.recorder.ok(second, reply)
    assert "were both answered with rev 2" in run.found()


def test_a_definite_no_that_took_effect_is_found() -> None:
    run = Run()
    run.recorder.refused(run.ask(request(1)), "not_leader")
    run.commit(request(1))
    assert "was refused (not_leader) and was committed all the same" in run.found()


def test_a_refusal_by_the_session_needs_no_effect() -> None:
    run = Run()
    run.done(Request(operations=(Barrier(),), client=77, sequence=1))
    run.done(Request(operations=(Barrier(),), client=1, sequence=1_000))
    assert run.found() == ""


def test_revisions_follow_real_time() -> None:
    run = Run()
    late = run.ask(request(1))
    reply = run.commit(request(1))
    run.done(request(2))
    run.recorder.ok(late, reply)  # concurrent with the one before: its rev may be lower
    assert run.found() == ""
    early = run.commit(request(3))
    run.done(request(4))
    number = run.ask(request(3))
    run.recorder.ok(number, early)
    assert "had been answered with rev 5, and was answered with rev 4" in run.found()


def test_a_read_behind_a_barrier_is_not_older_than_what_was_acknowledged() -> None:
    run = Run()
    run.done(request(1))
    run.recorder.ok(run.ask(Read(key="k", behind_barrier=False)), Seen(token=None, rev=1))
    assert run.found() == ""
    run.recorder.ok(run.ask(Read(key="k")), Seen(token=None, rev=1))
    assert "and was answered with rev 1" in run.found()


def test_a_read_below_its_floor_is_found() -> None:
    run = Run()
    read = Read(key="k", floor_rev=5, behind_barrier=False)
    run.recorder.ok(run.ask(read), Seen(token=None, rev=4))
    assert "read rev 4, below its floor 5" in run.found()


def test_a_door_that_tells_less_is_compared_by_what_it_tells() -> None:
    run = Run()
    run.done(request(1, Claim(key="k", lease_ms=9_000, holder="a")))
    number = run.ask(request(2, Claim(key="k", lease_ms=9_000)))
    reply = run.commit(request(2, Claim(key="k", lease_ms=9_000)))
    blind = Rejected(reason=RejectReason.HELD)
    run.recorder.ok(number, replace(reply, outcomes=(blind,)))

    def reason(outcome: Outcome) -> object:
        return outcome.reason if isinstance(outcome, Rejected) else outcome

    assert "the log gives" in run.found()
    assert run.found(told=reason) == ""
