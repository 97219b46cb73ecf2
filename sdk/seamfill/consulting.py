"""Asks for the coverage of a read, however many ranges it has.

Owns the joining of truncated answers. Must not judge what they say.

Invariant: the parts of a joined answer have the same ``coverage_rev``, so that together they are
one state of the series and never a mixture of two.
"""

from __future__ import annotations

from typing import Final

import msgspec

from seamfill.client import CoordinatorClient
from seamfill.errors import CoordinatorUnavailable
from seamfill.protocol.backfills import CoverageAnswer
from seamfill.read_request import ReadRequest

__all__ = ["whole_coverage"]

MAX_PARTS: Final = 256
MAX_TRIES: Final = 3


async def whole_coverage(coordinator: CoordinatorClient, request: ReadRequest) -> CoverageAnswer:
    """Return what is known of the request's range, joined from parts where one answer is too small.

    Raises ``CoordinatorUnavailable`` when the facts keep changing while the parts are asked for.
    """
    for _ in range(MAX_TRIES):
        parts = await _parts(coordinator, request)
        if len({part.coverage_rev for part in parts}) == 1:
            return _joined(parts, request)
    raise CoordinatorUnavailable(
        f"{request.subject}: its coverage changed {MAX_TRIES} times while it was being read;"
        " ask for a shorter range, or again later"
    )


async def _parts(coordinator: CoordinatorClient, request: ReadRequest) -> list[CoverageAnswer]:
    """Halve what was truncated until every part fits into an answer."""
    waiting = [(request.start_ms, request.end_ms)]
    parts: list[CoverageAnswer] = []
    asked = 0
    while waiting:
        start_ms, end_ms = waiting.pop()
        asked += 1
        if asked > MAX_PARTS:
            raise CoordinatorUnavailable(
                f"{request.subject}: its coverage does not fit into {MAX_PARTS} answers;"
                " ask for a shorter range"
            )
        part = await coordinator.coverage(
            request.series, start_ms, end_ms, as_of=request.as_of, in_flight=False
        )
        bars = request.bars(end_ms - start_ms)
        if part.truncated and bars > 1:
            middle_ms = start_ms + bars // 2 * request.spec.interval_ms
            # Last in, first out: the earlier half goes on top, so parts come in order.
            waiting += [(middle_ms, end_ms), (start_ms, middle_ms)]
        else:
            parts.append(part)
    return parts


def _joined(parts: list[CoverageAnswer], request: ReadRequest) -> CoverageAnswer:
    if len(parts) == 1:
        return parts[0]
    return msgspec.structs.replace(
        parts[-1],
        start_ms=request.start_ms,
        end_ms=request.end_ms,
        covered=tuple(each for part in parts for each in part.covered),
        gaps=tuple(each for part in parts for each in part.gaps),
        violated=tuple(each for part in parts for each in part.violated),
        restated=tuple(each for part in parts for each in part.restated),
        truncated=False,
    )
