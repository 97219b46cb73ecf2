"""What callers asked and what they heard, in order: all that the checkers know of a run's outside.

Owns the record of operations: append it while the run goes on (``Recorder``), keep it as one JSON
line an event, read it back as ``History``. Must not know how an operation travels or whether an
answer is right. The simulator records in memory with virtual time; real processes write a file each
and the files are merged.

An operation ends in one of three ways that are never mixed: an answer, *refused* (certainly not
done), *unknown* (it may have taken effect, or still will). One that never ended is unknown. Trying
again under the same session identity is the same operation, and once an earlier try was in doubt a
refusal of a later one proves nothing: such an operation ends unknown.

Invariants: of one recorder's events the order in the file is the order of real time; each operation
is invoked once and ends at most once; a file cut off anywhere (its writer was killed) can be read
up to its last whole line. Times are whole milliseconds, rounded down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from seamfill.errors import InvalidInput
from seamfill_coordinator.machine.commands import Request
from seamfill_coordinator.machine.outcomes import Rejected, RejectReason, Reply

__all__ = [
    "Answered",
    "Ending",
    "Event",
    "History",
    "Invoked",
    "Note",
    "Operation",
    "Read",
    "Recorder",
    "Refused",
    "Retried",
    "Seen",
    "Sink",
    "Unknown",
    "load",
    "save",
]


class Read(Struct, frozen=True, kw_only=True):
    """Who holds a compatibility key? ``floor_rev``: the answer must not be older than that."""

    key: str
    floor_rev: int = 0
    behind_barrier: bool = True
    """Whether the answer has to be linearizable; else it is only bound to the floor."""


class Seen(Struct, frozen=True, kw_only=True):
    """The answer to a read: the live claim's token, or None when nobody holds the key."""

    token: str | None
    rev: int


class _Event(Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    at_ms: int


class Invoked(_Event, frozen=True, tag="invoked"):
    """A caller begins an operation. Its number is unique within its recorder."""

    number: int
    caller: str
    node: str
    request: Request | None = None
    read: Read | None = None


class Retried(_Event, frozen=True, tag="retried"):
    """The same operation is sent again. ``in_doubt``: an earlier try may have taken effect."""

    number: int
    node: str
    in_doubt: bool


class Answered(_Event, frozen=True, tag="answered"):
    number: int
    reply: Reply | None = None
    seen: Seen | None = None


class Refused(_Event, frozen=True, tag="refused"):
    """Certainly not done: not the leader, overloaded, invalid."""

    number: int
    why: str


class Unknown(_Event, frozen=True, tag="unknown"):
    """The caller gave up; the operation may have taken effect, or still will."""

    number: int
    why: str


class Note(_Event, frozen=True, tag="note"):
    """Something else worth knowing when: a fault begins or ends, a node starts."""

    name: str
    facts: dict[str, str | int | float | bool | None] = {}


Event = Invoked | Retried | Answered | Refused | Unknown | Note


class Ending(StrEnum):
    """How an operation ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Operation(Struct, frozen=True, kw_only=True):
    """One operation from its first try to its end.

    ``invoked`` and ``returned`` are places in the history's order of events: one operation precedes
    another in real time exactly when its ``returned`` is below the other's ``invoked``. An unknown
    one never returns, whenever its caller gave up.
    """

    number: int
    caller: str
    asked: Request | Read
    nodes: tuple[str, ...]
    ending: Ending
    answer: Reply | Seen | None = None
    why: str = ""
    invoked: int
    returned: int | None
    invoked_at_ms: int
    returned_at_ms: int | None
    """When its caller heard the end of it; also of an unknown one."""

    @property
    def name(self) -> str:
        """Say which operation this is, for people."""
        return f"#{self.number} of {self.caller}"


class History(Struct, frozen=True, kw_only=True):
    """All of a run: operations by their beginning, notes by their time."""

    operations: tuple[Operation, ...]
    notes: tuple[Note, ...] = ()


class Sink(Protocol):
    """Where events go as they happen. A line must be with the system when ``write`` returns."""

    def write(self, data: bytes, /) -> object: ...


class Recorder:
    """One writer's record of operations. ``now_ms`` must never go back."""

    def __init__(self, now_ms: Callable[[], int], *, sink: Sink | None = None) -> None:
        """Write each event to ``sink`` at once: an unbuffered file outlives a kill of its writer
        (``path.open("ab", buffering=0)``)."""
        self._now_ms = now_ms
        self._sink = sink
        self._events: list[Event] = []
        self._open: dict[int, bool] = {}
        self._last_number = 0

    @property
    def events(self) -> Sequence[Event]:
        return self._events

    def invoke(self, caller: str, asked: Request | Read, *, node: str) -> int:
        """Begin an operation, before anything is sent; return its number."""
        self._last_number = number = self._last_number + 1
        self._open[number] = False
        request, read = (asked, None) if isinstance(asked, Request) else (None, asked)
        self._add(
            Invoked(
                at_ms=self._now_ms(),
                number=number,
                caller=caller,
                node=node,
                request=request,
                read=read,
            )
        )
        return number

    def retry(self, number: int, *, node: str, in_doubt: bool) -> None:
        """Send an operation again, under the same session identity if a try is in doubt."""
        self._open[number] |= in_doubt
        self._add(Retried(at_ms=self._now_ms(), number=number, node=node, in_doubt=in_doubt))

    def ok(self, number: int, answer: Reply | Seen) -> None:
        """End an operation with its answer.

        "This session is unknown" after a try in doubt tells nothing about that try.
        """
        if self._open.pop(number) and _is_session_unknown(answer):
            self._add(Unknown(at_ms=self._now_ms(), number=number, why="session unknown"))
        else:
            reply, seen = (answer, None) if isinstance(answer, Reply) else (None, answer)
            self._add(Answered(at_ms=self._now_ms(), number=number, reply=reply, seen=seen))

    def refused(self, number: int, why: str) -> None:
        """End an operation that was certainly not done by its last try."""
        is_in_doubt = self._open.pop(number)
        ending: type[Refused | Unknown] = Unknown if is_in_doubt else Refused
        self._add(ending(at_ms=self._now_ms(), number=number, why=why))

    def unknown(self, number: int, why: str) -> None:
        """Give an operation up without knowing."""
        del self._open[number]
        self._add(Unknown(at_ms=self._now_ms(), number=number, why=why))

    def note(self, name: str, **facts: str | int | float | bool | None) -> None:
        """Remember that something happened now."""
        self._add(Note(at_ms=self._now_ms(), name=name, facts=facts))

    def history(self) -> History:
        """Return what was recorded so far; operations still open are unknown."""
        return _assemble(self._events)

    def _add(self, event: Event) -> None:
        self._events.append(event)
        if self._sink is not None:
            self._sink.write(encode_event(event))


_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_DECODER: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """Return an event as one JSON line."""
    return _ENCODER.encode(event) + b"\n"


def save(path: Path, events: Iterable[Event]) -> None:
    """Write a file that ``load`` reads."""
    path.write_bytes(b"".join(encode_event(event) for event in events))


def load(*paths: Path) -> History:
    """Return the history of one file, or of several writers that share a clock.

    Between writers only milliseconds can be compared, so that what happened in the same one counts
    as concurrent. Raises ``InvalidInput`` for a line, but the last, that is no event.
    """
    records = [list(_read(path)) for path in paths]
    if len(records) == 1:
        return _assemble(records[0])
    return _assemble(_merged(records))


def _read(path: Path) -> Iterator[Event]:
    lines = path.read_bytes().split(b"\n")
    # Behind the last newline is nothing, or what a killed writer left of a line.
    for at, line in enumerate(lines[:-1], start=1):
        try:
            yield _DECODER.decode(line)
        except msgspec.MsgspecError as exc:
            raise InvalidInput("history", f"{path}:{at}: {exc}") from exc


def _merged(records: Sequence[Sequence[Event]]) -> list[Event]:
    """Return the events of all writers in one order, with numbers of their own."""
    events: list[Event] = []
    taken = 0
    for record in records:
        numbers = [event.number for event in record if isinstance(event, Invoked)]
        for event in record:
            if isinstance(event, Note):
                events.append(event)
            else:
                events.append(msgspec.structs.replace(event, number=event.number + taken))
        taken += max(numbers, default=0)
    return sorted(events, key=_merge_order)


def _merge_order(event: Event) -> tuple[int, bool]:
    # Beginnings first: two operations that touch in one millisecond overlap, which forbids less.
    return (event.at_ms, not isinstance(event, Invoked))


def _assemble(events: Sequence[Event]) -> History:
    began: dict[int, tuple[int, Invoked]] = {}
    nodes: dict[int, list[str]] = {}
    ended: dict[int, tuple[int, Answered | Refused | Unknown]] = {}
    notes: list[Note] = []
    for place, event in enumerate(events):
        match event:
            case Invoked():
                began[event.number] = (place, event)
                nodes[event.number] = [event.node]
            case Retried():
                nodes[event.number].append(event.node)
            case Note():
                notes.append(event)
            case Answered() | Refused() | Unknown():
                ended[event.number] = (place, event)
    operations = tuple(
        _operation(place, invoked, tuple(nodes[number]), ended.get(number))
        for number, (place, invoked) in began.items()
    )
    return History(operations=operations, notes=tuple(notes))


def _operation(
    place: int,
    invoked: Invoked,
    nodes: tuple[str, ...],
    end: tuple[int, Answered | Refused | Unknown] | None,
) -> Operation:
    ending, why, returned = Ending.UNKNOWN, "still open", None
    answer: Reply | Seen | None = None
    match end:
        case (at, Answered() as event):
            ending, why, returned = Ending.ANSWERED, "", at
            answer = event.reply or event.seen
        case (at, Refused() as event):
            ending, why, returned = Ending.REFUSED, event.why, at
        case (_, Unknown() as event):
            why = event.why
    asked = invoked.request or invoked.read
    assert asked is not None, "one of the two was asked"
    return Operation(
        number=invoked.number,
        caller=invoked.caller,
        asked=asked,
        nodes=nodes,
        ending=ending,
        answer=answer,
        why=why,
        invoked=place,
        returned=returned,
        invoked_at_ms=invoked.at_ms,
        returned_at_ms=end[1].at_ms if end is not None else None,
    )


def _is_session_unknown(answer: Reply | Seen) -> bool:
    return isinstance(answer, Reply) and any(
        isinstance(outcome, Rejected) and outcome.reason is RejectReason.SESSION_UNKNOWN
        for outcome in answer.outcomes
    )
