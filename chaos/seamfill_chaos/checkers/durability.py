"""Durability: what was acknowledged is in the committed log, once, and was answered from there.

Owns the comparison of what callers heard with what was committed, by session identity or, without
one, by the reply's rev; and the order in time of the revisions that callers heard. Must not know
nodes. Promises checked:

* every acknowledged operation is in the log with one effect, the same operations and outcomes
* a revision belongs to one operation
* a refused operation (a definite no) is not in the log
* an operation that began after another was answered has a higher rev; a read behind a barrier is
  not older than that, and no read is older than its floor
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from seamfill_chaos.checkers.replay import CommittedRequest
from seamfill_chaos.checkers.violation import Checker, Violation
from seamfill_chaos.history import Ending, History, Operation, Read, Seen
from seamfill_coordinator.machine.commands import NO_CLIENT, Request
from seamfill_coordinator.machine.outcomes import Outcome, Rejected, RejectReason, Reply

__all__ = ["check_durability", "whole_outcome"]

MAX_VIOLATIONS: Final = 100
_WITHOUT_EFFECT: Final = frozenset(
    {
        RejectReason.SESSION_UNKNOWN,
        RejectReason.UNKNOWN_COMMAND,
        RejectReason.INVALID,
        RejectReason.LIMIT_EXCEEDED,
    }
)
"""Refusals that the machine gives before anything is applied, hence without a rev of their own."""

Identity = tuple[int, int]


def whole_outcome(outcome: Outcome) -> object:
    """Tell all of an outcome, as a caller of the Python interface sees it."""
    return outcome


def check_durability(
    history: History,
    committed: Iterable[CommittedRequest],
    *,
    told: Callable[[Outcome], object] = whole_outcome,
) -> list[Violation]:
    """Compare all answers with the log. ``told`` picks what of an outcome its caller could see, for
    doors that do not pass all of it on."""
    comparison = _Comparison(history, list(committed), told)
    found = [*comparison.acknowledged(), *comparison.refused(), *_order(history)]
    return found[:MAX_VIOLATIONS]


class _Comparison:
    """The history beside the log."""

    def __init__(
        self,
        history: History,
        committed: list[CommittedRequest],
        told: Callable[[Outcome], object],
    ) -> None:
        self._operations = history.operations
        self._told = told
        self._by_identity: dict[Identity, list[CommittedRequest]] = defaultdict(list)
        self._by_rev: dict[int, CommittedRequest] = {}
        for done in committed:
            if done.request.client != NO_CLIENT:
                identity = (done.request.client, done.request.sequence)
                self._by_identity[identity].append(done)
            if done.has_effect:
                self._by_rev[done.reply.rev] = done

    def acknowledged(self) -> Iterator[Violation]:
        heard: dict[int, Operation] = {}
        for operation in self._operations:
            asked, reply = operation.asked, operation.answer
            if not isinstance(asked, Request) or not isinstance(reply, Reply):
                continue
            if asked.client != NO_CLIENT:
                yield from self._with_identity(operation, asked, reply)
                continue
            yield from self._by_its_rev(operation, asked, reply)
            other = heard.setdefault(reply.rev, operation)
            if other is not operation and not _is_without_effect(reply):
                yield _violation(
                    f"{other.name} and {operation.name} were both answered with rev {reply.rev}",
                    (other, operation),
                )

    def refused(self) -> Iterator[Violation]:
        alive = {
            (operation.asked.client, operation.asked.sequence)
            for operation in self._operations
            if operation.ending is not Ending.REFUSED and isinstance(operation.asked, Request)
        }
        for operation in self._operations:
            asked = operation.asked
            if operation.ending is not Ending.REFUSED or not isinstance(asked, Request):
                continue
            identity = (asked.client, asked.sequence)
            if asked.client == NO_CLIENT or identity in alive:
                continue
            for done in self._by_identity.get(identity, ()):
                yield _violation(
                    f"{operation.name} was refused ({operation.why}) and was committed all the "
                    f"same, at rev {done.reply.rev}",
                    (operation,),
                    done,
                )

    def _with_identity(
        self, operation: Operation, asked: Request, reply: Reply
    ) -> Iterator[Violation]:
        seen = self._by_identity.get((asked.client, asked.sequence), [])
        effects = [done for done in seen if done.has_effect]
        if len(effects) > 1:
            yield _violation(
                f"{operation.name} took effect {len(effects)} times", (operation,), *effects
            )
        if effects:
            yield from self._differences(operation, asked, reply, effects[0])
        elif not any(self._is_same(reply, done.reply) for done in seen):
            yield _violation(
                f"{operation.name} was acknowledged and is lost: {reply}", (operation,)
            )

    def _by_its_rev(
        self, operation: Operation, asked: Request, reply: Reply
    ) -> Iterator[Violation]:
        done = self._by_rev.get(reply.rev)
        if done is not None and done.request.operations == asked.operations:
            yield from self._differences(operation, asked, reply, done)
        elif not _is_without_effect(reply):
            instead = "nothing" if done is None else str(done.request.operations)
            yield _violation(
                f"{operation.name} was acknowledged and is lost: at its rev {reply.rev} there is "
                f"{instead}",
                (operation,),
            )

    def _differences(
        self, operation: Operation, asked: Request, reply: Reply, done: CommittedRequest
    ) -> Iterator[Violation]:
        if done.request.operations != asked.operations:
            yield _violation(
                f"{operation.name} asked {asked.operations}; under its identity "
                f"{done.request.operations} was committed",
                (operation,),
                done,
            )
        elif not self._is_same(reply, done.reply):
            yield _violation(
                f"{operation.name} was answered {reply}; the log gives {done.reply}",
                (operation,),
                done,
            )

    def _is_same(self, one: Reply, other: Reply) -> bool:
        if one.rev != other.rev:
            return False
        # Equal outcomes, as nearly all are, are told alike whatever is told of them.
        if one.outcomes == other.outcomes:
            return True
        mine, theirs = (tuple(map(self._told, reply.outcomes)) for reply in (one, other))
        return mine == theirs


def _order(history: History) -> Iterator[Violation]:
    """Yield operations that were answered from before what was known when they began."""
    ends = sorted(
        (operation.returned, operation.answer.rev, operation.number)
        for operation in history.operations
        if operation.returned is not None and operation.answer is not None
    )
    names = {operation.number: operation for operation in history.operations}
    newest_rev, newest, at = -1, 0, 0
    for began, operation in _beginnings(history):
        while at < len(ends) and ends[at][0] < began:
            if ends[at][1] > newest_rev:
                _, newest_rev, newest = ends[at]
            at += 1
        if newest and _is_older(operation, newest_rev):
            assert operation.answer is not None
            yield _violation(
                f"{operation.name} began after {names[newest].name} had been answered with rev "
                f"{newest_rev}, and was answered with rev {operation.answer.rev}",
                (names[newest], operation),
            )
        if isinstance(operation.asked, Read) and isinstance(operation.answer, Seen):
            read, seen = operation.asked, operation.answer
            if seen.rev < read.floor_rev:
                yield _violation(
                    f"{operation.name} read rev {seen.rev}, below its floor {read.floor_rev}",
                    (operation,),
                )


def _beginnings(history: History) -> list[tuple[int, Operation]]:
    """Return all operations, each with the first use of its identity, in that order.

    A caller may repeat a request as an operation of its own; it is answered as the first one was.
    """
    first: dict[Identity, int] = {}
    began: list[tuple[int, Operation]] = []
    for operation in history.operations:
        asked, at = operation.asked, operation.invoked
        if isinstance(asked, Request) and asked.client != NO_CLIENT:
            at = first.setdefault((asked.client, asked.sequence), at)
        began.append((at, operation))
    return sorted(began, key=lambda pair: pair[0])


def _is_older(operation: Operation, known_rev: int) -> bool:
    match operation.asked, operation.answer:
        case Read(behind_barrier=True), Seen(rev=rev):
            return rev < known_rev
        case Request(), Reply(rev=rev) as reply:
            # An effect comes after everything that was known when it was asked for.
            return rev < known_rev if _is_without_effect(reply) else rev <= known_rev
    return False


def _is_without_effect(reply: Reply) -> bool:
    return all(
        isinstance(outcome, Rejected) and outcome.reason in _WITHOUT_EFFECT
        for outcome in reply.outcomes
    )


def _violation(
    explanation: str, operations: Iterable[Operation], *done: CommittedRequest
) -> Violation:
    return Violation(
        checker=Checker.DURABILITY,
        explanation=explanation,
        operations=tuple(operation.number for operation in operations),
        indexes=tuple(entry.index for entry in done),
    )
