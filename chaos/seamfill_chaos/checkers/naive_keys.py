"""A second opinion on claims and sessions: plain dicts, written from lease-machine.md alone.

Owns what each claim of the contended keys must have been answered, by the time that the log itself
tells. Takes nothing of the machine but the shapes of commands and outcomes, since a model that
shared its code would share its faults, and the deliberate bugs of the canaries too.

What it does not know: table limits, more than 1,000 expiries at once. Of operations outside claims
and sessions it counts the revision and believes what the machine said of fences, as long as those
grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from seamfill_chaos.checkers.places import Place, place_of
from seamfill_coordinator.machine import commands as c
from seamfill_coordinator.machine import outcomes as o
from seamfill_coordinator.machine.outcomes import Rejected, RejectReason

__all__ = ["NaiveKeys"]

STEP_CAP_MS: Final = 2_000
TTL_DEFAULT_MS: Final = 120_000
TTL_MIN_MS: Final = 1_000
TTL_MAX_MS: Final = 600_000
DONE_REFUSES_MS: Final = 10_000
SESSION_IDLE_MS: Final = 600_000
SESSION_SPAN: Final = 256


@dataclass(frozen=True, slots=True)
class _Claim:
    key: str
    token: str
    holder: str
    deadline_ms: int


@dataclass(slots=True)
class _Session:
    used_ms: int
    low: int = 0
    kept: dict[int, o.Reply] = field(default_factory=dict)


class NaiveKeys:
    """The model. ``apply`` each command of the log in order, with what the machine answered."""

    def __init__(self) -> None:
        self.clock_ms = 0
        self.rev = 0
        self.expired = 0
        self._term = 0
        self._reign_ms = 0
        self._version = 1
        self._fence = 0
        self._claims: dict[Place, _Claim] = {}
        self._done_ms: dict[tuple[str, ...], dict[Place, int]] = {}
        """Name → place → when it was completed last."""
        self._clients = 0
        self._sessions: dict[int, _Session] = {}

    def apply(self, command: c.Command, told: Sequence[o.Reply]) -> Iterator[str]:
        """Yield what is wrong with the replies ``told``; go on from what they should have been."""
        if len(told) != len(command.requests):
            yield f"{len(told)} replies to {len(command.requests)} requests"
            return
        if command.version == self._version:
            self._tick(command.stamp)
        for request, reply in zip(command.requests, told, strict=True):
            if command.version != self._version:
                due = self._refuse(request, RejectReason.UNKNOWN_COMMAND)
            else:
                due = self._request(request, reply)
            yield from _differences(due, reply)

    def _tick(self, stamp: c.Stamp) -> None:
        if stamp.term > self._term:
            self._term, self._reign_ms = stamp.term, stamp.reign_ms
        elif stamp.term == self._term and stamp.reign_ms > self._reign_ms:
            self.clock_ms += min(STEP_CAP_MS, stamp.reign_ms - self._reign_ms)
            self._reign_ms = stamp.reign_ms
        over = [at for at, claim in self._claims.items() if claim.deadline_ms <= self.clock_ms]
        for place in over:
            del self._claims[place]
        self.expired += len(over)
        idle_since_ms = self.clock_ms - SESSION_IDLE_MS
        idle = [client for client, s in self._sessions.items() if s.used_ms <= idle_since_ms]
        for client in idle:
            del self._sessions[client]

    # Sessions

    def _request(self, request: c.Request, told: o.Reply) -> o.Reply:
        if request.client == c.NO_CLIENT:
            return self._operations(request, told)
        session = self._sessions.get(request.client)
        if session is None:
            return self._refuse(request, RejectReason.SESSION_UNKNOWN)
        session.used_ms = self.clock_ms
        if request.low > session.low:
            session.low = request.low
            session.kept = {at: reply for at, reply in session.kept.items() if at >= session.low}
        if request.sequence < session.low:
            return self._refuse(request, RejectReason.SESSION_UNKNOWN)
        if request.sequence >= session.low + SESSION_SPAN:
            return self._refuse(request, RejectReason.INVALID)
        kept = session.kept.get(request.sequence)
        if kept is not None:
            return o.Reply(outcomes=kept.outcomes, rev=kept.rev, repeated=True)
        reply = self._operations(request, told)
        session.kept[request.sequence] = reply
        return reply

    def _refuse(self, request: c.Request, reason: RejectReason) -> o.Reply:
        refusals = (Rejected(reason=reason),) * max(1, len(request.operations))
        return o.Reply(outcomes=refusals, rev=self.rev)

    # Operations

    def _operations(self, request: c.Request, told: o.Reply) -> o.Reply:
        outcomes: list[o.Outcome] = []
        for at, operation in enumerate(request.operations):
            self.rev += 1
            heard = told.outcomes[at] if at < len(told.outcomes) else None
            outcomes.append(self._operation(operation, heard))
        return o.Reply(outcomes=tuple(outcomes), rev=self.rev)

    def _operation(self, operation: c.Operation, heard: o.Outcome | None) -> o.Outcome:
        match operation:
            case c.OpenSession():
                self._clients += 1
                self._sessions[self._clients] = _Session(used_ms=self.clock_ms)
                return o.Opened(client=self._clients, expires_after_ms=SESSION_IDLE_MS)
            case c.Barrier():
                return o.Done()
            case c.Claim():
                return self._claim(operation)
            case c.CompleteClaim(key=key, token=token):
                return self._finish(key, token, is_done=True)
            case c.FailClaim(key=key, token=token):
                return self._finish(key, token, is_done=False)
        return self._believe(operation, heard)

    def _believe(self, operation: c.Operation, heard: o.Outcome | None) -> o.Outcome:
        if heard is None:
            return _impossible("there is no outcome")
        if isinstance(operation, c.SetVersion) and isinstance(heard, o.Done):
            self._version = operation.version
        if isinstance(heard, o.Granted):
            for grant in heard.grants:
                if grant.fence <= self._fence:
                    return _impossible(f"fence {grant.fence} was issued after {self._fence}")
                self._fence = grant.fence
        return heard

    def _claim(self, claim: c.Claim) -> o.Outcome:
        if not claim.key or claim.key.startswith("native:") or claim.lease_ms < 0:
            return Rejected(reason=RejectReason.INVALID)
        place = place_of(claim.key)
        refusal = self._held(place)
        if refusal is not None:
            return refusal
        ttl_ms = min(max(claim.lease_ms or TTL_DEFAULT_MS, TTL_MIN_MS), TTL_MAX_MS)
        self._fence += 1
        token = str(self._fence)
        self._claims[place] = _Claim(claim.key, token, claim.holder, self.clock_ms + ttl_ms)
        return o.Claimed(token=token, ttl_ms=ttl_ms, completion_ratio=self._ratio(place))

    def _held(self, place: Place) -> Rejected | None:
        """Say who or what forbids this claim: of several, the one that lasts longest."""
        live = sorted([at for at in self._claims if at.overlaps(place)])
        if live:
            last = max((self._claims[at] for at in live), key=lambda claim: claim.deadline_ms)
            return self._wait(last.deadline_ms, last.holder or last.key)
        done = self._done_ms.get(place.name, {})
        quiet_ms = [at_ms for at, at_ms in done.items() if at.overlaps(place)]
        if quiet_ms and self.clock_ms < max(quiet_ms) + DONE_REFUSES_MS:
            return self._wait(max(quiet_ms) + DONE_REFUSES_MS, None)
        return None

    def _wait(self, until_ms: int, holder: str | None) -> Rejected:
        wait_ms = until_ms - self.clock_ms
        return Rejected(reason=RejectReason.HELD, retry_after_ms=wait_ms, holder=holder)

    def _finish(self, key: str, token: str, *, is_done: bool) -> o.Outcome:
        if not token:
            return Rejected(reason=RejectReason.INVALID)
        place = place_of(key)
        held = self._claims.get(place)
        if held is None:
            return Rejected(reason=RejectReason.NOT_FOUND)
        if held.token != token:
            return Rejected(reason=RejectReason.STALE_FENCE, holder=held.holder or None)
        del self._claims[place]
        if is_done:
            self._done_ms.setdefault(place.name, {})[place] = self.clock_ms
        return o.ClaimFinished(completion_ratio=self._ratio(place))

    def _ratio(self, place: Place) -> float:
        """Return the share of the place that was ever completed."""
        done_s, reached_s = 0, place.start_s
        for other in sorted(self._done_ms.get(place.name, ())):
            start_s = max(other.start_s, reached_s)
            stop_s = min(other.stop_s, place.stop_s)
            done_s += max(stop_s - start_s, 0)
            reached_s = max(reached_s, stop_s)
        return done_s / (place.stop_s - place.start_s)


def _impossible(why: str) -> Rejected:
    # No outcome of the machine has this text, so that it always shows as a difference.
    return Rejected(reason=RejectReason.INVALID, detail=why, field="model")


def _differences(due: o.Reply, told: o.Reply) -> Iterator[str]:
    if due == told:
        return
    if (due.rev, due.repeated) != (told.rev, told.repeated):
        yield (
            f"the reply says rev {told.rev}, repeated {told.repeated}; "
            f"it should be rev {due.rev}, repeated {due.repeated}"
        )
    if len(due.outcomes) != len(told.outcomes):
        yield f"{len(told.outcomes)} outcomes instead of {len(due.outcomes)}"
        return
    for mine, theirs in zip(due.outcomes, told.outcomes, strict=True):
        if _essence(mine) != _essence(theirs):
            yield f"answered {theirs}; it should have been {mine}"


def _essence(outcome: o.Outcome) -> object:
    """What of an outcome two implementations must agree on: all but the wording."""
    if not isinstance(outcome, Rejected):
        return outcome
    if outcome.reason is RejectReason.INVALID and outcome.field == "model":
        return (outcome.reason, outcome.detail)
    return (outcome.reason, outcome.retry_after_ms, outcome.holder)
