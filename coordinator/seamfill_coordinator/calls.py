"""One client call as a value: what came in, what it asks of the machine, what is answered.

Owns the shapes between the HTTP edge and the service: ``Incoming``, ``Answer`` and the two kinds of
endpoint, ``Mutation`` (becomes operations in the log) and ``Read`` (a view behind a barrier). Must
not know aiohttp or Raft: the same table can serve another front door.

Invariants: the functions in a ``Mutation`` or ``Read`` are pure; an ``Answer`` holds either a body
made here or the bytes that the leader sent, never both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

import msgspec
from msgspec import Struct

from seamfill_coordinator.machine.commands import Operation
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Reply

__all__ = [
    "Answer",
    "Identity",
    "Incoming",
    "Mutation",
    "Read",
    "StateStamp",
    "Undo",
    "Wake",
]

T = TypeVar("T", bound=Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks, and which of its requests this is: makes a repetition recognisable."""

    client: int
    sequence: int
    low: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateStamp:
    """Which state an answer speaks of; sent as headers with every answer."""

    rev: int
    term: int
    leader: str | None = None
    leader_url: str | None = None
    recovery: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A decoded and validated request, with what is needed to send it on unchanged.

    ``is_client_gone`` tells whether the answer can still reach anybody.
    """

    method: str
    target: str
    """Path and query as received; what a proxied request asks for again."""
    raw: bytes = b""
    body: Struct | None = None
    query: Struct | None = None
    path: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None
    rev_floor: int = 0
    recovery: int | None = None
    """Under which recovery number the floor was seen."""
    if_none_match: str | None = None
    proxied_by: str | None = None
    is_abandoned: bool = False
    """A node gives back a grant that its client never heard of."""
    remote: str = ""
    arrived_wall_ms: int = 0
    is_client_gone: Callable[[], bool] = lambda: False

    def body_as(self, kind: type[T]) -> T:
        """Return the body, which the route table promises to be of this kind."""
        assert isinstance(self.body, kind)
        return self.body

    def query_as(self, kind: type[T]) -> T:
        """Return the query, which the route table promises to be of this kind."""
        assert isinstance(self.query, kind)
        return self.query


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status with a body: made here (``body``) or relayed from the leader (``payload``)."""

    status: int
    body: Struct | None = None
    payload: bytes | None = None
    retry_after_ms: int | None = None
    etag: str | None = None
    stamp: StateStamp | None = None

    def peek(self, kind: type[T]) -> T | None:
        """Return the body as ``kind``, or None when it is something else."""
        if self.payload is None:
            return self.body if isinstance(self.body, kind) else None
        try:
            return msgspec.json.decode(self.payload, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def stamped(self, stamp: StateStamp) -> Answer:
        """Return the same answer, saying which state it speaks of."""
        return replace(self, stamp=stamp)


class Wake(StrEnum):
    """What may make a refused request succeed: the first word of an event's name."""

    WORK = "work"
    """Windows may have become eligible."""
    CLAIM = "claim"
    """A compatibility lease has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """The call that gives a grant back."""

    mutation: Mutation
    target: str
    body: Struct


def _never_hold(incoming: Incoming, answer: Answer, waited_ms: int) -> int | None:
    return None


def _always_ripe(incoming: Incoming, machine: LeaseMachine, waited_ms: int) -> int | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A call that goes through the log.

    ``hold`` returns how long it is worth waiting before asking again, or None to answer now.
    ``ripe`` is asked *before* the first attempt when the identity is the client's own, under which
    only one attempt counts: how long it is worth waiting first, or None to ask now.
    ``undo`` is set for grants: it returns the call that gives an answer's grant back, if it has
    one. ``reads_state``: the operations depend on the machine's state, so a barrier comes first.
    """

    operations: Callable[[Incoming, LeaseMachine], tuple[Operation, ...]]
    answer: Callable[[Incoming, Reply, LeaseMachine], Answer]
    hold: Callable[[Incoming, Answer, int], int | None] = _never_hold
    ripe: Callable[[Incoming, LeaseMachine, int], int | None] = _always_ripe
    wake: Wake | None = None
    undo: Callable[[Incoming, Answer], Undo | None] | None = None
    reads_state: bool = False
    needs_session: bool = True
    """False only for opening one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A call that only looks: a view of the leader's machine behind a barrier."""

    view: Callable[[Incoming, LeaseMachine], Answer]
