"""The log replayed: the naive model against the real machine, and broken machines against both."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamfill_chaos.checkers.agreement import Agreement, Life
from seamfill_chaos.checkers.naive_keys import NaiveKeys
from seamfill_chaos.checkers.replay import replay
from seamfill_coordinator.machine import claims, sessions
from seamfill_coordinator.machine import machine as machine_module
from seamfill_coordinator.machine.codec import encode_command
from seamfill_coordinator.machine.commands import (
    Announce,
    Barrier,
    Claim,
    Command,
    CompleteClaim,
    FailClaim,
    OpenSession,
    Operation,
    Request,
    Stamp,
)
from seamfill_coordinator.machine.model import State
from seamfill_coordinator.machine.outcomes import Claimed, Outcome, Reply
from unit.chaos.checkers.small_world import contention

NODE = Life(node="n", incarnation="i", number=1)


def log_of(*commands: Command) -> dict[int, bytes]:
    return {index: encode_command(command) for index, command in enumerate(commands, start=1)}


def command(reign_ms: int, *operations: Operation, term: int = 1) -> Command:
    requests = tuple(Request(operations=(operation,)) for operation in operations)
    return Command(
        version=1, stamp=Stamp(term=term, reign_ms=reign_ms, wall_ms=0), requests=requests
    )


def found(*commands: Command) -> str:
    return "\n".join(map(str, replay(log_of(*commands), {}).violations))


LIFE_OF_A_CLAIM = (
    command(0, Claim(key="k", lease_ms=1_000, holder="a"), Claim(key="k", lease_ms=0)),
    command(999, Claim(key="k", lease_ms=1_000, holder="b")),
    command(1_000, Claim(key="k", lease_ms=1_000, holder="b"), CompleteClaim(key="k", token="1")),
    command(1_500, CompleteClaim(key="k", token="2"), Claim(key="k", lease_ms=1_000)),
    command(5_000, FailClaim(key="k", token="2"), Barrier(), OpenSession()),
    command(9_000, Announce(member="n", url="u", cluster_id="c", version_min=1, version_max=1)),
    command(0, Claim(key="k", lease_ms=1_000), term=2),
    *(command(at_ms, Claim(key="k", lease_ms=1_000), term=2) for at_ms in range(0, 15_000, 999)),
)


def test_the_model_gives_what_the_machine_gives() -> None:
    replayed = replay(log_of(*LIFE_OF_A_CLAIM), {})
    assert replayed.violations == ()
    moments = replayed.moments
    assert (moments.terms, moments.stale_refused) == (2, 1)
    assert moments.grants > 2 and moments.held > 2 and moments.expired > 1


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32))
def test_the_model_agrees_with_the_machine_on_random_runs(seed: int) -> None:
    world = contention(seed)
    agreement = world.agreement
    replayed = replay(agreement.commands, agreement.digests, terms=agreement.terms)
    assert replayed.violations == ()
    assert len(world.agreement.digests) > 1
    assert replayed.moments.repeated > 0


def test_a_state_digest_that_the_log_does_not_give_is_found() -> None:
    world = contention(3)
    index = max(world.agreement.digests)
    broken = {**world.agreement.digests, index: "0" * 32}
    (violation,) = replay(world.agreement.commands, broken).violations
    assert violation.indexes == (index,)


def test_a_stamp_of_another_term_is_found() -> None:
    (violation,) = replay(log_of(command(0)), {}, terms={1: 2}).violations
    assert "stamped with term 1 and stands in the log of term 2" in str(violation)


def test_a_command_that_can_not_be_read_is_found() -> None:
    assert "can not be read" in str(replay({1: b"junk"}, {}).violations[0])


def _held_for_ever(state: State) -> None:
    pass


def _expires_early(state: State, op: Claim) -> Outcome:
    granted = claims.claim(state, op)
    if isinstance(granted, Claimed):
        state.claims[state.fence].deadline_ms -= 1
        state.claim_deadlines[:] = sorted(
            (row.deadline_ms, row.fence) for row in state.claims.values()
        )
    return granted


def _same_fence_again(state: State, op: Claim) -> Outcome:
    granted = claims.claim(state, op)
    state.fence = min(state.fence, 1)
    return granted


def test_a_claim_that_never_expires_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "expire_claims", _held_for_ever)
    monkeypatch.setattr(claims, "live_overlaps", _all_overlaps)
    assert "it should have been Claimed(token='2'" in found(*LIFE_OF_A_CLAIM)


def _all_overlaps(state: State, place: claims.Place) -> list[object]:
    namespace = state.namespaces.get(place[0])
    return [] if namespace is None else [row for _, _, row in namespace.live.overlapping(0, 1)]


@pytest.mark.parametrize("broken", [_expires_early, _same_fence_again])
def test_a_broken_grant_is_found(monkeypatch: pytest.MonkeyPatch, broken: object) -> None:
    monkeypatch.setitem(machine_module._HANDLERS, Claim, broken)
    assert "it should have been" in found(*LIFE_OF_A_CLAIM)


def test_a_session_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same (client, sequence) takes effect twice: the model and the count both tell."""
    monkeypatch.setattr(sessions, "store", lambda state, request, reply: None)
    once = Request(operations=(Barrier(),), client=1, sequence=1, low=1)
    stamp = Stamp(term=1, reign_ms=0, wall_ms=0)
    told = found(command(0, OpenSession()), Command(version=1, stamp=stamp, requests=(once, once)))
    assert "took effect twice" in told
    assert "it should be rev 2, repeated True" in told


def test_the_model_stops_at_replies_that_do_not_fit() -> None:
    assert list(NaiveKeys().apply(command(0, Barrier()), ())) == ["0 replies to 1 requests"]
    short = Reply(outcomes=(), rev=1)
    told = list(NaiveKeys().apply(command(0, Barrier()), (short,)))
    assert told == ["0 outcomes instead of 1"]


def test_an_agreement_feeds_the_replay() -> None:
    agreement = Agreement()
    agreement.applied(NODE, 3, 1, encode_command(command(0, Barrier())))
    (done,) = replay(agreement.commands, agreement.digests).requests
    assert (done.index, done.reply.rev, done.has_effect) == (3, 1, True)
