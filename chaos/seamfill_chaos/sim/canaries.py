"""Deliberate bugs, each of which the simulation must find.

Owns the bugs and how many seeds finding one may take. A canary is a patch around real classes for
as long as it is switched on; the program itself carries no flags for bugs. Must not know how they
are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["CANARIES", "Canary", "switched_on"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One bug."""

    bug: str
    """What is wrong, in one line."""
    within_seeds: int
    """Seeds from 1 on, of 120 s each, of which one must find it."""
    patch: Callable[[], AbstractContextManager[None]]


@contextmanager
def replaced(owner: type, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Have ``make(original)`` stand in place of a method."""
    original = owner.__dict__[name]
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def switched_on(name: str | None) -> AbstractContextManager[None]:
    """Put a bug in while the block lasts; None puts in nothing. Raises ``KeyError``."""
    return nullcontext() if name is None else CANARIES[name].patch()


CANARIES: Final[dict[str, Canary]] = {}
