"""What excludes what: a claim's key as a place, read a second time.

Owns the grammar of compatibility keys as http-api.md gives it, written apart from the machine's own
reading of it. Pure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

__all__ = ["Place", "place_of"]


class Place(NamedTuple):
    """A half-open range of seconds under a name; two exclude each other where both overlap.

    A key that can not be read is a name of its own, with one second in it.
    """

    name: tuple[str, ...]
    start_s: int
    stop_s: int

    def overlaps(self, other: Place) -> bool:
        return (
            self.name == other.name and self.start_s < other.stop_s and other.start_s < self.stop_s
        )


@lru_cache(maxsize=4_096)
def place_of(key: str) -> Place:
    """Read ``node_id:interval:start:end[:world[:as_of]]``, whose last bar begins at ``end``.

    Node ids and ``as_of`` contain colons themselves: the leftmost reading that makes sense wins.
    """
    parts = key.split(":")
    for at in range(1, len(parts) - 2):
        numbers = parts[at : at + 3]
        if all(text.isascii() and text.isdigit() and len(text) <= 15 for text in numbers):
            interval_s, start_s, end_s = map(int, numbers)
            if interval_s > 0 and start_s <= end_s:
                world, as_of = (parts[at + 3 : at + 4] or [""])[0], ":".join(parts[at + 4 :])
                name = (":".join(parts[:at]), str(interval_s), world, as_of)
                return Place(name, start_s, end_s + interval_s)
    return Place((key,), 0, 1)
