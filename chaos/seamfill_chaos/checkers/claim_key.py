"""One contended key as a lock that expires, and a history's operations on it.

Owns the sequential specification of claims (lease-machine.md, Compatibility leases) for one opaque
key, and the linearizability of a whole history key by key. Trusts nothing but the answers. Must not
know the log; ``resolve`` alone looks at what was committed, to tell what unknown outcomes were.

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

Expiry is assumed only when an answer needs a free key. Assuming it earlier gains nothing: until
then every answer is the one that the live claim gives.

The lease clock never runs faster than true time, but it is read in whole milliseconds once a term:
``SLACK_MS`` covers those roundings and the ones of the history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec.structs import replace

from seamfill_chaos.checkers.linearizability import (
    DEFAULT_BUDGET,
    Call,
    Finding,
    search,
)
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
)

__all__ = ["ClaimKey", "KeyCall", "KeyState", "check_linearizability", "resolve"]

SLACK_MS: Final = 20
"""Two roundings a term; more than ten changes of leader inside one ttl would need more."""
TTL_DEFAULT_MS: Final = 120_000
TTL_MIN_MS: Final = 1_000
TTL_MAX_MS: Final = 600_000
DONE_REFUSES_MS: Final = 10_000
_HIDDEN: Final = -1
"""The token of a grant that nobody was told of."""
_FOREVER: Final = 1 << 62

Asked = Claim | CompleteClaim | FailClaim | Read


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCall:
    """One operation on the key. ``answer`` None: nobody knows what it was, if it took place."""

    asked: Asked
    answer: Outcome | Seen | None
    invoked_at_ms: int
    returned_at_ms: int | None

    @property
    def latest_ms(self) -> int:
        # Rounded down in the history: it may have ended up to a millisecond later.
        return _FOREVER if self.returned_at_ms is None else self.returned_at_ms + 1


class KeyState(NamedTuple):
    """Who holds the key since the last operation, at the least time this can be.

    ``token`` None: nobody. ``expires_ms``: not before that does the claim end by itself.
    ``quiet_ms``: after a completion, not before that is the key granted again. ``last_token``: the
    highest that was granted as far as is known.
    """

    now_ms: int = 0
    token: int | None = None
    holder: str = ""
    expires_ms: int = 0
    quiet_ms: int | None = None
    last_token: int = 0


class ClaimKey:
    """The specification. ``abandons_unknown``: a node may undo a grant that nobody heard of, as the
    HTTP service does; then such a claim may end at once."""

    def __init__(self, *, abandons_unknown: bool = False) -> None:
        self._abandons_unknown = abandons_unknown

    def initial(self) -> KeyState:
        return KeyState()

    def step(self, state: KeyState, value: KeyCall) -> KeyState | None:
        now = state._replace(now_ms=max(state.now_ms, value.invoked_at_ms))
        then = self._apply(now, value)
        if then is None or then.now_ms > value.latest_ms:
            return None
        return then

    def _apply(self, state: KeyState, call: KeyCall) -> KeyState | None:
        match call.asked, call.answer:
            case Claim() as claim, Claimed(token=token, ttl_ms=ttl_ms):
                return _granted(state, claim, int(token), ttl_ms)
            case Claim() as claim, None:
                ttl_ms = 0 if self._abandons_unknown else _ttl_ms(claim)
                return _granted(state, claim, _HIDDEN, ttl_ms)
            case Claim(), Rejected(reason=RejectReason.HELD) as refusal:
                return _held(state, refusal)
            case (CompleteClaim() | FailClaim()) as finish, ClaimFinished() | None:
                return _finished(state, finish)
            case (CompleteClaim() | FailClaim()) as finish, Rejected() as refusal:
                return _not_finished(state, finish, refusal)
            case Read(), Seen(token=None):
                return _freed(state)
            case Read(), Seen(token=str(token)):
                return _bound(state, int(token))
            case Claim(), Rejected():
                return state  # a definite no for another reason: no effect, and no knowledge
        return None  # an answer that this operation never has


def _granted(state: KeyState, claim: Claim, token: int, ttl_ms: int) -> KeyState | None:
    free = _freed(state)
    if token != _HIDDEN and token <= free.last_token:
        return None
    now_ms = max(free.now_ms, free.quiet_ms or 0)
    return KeyState(
        now_ms=now_ms,
        token=token,
        holder=claim.holder or claim.key,
        expires_ms=now_ms + max(0, ttl_ms - SLACK_MS),
        last_token=max(token, free.last_token),
    )


def _held(state: KeyState, refusal: Rejected) -> KeyState | None:
    if state.token is None:
        # Done a moment ago, by a clock that may have stood still since; that names no holder.
        return state if state.quiet_ms is not None and refusal.holder is None else None
    # Not every door tells the holder.
    return state if refusal.holder in (None, state.holder) else None


def _finished(state: KeyState, finish: CompleteClaim | FailClaim) -> KeyState | None:
    bound = _bound(state, int(finish.token))
    if bound is None:
        return None
    quiet_ms = None
    if isinstance(finish, CompleteClaim):
        quiet_ms = bound.now_ms + DONE_REFUSES_MS - SLACK_MS
    return KeyState(now_ms=bound.now_ms, quiet_ms=quiet_ms, last_token=bound.last_token)


def _not_finished(
    state: KeyState, finish: CompleteClaim | FailClaim, refusal: Rejected
) -> KeyState | None:
    match refusal.reason:
        case RejectReason.NOT_FOUND:
            return _freed(state)
        case RejectReason.STALE_FENCE:
            is_other = state.token is not None and state.token != int(finish.token)
            knows = refusal.holder in (None, state.holder)
            return state if is_other and knows else None
    return state


def _bound(state: KeyState, token: int) -> KeyState | None:
    """Return the state in which ``token`` holds the key; a hidden grant may turn out to be it."""
    if state.token == token:
        return state
    if state.token == _HIDDEN and token > state.last_token:
        return state._replace(token=token, last_token=token)
    return None


def _freed(state: KeyState) -> KeyState:
    """Return the state in which nobody holds the key, waiting for expiry if somebody does."""
    if state.token is None:
        return state
    return KeyState(now_ms=max(state.now_ms, state.expires_ms), last_token=state.last_token)


def _ttl_ms(claim: Claim) -> int:
    return min(max(claim.lease_ms or TTL_DEFAULT_MS, TTL_MIN_MS), TTL_MAX_MS)


# Histories


def check_linearizability(
    history: History,
    *,
    abandons_unknown: bool = False,
    resolved: Callable[[], History] | None = None,
    budget: int = DEFAULT_BUDGET,
) -> list[Violation]:
    """Search each key of the history; one that can not be decided is a violation too.

    Answers alone are believed. Only where they leave too many possibilities, ``resolved`` is asked
    for a history in which unknown outcomes were looked up (``resolve``). Keys must be opaque (no
    colon): ranges that overlap are not one object.
    """
    specification = ClaimKey(abandons_unknown=abandons_unknown)
    violations: list[Violation] = []
    looked_up: dict[str, list[Call[KeyCall]]] | None = None
    for key, calls in sorted(_calls_by_key(history).items()):
        if ":" in key:
            violations.append(_violation(f"key {key!r}: ranges can not be checked one by one", ()))
            continue
        verdict = search(calls, specification, budget=budget)
        if verdict.finding is Finding.UNDECIDED and resolved is not None:
            looked_up = looked_up if looked_up is not None else _calls_by_key(resolved())
            verdict = search(looked_up.get(key, []), specification, budget=budget)
        if verdict.finding is not Finding.LINEARIZABLE:
            told = f"key {key!r}: {verdict.explain()}"
            violations.append(_violation(told, verdict.order[-1:] + verdict.stuck))
    return violations


def resolve(history: History, committed: Iterable[CommittedRequest]) -> History:
    """Return the history with unknown outcomes looked up in the committed log.

    Only for a run that is over, with a log that holds all of it: what is not there never happened.
    Operations without a session identity can not be found and stay unknown. One that is found has
    its answer, and still no known end.
    """
    found = {
        (done.request.client, done.request.sequence): done
        for done in committed
        if done.has_effect and done.request.client != NO_CLIENT
    }
    kept: list[Operation] = []
    for operation in history.operations:
        asked = operation.asked
        can_be_found = isinstance(asked, Request) and asked.client != NO_CLIENT
        if operation.ending is not Ending.UNKNOWN or not can_be_found:
            kept.append(operation)
            continue
        assert isinstance(asked, Request)
        done = found.get((asked.client, asked.sequence))
        if done is not None:
            kept.append(replace(operation, ending=Ending.ANSWERED, answer=done.reply))
    return History(operations=tuple(kept), notes=history.notes)


def _calls_by_key(history: History) -> dict[str, list[Call[KeyCall]]]:
    calls: dict[str, list[Call[KeyCall]]] = defaultdict(list)
    for operation in history.operations:
        for asked, answer in _parts(operation):
            value = KeyCall(
                asked=asked,
                answer=answer,
                invoked_at_ms=operation.invoked_at_ms,
                returned_at_ms=None if operation.returned is None else operation.returned_at_ms,
            )
            calls[asked.key].append(
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
