"""A broken promise, told to people: which checker, what happened, where to look.

Owns the value that all checkers return. Must not know how anything is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Checker", "Violation"]


class Checker(StrEnum):
    """Who found it."""

    AGREEMENT = "agreement"
    REPLAY = "replay"
    DURABILITY = "durability"
    LINEARIZABILITY = "linearizability"
    LIVENESS = "liveness"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken promise; ``operations`` are numbers in the history, ``indexes`` of the log."""

    checker: Checker
    explanation: str
    operations: tuple[int, ...] = ()
    indexes: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = ""
        if self.operations:
            where += f" [operations {_listed(self.operations)}]"
        if self.indexes:
            where += f" [indexes {_listed(self.indexes)}]"
        return f"{self.checker}: {self.explanation}{where}"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
