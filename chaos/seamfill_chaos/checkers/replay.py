"""Replay: the committed log, applied again in order, must give what the nodes had and said.

Owns the judgement of the log as a whole, in linear time and for any length: state digests of the
nodes against the real machine's, every outcome on contended keys against a naive model that shares
no code with it, one effect per session identity. What it returns, the committed requests with their
replies, is what an acknowledgement is compared with. Must not know clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Struct

from seamfill_chaos.checkers.naive_keys import NaiveKeys
from seamfill_chaos.checkers.violation import Checker, Violation
from seamfill_coordinator.machine.commands import NO_CLIENT, Command, Request
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Claimed, Rejected, RejectReason, Reply

__all__ = ["CommittedRequest", "Moments", "Replay", "replay"]

MAX_VIOLATIONS: Final = 100


class CommittedRequest(Struct, frozen=True, kw_only=True):
    """One request of the log and its reply there. ``rev_before`` is the machine's before it."""

    index: int
    request: Request
    reply: Reply
    rev_before: int

    @property
    def has_effect(self) -> bool:
        """Whether it was applied, not answered from a session or refused by one."""
        return not self.reply.repeated and self.reply.rev > self.rev_before


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What the log met. A run in which nothing of interest happened proved nothing."""

    requests: int = 0
    grants: int = 0
    held: int = 0
    stale_refused: int = 0
    expired: int = 0
    repeated: int = 0
    terms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The log applied again."""

    requests: tuple[CommittedRequest, ...]
    violations: tuple[Violation, ...]
    moments: Moments


def replay(
    commands: Mapping[int, bytes],
    digests: Mapping[int, str],
    *,
    terms: Mapping[int, int] | None = None,
) -> Replay:
    """Apply all ``commands`` in order of their index; compare ``digests`` (index → state digest).

    The log must be whole from its first command on: it is the union of what the nodes applied.
    With ``terms`` (index → term of the entry) the stamps are compared with them.
    """
    player = _Player(digests, terms or {})
    for index in sorted(commands):
        player.play(index, commands[index])
    return player.finish()


class _Player:
    """The machine, the model, and what was found so far."""

    def __init__(self, digests: Mapping[int, str], terms: Mapping[int, int]) -> None:
        self._entry_terms = terms
        self._machine = LeaseMachine()
        self._model = NaiveKeys()
        self._decoder = msgspec.msgpack.Decoder(Command)
        self._digest_points = sorted(digests.items(), reverse=True)
        self._requests: list[CommittedRequest] = []
        self._effects: dict[tuple[int, int], CommittedRequest] = {}
        self._violations: list[Violation] = []
        self._terms: set[int] = set()

    def play(self, index: int, encoded: bytes) -> None:
        self._check_digests(before=index)
        try:
            command = self._decoder.decode(encoded)
        except msgspec.MsgspecError as exc:
            self._found(f"the command can not be read: {exc}", index)
            return
        self._check_term(index, command.stamp.term)
        rev = self._machine.rev
        replies = self._machine.apply(command).replies
        for difference in self._model.apply(command, replies):
            self._found(difference, index)
        for request, reply in zip(command.requests, replies, strict=True):
            done = CommittedRequest(index=index, request=request, reply=reply, rev_before=rev)
            rev = rev if reply.repeated else max(rev, reply.rev)
            self._requests.append(done)
            self._check_once(done)

    def finish(self) -> Replay:
        self._check_digests(before=None)
        return Replay(
            requests=tuple(self._requests),
            violations=tuple(self._violations[:MAX_VIOLATIONS]),
            moments=self._moments(),
        )

    def _check_digests(self, before: int | None) -> None:
        """Compare at the points that lie before the next command; at all of them in the end."""
        points = self._digest_points
        while points and (before is None or points[-1][0] < before):
            index, theirs = points.pop()
            mine = self._machine.state_digest()
            if mine != theirs:
                self._found(
                    f"the nodes' state after index {index} is {theirs[:16]}; "
                    f"replaying the log gives {mine[:16]}",
                    index,
                )

    def _check_term(self, index: int, stamped: int) -> None:
        self._terms.add(stamped)
        term = self._entry_terms.get(index, stamped)
        if term != stamped:
            self._found(
                f"the command is stamped with term {stamped} and stands in the log of term {term}",
                index,
            )

    def _check_once(self, done: CommittedRequest) -> None:
        request = done.request
        if request.client == NO_CLIENT or not done.has_effect:
            return
        first = self._effects.setdefault((request.client, request.sequence), done)
        if first is not done:
            self._found(
                f"sequence {request.sequence} of client {request.client} took effect twice, "
                f"at rev {first.reply.rev} and {done.reply.rev}",
                first.index,
                done.index,
            )

    def _moments(self) -> Moments:
        outcomes = [out for done in self._requests for out in done.reply.outcomes]
        return Moments(
            requests=len(self._requests),
            grants=sum(isinstance(outcome, Claimed) for outcome in outcomes),
            held=_count(outcomes, RejectReason.HELD),
            stale_refused=_count(outcomes, RejectReason.STALE_FENCE),
            expired=self._model.expired,
            repeated=sum(done.reply.repeated for done in self._requests),
            terms=len(self._terms),
        )

    def _found(self, explanation: str, *indexes: int) -> None:
        self._violations.append(
            Violation(checker=Checker.REPLAY, explanation=explanation, indexes=indexes)
        )


def _count(outcomes: Iterable[object], reason: RejectReason) -> int:
    return sum(isinstance(out, Rejected) and out.reason is reason for out in outcomes)
