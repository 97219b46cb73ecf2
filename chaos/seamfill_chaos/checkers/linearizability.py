"""Linearizability: is there one order of the operations that explains all answers?

Owns the search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's
memory of visited configurations ("Testing for linearizability", 2017), for any sequential
specification. Trusts nothing but what callers heard, and when. Must not know what an operation is.

A *certain* call has an answer and must be placed between its beginning and its end. An uncertain
one may be placed anywhere after its beginning, or nowhere. Linearizability is local: a history is
linearizable when it is so for each object alone, hence callers split theirs by key.

A *configuration* is which calls are placed, and the specification's state. Placed certain calls are
written as "all before the n-th" plus a few bits, so that long histories stay cheap: the cost grows
with concurrency, not with length. Two rules keep it small, and neither loses an order:

* A certain call that may be next and leaves the state as it is, is next. In any order in which it
  comes later it can be moved here, where it changes nothing for the others.
* A configuration is not tried when another one *covers* it: one with the same certain calls, a
  part of its uncertain ones, and a state that allows as much (``Specification.split``). Whatever
  continues this one continues that one too. Without it, each unknown outcome would double the
  number of configurations.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import le
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct

__all__ = ["Call", "Finding", "Specification", "Verdict", "search"]

State = TypeVar("State", bound=Hashable)
Value = TypeVar("Value")
V_contra = TypeVar("V_contra", contravariant=True)

DEFAULT_BUDGET: Final = 300_000
_NEVER: Final = 1 << 62
_TOLD: Final = 6
"""How many placed calls before the dead end an explanation shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Value]):
    """One operation on the object. ``invoked`` and ``returned`` are places in one real-time order;
    ``returned`` None: nobody knows when it ended. An uncertain call never returned."""

    number: int
    invoked: int
    returned: int | None
    value: Value
    is_certain: bool = True

    @property
    def end(self) -> int:
        return _NEVER if self.returned is None else self.returned


class Specification(Protocol[State, V_contra]):
    """The object as one caller alone would see it."""

    def initial(self) -> State: ...

    def step(self, state: State, value: V_contra, /) -> State | None:
        """Return the state after this operation with this answer, None if that can not be.

        For an uncertain operation: the state after it took effect, None if it would have none.
        """
        ...

    def split(self, state: State, /) -> tuple[Hashable, tuple[int, ...]]:
        """Return what of a state is exact, and its lower bounds.

        Of two states with the same exact part, one whose bounds are all as low or lower must allow
        every continuation that the other allows.
        """
        ...


class Finding(StrEnum):
    """How a search ended."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNDECIDED = "undecided"
    """The budget was used up; never a success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Generic[State]):
    """``order``: the calls as placed, all or as many as possible; ``stuck``: of those that had to
    come next none could; ``state``: where it ended."""

    finding: Finding
    order: tuple[int, ...]
    stuck: tuple[int, ...]
    state: State
    tried: int

    def explain(self) -> str:
        """Say what was found, for people."""
        if self.finding is Finding.LINEARIZABLE:
            return f"linearizable ({self.tried} steps)"
        before = ", ".join(map(str, self.order[-_TOLD:])) or "nothing"
        return (
            f"{self.finding} after {self.tried} steps: at best {len(self.order)} operations fit, "
            f"the last of them {before}; then, in state {self.state}, none of "
            f"{', '.join(map(str, self.stuck))} can be next"
        )


def search(
    calls: Sequence[Call[Value]],
    specification: Specification[State, Value],
    *,
    budget: int = DEFAULT_BUDGET,
) -> Verdict[State]:
    """Look for an order that explains all certain calls; try at most ``budget`` placements."""
    return _Search(calls, specification, budget).run()


class _Configuration(Struct, Generic[State], frozen=True):
    """Certain calls before ``low`` are placed, and those of ``mask`` from there on; ``used`` are
    the uncertain ones that took effect. ``count`` certain calls are placed."""

    low: int
    mask: int
    used: int
    state: State
    count: int


class _Place(Struct, frozen=True):
    """A call by its position among the certain or the uncertain ones."""

    position: int
    is_certain: bool


class _Search(Generic[State, Value]):
    def __init__(
        self,
        calls: Sequence[Call[Value]],
        specification: Specification[State, Value],
        budget: int,
    ) -> None:
        self._certain = sorted((c for c in calls if c.is_certain), key=_beginning)
        self._uncertain = sorted((c for c in calls if not c.is_certain), key=_beginning)
        self._begins = [call.invoked for call in self._certain]
        self._ends = [call.end for call in self._certain]
        self._specification = specification
        self._budget = budget
        self._tried = 0
        self._seen: dict[tuple[int, int, Hashable], list[tuple[int, tuple[int, ...]]]] = {}
        """Uncertain calls and bounds of the configurations tried, for each of the rest."""

    def run(self) -> Verdict[State]:
        start = _Configuration(0, 0, 0, self._specification.initial(), 0)
        self._is_new(start)
        # Depth first: each level is a configuration, and what is left to try from it.
        path = [(start, self._steps(start))]
        order: list[int] = []
        best, best_order = start, tuple(order)
        while path:
            here, left = path[-1]
            if here.count == len(self._certain):
                return self._verdict(Finding.LINEARIZABLE, here, tuple(order))
            if here.count > best.count:
                best, best_order = here, tuple(order)
            step = next(left, None)
            if self._tried > self._budget:
                return self._verdict(Finding.UNDECIDED, best, best_order)
            if step is None:
                path.pop()
                del order[-1:]
                continue
            number, there = step
            if self._is_new(there):
                path.append((there, self._steps(there)))
                order.append(number)
        return self._verdict(Finding.NOT_LINEARIZABLE, best, best_order)

    def _steps(self, here: _Configuration[State]) -> Iterator[tuple[int, _Configuration[State]]]:
        """Yield what can come next, best guess first: a call's number, and where it leads."""
        possible: list[tuple[int, _Configuration[State]]] = []
        for place in self._candidates(here):
            there = self._put(here, place)
            if there is None:
                continue
            if place.is_certain and there.state == here.state:
                yield self._call(place).number, there
                return
            possible.append((self._call(place).number, there))
        yield from possible

    def _is_new(self, there: _Configuration[State]) -> bool:
        exact, bounds = self._specification.split(there.state)
        tried = self._seen.setdefault((there.low, there.mask, exact), [])
        for used, lower in tried:
            if used & there.used == used and all(map(le, lower, bounds)):
                return False
        tried.append((there.used, bounds))
        return True

    def _candidates(self, here: _Configuration[State]) -> list[_Place]:
        """Return the calls that may be next: those that began before any unplaced one ended.

        Answered ones that ended first come first, since that guess is nearly always right; those
        without a known effect come last.
        """
        begins, ends, mask = self._begins, self._ends, here.mask
        first_end = _NEVER
        unplaced: list[int] = []
        at = here.low
        while at < len(begins) and begins[at] < first_end:
            if not mask & 1:
                unplaced.append(at)
                first_end = min(first_end, ends[at])
            mask >>= 1
            at += 1
        unplaced.sort(key=ends.__getitem__)
        ready = [_Place(position, is_certain=True) for position in unplaced]
        for position, call in enumerate(self._uncertain):
            if call.invoked >= first_end:
                break
            if not here.used >> position & 1:
                ready.append(_Place(position, is_certain=False))
        return ready

    def _put(self, here: _Configuration[State], place: _Place) -> _Configuration[State] | None:
        self._tried += 1
        state = self._specification.step(here.state, self._call(place).value)
        if state is None:
            return None
        if not place.is_certain:
            used = here.used | 1 << place.position
            return _Configuration(here.low, here.mask, used, state, here.count)
        low, mask = here.low, here.mask | 1 << (place.position - here.low)
        while mask & 1:
            low, mask = low + 1, mask >> 1
        return _Configuration(low, mask, here.used, state, here.count + 1)

    def _call(self, place: _Place) -> Call[Value]:
        return (self._certain if place.is_certain else self._uncertain)[place.position]

    def _verdict(
        self, finding: Finding, at: _Configuration[State], order: tuple[int, ...]
    ) -> Verdict[State]:
        return Verdict(
            finding=finding,
            order=order,
            stuck=tuple(self._call(place).number for place in self._candidates(at)),
            state=at.state,
            tried=self._tried,
        )


def _beginning(call: Call[Value]) -> int:
    return call.invoked
