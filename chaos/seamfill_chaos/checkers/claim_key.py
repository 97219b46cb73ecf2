"""Contended keys as locks that expire, and a history's operations on them.

Owns the sequential specification of claims (lease-machine.md, Compatibility leases), and the
linearizability of a whole history: key by key, and where keys name ranges that may overlap, name by
name. Trusts nothing but the answers. Must not know the log; ``resolve`` alone looks at what was
committed, to tell what unknown outcomes were.

**How time enters, and why that is sound.** A claim granted at true time t with ttl d may end, by
itself, at any time from t + d on, and it may also never end: the lease clock stands still without
a leader. So expiry is an internal step with a lower bound and no upper bound. (That leases are not
immortal is checked by replay, on the log's own clock.) The specification's state has ``now_ms``:
the *least* time at which its last operation can have happened: the latest beginning of the
operations placed so far, moved on by the expiries that their answers needed. All bounds on the
times of placed operations are of the form "not before" another one plus a constant, except that an
operation happens before its own end. Such a system has a solution exactly when its least solution
meets the ends; ``step`` computes the least solution and refuses when an end is missed. Hence the
search neither misses an early expiry that every order needs nor reports one that some order avoids.

Expiry is assumed only when an answer needs a free place. Assuming it earlier gains nothing: until
then every answer is the one that the live claim gives.

The lease clock never runs faster than the leaders' own clocks. These may drift (``CLOCK_DRIFT``),
and are read in whole milliseconds once a term: ``SLACK_MS`` covers those roundings and the ones of
the history.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from seamfill_chaos.checkers.linearizability import (
    DEFAULT_BUDGET,
    Call,
    Finding,
    search,
)
from seamfill_chaos.checkers.places import Place, place_of
from seamfill_chaos.checkers.replay import CommittedRequest
from seamfill_chaos.checkers.violation import Checker, Violation
from seamfill_chaos.history import Ending, History, Operation, Read, Seen
from seamfill_coordinator.machine.commands import (
    NO_CLIENT,
    Claim,
    CompleteClaim,
    FailClaim,
    Request,
)
from seamfill_coordinator.machine.outcomes import (
    Claimed,
    ClaimFinished,
    Outcome,
    Rejected,
    RejectReason,
    Reply,
)

__all__ = [
    "SLACK_MS",
    "ClaimKeys",
    "KeyCall",
    "KeysState",
    "calls_by_name",
    "check_linearizability",
    "resolve",
]

SLACK_MS: Final = 20
"""Two roundings a term; more than ten changes of leader inside one ttl would need more."""
CLOCK_DRIFT: Final = 200
"""A clock may gain one part in so many; a bad crystal gains one in 10,000."""
TTL_DEFAULT_MS: Final = 120_000
TTL_MIN_MS: Final = 1_000
TTL_MAX_MS: Final = 600_000
DONE_REFUSES_MS: Final = 10_000
HIDDEN: Final = -1
"""The token of a grant that nobody was told of."""
_FOREVER: Final = 1 << 62

Name = tuple[str, ...]
Asked = Claim | CompleteClaim | FailClaim | Read


class KeyCall(Struct, frozen=True, kw_only=True):
    """One operation on a key. ``answer`` None: nobody knows what it was, if it took place."""

    place: Place
    asked: Asked
    answer: Outcome | Seen | None
    invoked_at_ms: int
    returned_at_ms: int | None

    @property
    def latest_ms(self) -> int:
        # Rounded down in the history: it may have ended up to a millisecond later.
        return _FOREVER if self.returned_at_ms is None else self.returned_at_ms + 1


class Live(NamedTuple):
    """A claim that has not ended as far as is known. ``expires_ms``: not before that does it end by
    itself."""

    place: Place
    token: int
    holder: str
    expires_ms: int


class Quiet(NamedTuple):
    """A place that was completed. ``until_ms``: not before that is it granted again."""

    place: Place
    until_ms: int


class KeysState(Struct, frozen=True):
    """Who holds what since the last operation, at the least time this can be.

    Both tuples are sorted by place; ``last_token`` is the highest granted as far as is known.
    """

    now_ms: int = 0
    live: tuple[Live, ...] = ()
    quiet: tuple[Quiet, ...] = ()
    last_token: int = 0


class ClaimKeys:
    """The specification. ``abandons_unknown``: a node may undo a grant that nobody heard of, as the
    HTTP service does; then such a claim may end at once."""

    def __init__(self, *, abandons_unknown: bool = False) -> None:
        self._abandons_unknown = abandons_unknown

    def initial(self) -> KeysState:
        return KeysState()

    def step(self, state: KeysState, value: KeyCall) -> KeysState | None:
        if value.invoked_at_ms > state.now_ms:
            state = replace(state, now_ms=value.invoked_at_ms)
        then = self._apply(state, value)
        if then is None or then.now_ms > value.latest_ms:
            return None
        return then

    def split(self, state: KeysState, /) -> tuple[Hashable, tuple[int, ...]]:
        """Times and tokens are only ever required to lie above these."""
        exact = (
            tuple([claim[:3] for claim in state.live]),
            tuple([quiet.place for quiet in state.quiet]),
        )
        times_ms = [claim.expires_ms for claim in state.live]
        times_ms += [quiet.until_ms for quiet in state.quiet]
        return exact, (state.now_ms, state.last_token, *times_ms)

    def _apply(self, state: KeysState, call: KeyCall) -> KeysState | None:
        match call.asked, call.answer:
            case Claim() as claim, Claimed(token=token, ttl_ms=ttl_ms):
                return _granted(state, call.place, claim, int(token), ttl_ms)
            case Claim() as claim, None:
                ttl_ms = 0 if self._abandons_unknown else _ttl_ms(claim)
                return _granted(state, call.place, claim, HIDDEN, ttl_ms)
            case Claim(), Rejected(reason=RejectReason.HELD) as refusal:
                return state if _is_held(state, call.place, refusal) else None
            case (CompleteClaim() | FailClaim()) as finish, ClaimFinished() | None:
                return _finished(state, call.place, finish)
            case (CompleteClaim() | FailClaim()) as finish, Rejected() as refusal:
                return _not_finished(state, call.place, finish, refusal)
            case Read(), Seen(token=None):
                return _freed(state, call.place)
            case Read(), Seen(token=str(token)):
                return _bound(state, call.place, int(token))
            case Claim(), Rejected():
                return state  # a definite no for another reason: no effect, and no knowledge
        return None  # an answer that this operation never has


def _granted(
    state: KeysState, place: Place, claim: Claim, token: int, ttl_ms: int
) -> KeysState | None:
    """Grant as soon as all that overlaps can have ended."""
    if token != HIDDEN and token <= state.last_token:
        return None
    now_ms = state.now_ms
    live, quiet = [], []
    for other in state.live:
        if other.place.overlaps(place):
            now_ms = max(now_ms, other.expires_ms)
        else:
            live.append(other)
    for done in state.quiet:
        if done.place.overlaps(place):
            now_ms = max(now_ms, done.until_ms)
        else:
            quiet.append(done)
    expires_ms = now_ms + max(0, ttl_ms - _slack_ms(ttl_ms))
    live.append(Live(place, token, claim.holder or claim.key, expires_ms))
    return KeysState(
        now_ms=now_ms,
        live=tuple(sorted(live)),
        quiet=tuple(quiet),
        last_token=max(token, state.last_token),
    )


def _is_held(state: KeysState, place: Place, refusal: Rejected) -> bool:
    holders = [claim.holder for claim in state.live if claim.place.overlaps(place)]
    if refusal.holder is not None:
        return refusal.holder in holders
    # Not every door tells the holder. Without one the place may have been completed a moment ago,
    # by a clock that may have stood still since.
    return bool(holders) or any(done.place.overlaps(place) for done in state.quiet)


def _finished(
    state: KeysState, place: Place, finish: CompleteClaim | FailClaim
) -> KeysState | None:
    bound = _bound(state, place, int(finish.token))
    if bound is None:
        return None
    live = tuple([claim for claim in bound.live if claim.place != place])
    quiet = bound.quiet
    if isinstance(finish, CompleteClaim):
        until_ms = bound.now_ms + DONE_REFUSES_MS - _slack_ms(DONE_REFUSES_MS)
        quiet = (*(done for done in quiet if done.place != place), Quiet(place, until_ms))
    return replace(bound, live=live, quiet=tuple(sorted(quiet)))


def _not_finished(
    state: KeysState, place: Place, finish: CompleteClaim | FailClaim, refusal: Rejected
) -> KeysState | None:
    match refusal.reason:
        case RejectReason.NOT_FOUND:
            return _freed(state, place)
        case RejectReason.STALE_FENCE:
            live = _at(state, place)
            if live is None or live.token == int(finish.token):
                return None
            return state if refusal.holder in (None, live.holder) else None
    return state


def _at(state: KeysState, place: Place) -> Live | None:
    """Return the claim of exactly this place."""
    for claim in state.live:
        if claim.place == place:
            return claim
    return None


def _bound(state: KeysState, place: Place, token: int) -> KeysState | None:
    """Return the state in which ``token`` holds the place; a hidden grant may turn out to be it."""
    claim = _at(state, place)
    if claim is None:
        return None
    if claim.token == token:
        return state
    if claim.token != HIDDEN or token <= state.last_token:
        return None
    live = tuple([other._replace(token=token) if other is claim else other for other in state.live])
    return replace(state, live=live, last_token=token)


def _freed(state: KeysState, place: Place) -> KeysState:
    """Return the state in which nobody holds the place, waiting for expiry if somebody does."""
    claim = _at(state, place)
    if claim is None:
        return state
    live = tuple([other for other in state.live if other is not claim])
    return replace(state, now_ms=max(state.now_ms, claim.expires_ms), live=live)


def _ttl_ms(claim: Claim) -> int:
    return min(max(claim.lease_ms or TTL_DEFAULT_MS, TTL_MIN_MS), TTL_MAX_MS)


def _slack_ms(ttl_ms: int) -> int:
    return SLACK_MS + ttl_ms // CLOCK_DRIFT


# Histories


def check_linearizability(
    history: History, *, abandons_unknown: bool = False, budget: int = DEFAULT_BUDGET
) -> list[Violation]:
    """Search each name of the history; one that can not be decided is a violation too.

    Nothing but the answers is believed. Some dozens of unknown outcomes on one name leave too many
    possibilities: look them up before (``resolve``).
    """
    specification = ClaimKeys(abandons_unknown=abandons_unknown)
    violations: list[Violation] = []
    for name, calls in sorted(calls_by_name(history).items()):
        verdict = search(calls, specification, budget=budget)
        if verdict.finding is not Finding.LINEARIZABLE:
            told = f"key {':'.join(name)!r}: {verdict.explain()}"
            violations.append(_violation(told, verdict.order[-1:] + verdict.stuck))
    return violations


def resolve(history: History, committed: Iterable[CommittedRequest]) -> History:
    """Return the history with unknown outcomes looked up in the committed log.

    Only for a run that is over, with a log that holds all of it: what is not there never happened.
    What is found has its answer, and still no known end. Requests without a session identity are
    found by what they ask, among the effects that nobody was answered: equal ones can not be told
    apart, and count as those that began first, which forbids least.
    """
    heard = {op.answer.rev for op in history.operations if isinstance(op.answer, Reply)}
    found: dict[object, deque[CommittedRequest]] = defaultdict(deque)
    for done in committed:
        has_identity = done.request.client != NO_CLIENT
        if done.has_effect and (has_identity or done.reply.rev not in heard):
            found[_likeness(done.request)].append(done)
    kept: list[Operation] = []
    for operation in history.operations:
        if operation.ending is not Ending.UNKNOWN or isinstance(operation.asked, Read):
            kept.append(operation)
            continue
        effects = found[_likeness(operation.asked)]
        if effects:
            reply = effects.popleft().reply
            kept.append(replace(operation, ending=Ending.ANSWERED, answer=reply))
    return History(operations=tuple(kept), notes=history.notes)


def _likeness(request: Request) -> object:
    if request.client != NO_CLIENT:
        return (request.client, request.sequence)
    return request.operations


def calls_by_name(history: History) -> dict[Name, list[Call[KeyCall]]]:
    """Return the operations on each name: what can not exclude each other is apart."""
    calls: dict[Name, list[Call[KeyCall]]] = defaultdict(list)
    for operation in history.operations:
        for asked, answer in _parts(operation):
            place = place_of(asked.key)
            value = KeyCall(
                place=place,
                asked=asked,
                answer=answer,
                invoked_at_ms=operation.invoked_at_ms,
                returned_at_ms=None if operation.returned is None else operation.returned_at_ms,
            )
            calls[place.name].append(
                Call(
                    number=operation.number,
                    invoked=operation.invoked,
                    returned=operation.returned,
                    value=value,
                    is_certain=answer is not None,
                )
            )
    return calls


def _parts(operation: Operation) -> Iterator[tuple[Asked, Outcome | Seen | None]]:
    """Yield what an operation asked of keys, with each answer.

    Refused ones did nothing; an unknown read tells nothing; a read that is bound only to a floor
    may be old (``durability`` checks its floor). The parts of one request are taken as concurrent,
    which forbids less than their true order.
    """
    asked, answer = operation.asked, operation.answer
    if operation.ending is Ending.REFUSED:
        return
    if isinstance(asked, Read):
        if isinstance(answer, Seen) and asked.behind_barrier:
            yield asked, answer
        return
    outcomes: tuple[Outcome | None, ...] = (None,) * len(asked.operations)
    if answer is not None and not isinstance(answer, Seen):
        outcomes = answer.outcomes
    for part, outcome in zip(asked.operations, outcomes, strict=True):
        if isinstance(part, Claim | CompleteClaim | FailClaim):
            yield part, outcome


def _violation(explanation: str, operations: tuple[int, ...]) -> Violation:
    return Violation(
        checker=Checker.LINEARIZABILITY, explanation=explanation, operations=operations
    )
