"""One contended key: which answers some order can explain, and which none can."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from seamfill_chaos.checkers.claim_key import SLACK_MS, check_linearizability, resolve
from seamfill_chaos.checkers.replay import replay
from seamfill_chaos.history import History, Operation, Read, Recorder, Seen
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import (
    Barrier,
    Claim,
    Command,
    CompleteClaim,
    FailClaim,
    Request,
    Stamp,
)
from seamfill_coordinator.machine.outcomes import (
    Claimed,
    ClaimFinished,
    Outcome,
    Rejected,
    RejectReason,
    Reply,
)
from unit.chaos.checkers.small_world import contention

TTL_MS = 1_000
HELD = Rejected(reason=RejectReason.HELD)
GONE = Rejected(reason=RejectReason.NOT_FOUND)
STALE = Rejected(reason=RejectReason.STALE_FENCE)
DONE = ClaimFinished(completion_ratio=None)


@dataclass
class Story:
    """A history on the key ``k``, told one event after the other."""

    now_ms: int = 0
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.recorder = Recorder(lambda: self.now_ms)

    def at(self, now_ms: int) -> Story:
        self.now_ms = now_ms
        return self

    def begin(self, who: str, asked: Claim | CompleteClaim | FailClaim) -> int:
        return self.recorder.invoke(who, Request(operations=(asked,)), node="n1")

    def end(self, number: int, outcome: Outcome) -> None:
        self.recorder.ok(number, Reply(outcomes=(outcome,), rev=1))

    def begin_claim(self, who: str) -> int:
        return self.begin(who, Claim(key="k", lease_ms=TTL_MS, holder=who))

    def claim(self, who: str, outcome: Outcome) -> None:
        self.end(self.begin_claim(who), outcome)

    def complete(self, token: int, outcome: Outcome) -> None:
        self.end(self.begin("x", CompleteClaim(key="k", token=str(token))), outcome)

    def fail(self, token: int, outcome: Outcome) -> None:
        self.end(self.begin("x", FailClaim(key="k", token=str(token))), outcome)

    def read(self, token: int | None) -> None:
        number = self.recorder.invoke("r", Read(key="k"), node="n1")
        self.recorder.ok(number, Seen(token=None if token is None else str(token), rev=1))

    def is_linearizable(self, *, abandons_unknown: bool = False) -> bool:
        history = self.recorder.history()
        return not check_linearizability(history, abandons_unknown=abandons_unknown)


def granted(token: int) -> Claimed:
    return Claimed(token=str(token), ttl_ms=TTL_MS, completion_ratio=None)


def test_a_key_goes_from_one_holder_to_the_next() -> None:
    story = Story()
    story.claim("a", granted(1))
    story.claim("b", replace(HELD, holder="a"))
    story.read(1)
    story.fail(1, DONE)
    story.read(None)
    story.claim("b", granted(2))
    story.fail(1, replace(STALE, holder="b"))
    assert story.is_linearizable()


def test_two_holders_at_once_are_found() -> None:
    story = Story()
    story.claim("a", granted(1))
    story.claim("b", granted(2))
    assert not story.is_linearizable()


def test_concurrent_grants_are_two_holders_too() -> None:
    story = Story()
    first, second = story.begin_claim("a"), story.begin_claim("b")
    story.end(first, granted(1))
    story.end(second, granted(2))
    assert not story.is_linearizable()


@pytest.mark.parametrize(("late_ms", "is_fine"), [(TTL_MS, True), (TTL_MS - SLACK_MS - 10, False)])
def test_a_claim_expires_after_its_ttl_and_not_before(late_ms: int, is_fine: bool) -> None:
    story = Story()
    story.claim("a", granted(1))
    story.at(late_ms).claim("b", granted(2))
    assert story.is_linearizable() is is_fine


def test_the_ttl_is_counted_from_the_earliest_moment_of_the_grant() -> None:
    """The grant may have happened as soon as it was asked for, and the next as late as its end."""
    story = Story()
    first = story.begin_claim("a")
    story.at(700).end(first, granted(1))
    second = story.begin_claim("b")
    story.at(1_000).end(second, granted(2))
    assert story.is_linearizable()


def test_expiries_in_a_row_need_their_time_each() -> None:
    """Each gap alone is long enough, if the grants between them slide; all together are not."""
    story = Story()
    begun = [story.begin_claim(f"c{number}") for number in range(4)]
    for token, number in enumerate(begun, start=1):
        story.at(700 * token).end(number, granted(token))
    assert not story.is_linearizable()
    story = Story()
    begun = [story.begin_claim(f"c{number}") for number in range(4)]
    for token, number in enumerate(begun):
        story.at(1_000 * token).end(number, granted(token + 1))
    assert story.is_linearizable()


def test_a_claim_may_live_on_while_the_lease_clock_stands_still() -> None:
    story = Story()
    story.claim("a", granted(1))
    story.at(60_000).complete(1, DONE)
    assert story.is_linearizable()


def test_a_holder_that_expired_may_not_complete() -> None:
    story = Story()
    story.claim("a", granted(1))
    story.at(2_000).read(None)
    story.complete(1, DONE)
    assert not story.is_linearizable()


def test_a_stale_complete_that_was_accepted_is_found() -> None:
    story = Story()
    story.claim("a", granted(1))
    story.at(2_000).claim("b", granted(2))
    story.complete(1, DONE)
    assert not story.is_linearizable()


def test_a_token_that_does_not_grow_is_found() -> None:
    story = Story()
    story.claim("a", granted(5))
    story.fail(5, DONE)
    story.claim("b", granted(4))
    assert not story.is_linearizable()


@pytest.mark.parametrize("stale", [None, 1])
def test_a_stale_read_is_found(stale: int | None) -> None:
    story = Story()
    story.claim("a", granted(1))
    story.fail(1, DONE)
    story.claim("b", granted(2))
    story.read(stale)
    assert not story.is_linearizable()


def test_a_read_bound_to_a_floor_only_may_be_stale() -> None:
    story = Story()
    story.claim("a", granted(1))
    number = story.recorder.invoke("r", Read(key="k", behind_barrier=False), node="n1")
    story.recorder.ok(number, Seen(token=None, rev=0))
    assert story.is_linearizable()


def test_a_lost_acknowledged_claim_is_found() -> None:
    story = Story()
    story.claim("a", granted(1))
    story.at(10).complete(1, GONE)
    assert not story.is_linearizable()


def test_a_key_that_nobody_holds_is_not_refused() -> None:
    story = Story()
    story.claim("a", HELD)
    assert not story.is_linearizable()


@pytest.mark.parametrize(("late_ms", "is_fine"), [(9_000, False), (10_000, True)])
def test_a_completed_key_is_quiet_for_ten_seconds(late_ms: int, is_fine: bool) -> None:
    story = Story()
    story.claim("a", granted(1))
    story.complete(1, DONE)
    story.claim("b", HELD)
    story.at(late_ms).claim("b", granted(2))
    assert story.is_linearizable() is is_fine


def test_a_refusal_names_the_holder() -> None:
    story = Story()
    story.claim("a", granted(1))
    story.claim("b", replace(HELD, holder="c"))
    assert not story.is_linearizable()


def test_an_unknown_claim_explains_a_holder_that_nobody_was_told_of() -> None:
    for is_asked in (True, False):
        story = Story()
        if is_asked:
            story.recorder.unknown(story.begin_claim("lost"), "no answer")
        story.claim("b", replace(HELD, holder="lost"))
        story.at(5_000).claim("b", granted(2))
        assert story.is_linearizable() is is_asked


def test_an_unknown_claim_that_took_effect_lives_for_its_ttl() -> None:
    def story() -> Story:
        told = Story()
        told.recorder.unknown(told.begin_claim("lost"), "no answer")
        told.claim("b", replace(HELD, holder="lost"))
        told.at(500).claim("b", granted(2))
        return told

    assert not story().is_linearizable()
    assert story().is_linearizable(abandons_unknown=True)


def test_an_unknown_completion_may_free_the_key_or_not() -> None:
    for is_freed in (True, False):
        story = Story()
        story.claim("a", granted(1))
        story.recorder.unknown(story.begin("a", FailClaim(key="k", token="1")), "no answer")
        story.claim("b", granted(2) if is_freed else HELD)
        assert story.is_linearizable()


def test_a_refused_claim_has_no_effect() -> None:
    story = Story()
    story.recorder.refused(story.begin_claim("a"), "not_leader")
    story.claim("b", replace(HELD, holder="a"))
    assert not story.is_linearizable()


RANGE, OVERLAPPING, BESIDE = "n:60:0:120", "n:60:60:180", "n:60:180:240"


@pytest.mark.parametrize(("other", "is_fine"), [(OVERLAPPING, False), (BESIDE, True)])
def test_keys_that_name_ranges_exclude_each_other_where_they_overlap(
    other: str, is_fine: bool
) -> None:
    story = Story()
    story.end(story.begin("a", Claim(key=RANGE, lease_ms=TTL_MS, holder="a")), granted(1))
    story.end(story.begin("b", Claim(key=other, lease_ms=TTL_MS, holder="b")), granted(2))
    story.end(story.begin("a", FailClaim(key=RANGE, token="1")), DONE)
    story.end(story.begin("b", FailClaim(key=other, token="2")), DONE)
    assert story.is_linearizable() is is_fine


def test_a_completed_range_is_quiet_for_those_that_overlap_it() -> None:
    for late_ms, is_fine in ((9_000, False), (10_000, True)):
        story = Story()
        story.end(story.begin("a", Claim(key=RANGE, lease_ms=TTL_MS)), granted(1))
        story.end(story.begin("a", CompleteClaim(key=RANGE, token="1")), DONE)
        story.end(story.begin("b", Claim(key=OVERLAPPING, lease_ms=TTL_MS)), HELD)
        story.at(late_ms)
        story.end(story.begin("b", Claim(key=OVERLAPPING, lease_ms=TTL_MS)), granted(2))
        assert story.is_linearizable() is is_fine


def test_what_can_not_be_decided_is_a_violation() -> None:
    (violation, *_) = check_linearizability(contention(7).recorder.history(), budget=20)
    assert "undecided" in str(violation)


def test_the_log_tells_what_unknown_outcomes_were() -> None:
    world = contention(7)
    history = world.recorder.history()
    committed = replay(world.agreement.commands, world.agreement.digests).requests
    resolved = resolve(history, committed)
    assert check_linearizability(resolved) == []
    assert len(resolved.operations) < len(history.operations), "some never took effect"
    late = [op for op in resolved.operations if op.returned is None]
    assert late and all(op.answer is not None for op in late)


def test_an_anonymous_effect_that_nobody_was_told_of_is_found_by_what_it_asks() -> None:
    """Of two equal requests the one that began first counts as the one that took effect."""
    story = Story()
    claim = Claim(key="k", lease_ms=TTL_MS, holder="a")
    lost = [story.begin("a", claim) for _ in range(2)]
    for number in lost:
        story.recorder.unknown(number, "no answer")
    story.claim("b", replace(HELD, holder="a"))
    command = Command(
        version=1,
        stamp=Stamp(term=1, reign_ms=0, wall_ms=0),
        requests=(Request(operations=(Barrier(),)), Request(operations=(claim,))),
    )
    committed = replay({1: encode_command(command)}, {}).requests
    first, last = resolve(story.recorder.history(), committed).operations
    assert (first.number, first.answer) == (lost[0], committed[1].reply)
    assert last.caller == "b"


seeds = st.integers(0, 2**32)


def settled(seed: int) -> History:
    """A run whose unknown outcomes were looked up: there is no doubt left to explain a fault by."""
    world = contention(seed)
    committed = replay(world.agreement.commands, {}).requests
    return resolve(world.recorder.history(), committed)


@settings(deadline=None, max_examples=15)
@given(seeds)
def test_every_run_of_the_real_machine_is_accepted(seed: int) -> None:
    assert check_linearizability(settled(seed)) == []


@pytest.mark.parametrize("seed", range(5))
def test_answers_alone_explain_a_run_of_the_real_machine(seed: int) -> None:
    assert check_linearizability(contention(seed, until_ms=8_000).recorder.history()) == []


def with_answer(history: History, operation: Operation, answer: Reply | Seen) -> History:
    """The history in which this one operation was answered otherwise."""
    operations = tuple(
        replace(other, answer=answer) if other is operation else other
        for other in history.operations
    )
    return History(operations=operations)


def claimed(history: History) -> list[tuple[Operation, Claimed]]:
    """The grants, in order of their tokens."""
    grants = [
        (operation, operation.answer.outcomes[0])
        for operation in history.operations
        if isinstance(operation.answer, Reply) and isinstance(operation.answer.outcomes[0], Claimed)
    ]
    return sorted(grants, key=lambda grant: int(grant[1].token))


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_a_second_grant_where_there_was_a_refusal_is_found(seed: int) -> None:
    """The claim that was refused had still to wait longer than anything can have been delayed."""
    history = settled(seed)
    token = 1 + max(int(grant.token) for _, grant in claimed(history))
    for operation in history.operations:
        if operation.returned is None:
            continue
        match operation.answer:
            case Reply(outcomes=(Rejected(holder=str(), retry_after_ms=int(wait_ms)),), rev=rev):
                if wait_ms > 400:
                    answer = Reply(outcomes=(granted(token),), rev=rev)
                    assert check_linearizability(with_answer(history, operation, answer))
                    return
    assume(False)  # this run has no such moment


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_a_read_of_a_holder_before_the_last_is_found(seed: int) -> None:
    history = settled(seed)
    grants = claimed(history)
    for operation in history.operations:
        if not isinstance(operation.asked, Read) or not isinstance(operation.answer, Seen):
            continue
        for old, new in pairwise(grants):
            is_of_key = all(_key(grant) == operation.asked.key for grant, _ in (old, new))
            heard = new[0].returned
            if is_of_key and heard is not None and heard < operation.invoked:
                stale = Seen(token=old[1].token, rev=operation.answer.rev)
                assert check_linearizability(with_answer(history, operation, stale))
                return
    assume(False)


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_a_grant_that_was_acknowledged_and_lost_is_found(seed: int) -> None:
    """Its holder ends it well within its ttl, and is told that there is no such claim."""
    history = settled(seed)
    began = {grant.token: operation.invoked_at_ms for operation, grant in claimed(history)}
    for operation in history.operations:
        if operation.returned is None:
            continue
        match operation.asked, operation.answer:
            case (
                Request(operations=(CompleteClaim(token=token) | FailClaim(token=token),)),
                Reply(outcomes=(ClaimFinished(),), rev=rev),
            ):
                # Later, the key may have expired and the answer been true.
                ended_ms = operation.returned_at_ms
                assert ended_ms is not None
                if token in began and ended_ms < began[token] + TTL_MS - SLACK_MS - 1:
                    answer = Reply(outcomes=(GONE,), rev=rev)
                    assert check_linearizability(with_answer(history, operation, answer))
                    return
    assume(False)


def _key(operation: Operation) -> str:
    assert isinstance(operation.asked, Request)
    (part,) = operation.asked.operations
    assert isinstance(part, Claim)
    return part.key
