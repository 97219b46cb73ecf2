"""A coverage answer as one line of text: what is there, what is coming, what is absent and why.

Owns the picture only. Must not know terminals, colours or HTTP. Pure.

Each character stands for an equal share of the range, and shows the *worst* state in it, so that a
short hole never disappears between two full cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from seamfill.protocol.backfills import CoverageAnswer

__all__ = ["LEGEND", "coverage_strip"]

_COVERED: Final = "█"
_GAP: Final = "·"
_LEASED: Final = "▒"
_OPEN: Final = "░"
_VIOLATED: Final = "!"
_UNKNOWN: Final = " "
LEGEND: Final = (
    f"{_COVERED} verified  {_LEASED} leased  {_OPEN} open  "
    f"{_GAP} proved absent  {_VIOLATED} violated"
)

# From the least to the most worth seeing: a later one paints over an earlier one.
_PAINT_ORDER: Final = (_COVERED, _GAP, _OPEN, _LEASED, _VIOLATED)


def coverage_strip(answer: CoverageAnswer, *, width: int = 60) -> str:
    """Draw ``answer`` in ``width`` characters; see ``LEGEND``."""
    assert width >= 1
    ranges: dict[str, Iterable[tuple[int, int]]] = {
        _COVERED: [(part.start_ms, part.end_ms) for part in answer.covered],
        _GAP: [(part.start_ms, part.end_ms) for part in answer.gaps],
        _OPEN: [(p.start_ms, p.end_ms) for p in answer.in_flight if p.state != "leased"],
        _LEASED: [(p.start_ms, p.end_ms) for p in answer.in_flight if p.state == "leased"],
        _VIOLATED: [(part.start_ms, part.end_ms) for part in answer.violated],
    }
    cells = [_UNKNOWN] * width
    span_ms = max(answer.end_ms - answer.start_ms, 1)
    for mark in _PAINT_ORDER:
        for start_ms, end_ms in ranges[mark]:
            first = (start_ms - answer.start_ms) * width // span_ms
            last = -((answer.start_ms - end_ms) * width // span_ms)
            for cell in range(max(first, 0), min(last, width)):
                cells[cell] = mark
    return "".join(cells)
