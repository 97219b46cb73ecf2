"""A coverage answer as scripts and people read it, the same in every command.

Owns the stable JSON shape of ``coverage show`` and its table. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from seamfill.coverage_strip import LEGEND, coverage_strip
from seamfill.protocol.backfills import CoverageAnswer
from seamfill.times import format_ms

__all__ = ["coverage_document", "coverage_lines"]


def coverage_document(answer: CoverageAnswer) -> dict[str, Any]:
    """Return the document of ``-o json``; keys are a stable contract, more may come."""
    return {
        "dataset": answer.series.dataset,
        "symbol": answer.series.symbol,
        "start_ms": answer.start_ms,
        "end_ms": answer.end_ms,
        "rev": answer.rev,
        "coverage_rev": answer.coverage_rev,
        "as_of": answer.as_of,
        "covered": [[each.start_ms, each.end_ms, each.gen] for each in answer.covered],
        "rows": sum(each.rows for each in answer.covered),
        "gaps": [_without_protocol(each) for each in answer.gaps],
        "violated": [_without_protocol(each) for each in answer.violated],
        "in_flight": [_without_protocol(each) for each in answer.in_flight],
        "restated": [list(each) for each in answer.restated],
        "listed_from_ms": answer.listed_from_ms,
        "delisted_at_ms": answer.delisted_at_ms,
        "truncated": answer.truncated,
        "spec": None if answer.spec is None else msgspec.to_builtins(answer.spec),
    }


def coverage_lines(answer: CoverageAnswer, *, width: int = 72) -> Iterator[str]:
    """Yield the lines for a terminal: a strip, then every range with what is known of it."""
    yield f"{answer.series.dataset} {answer.series.symbol}  rev {answer.rev}"
    if answer.spec is None:
        yield "Nobody has asked for this dataset yet: coordinator backfill create …"
        return
    if not any((answer.covered, answer.gaps, answer.violated, answer.in_flight)):
        where = "in this range" if answer.end_ms > answer.start_ms else "of this symbol"
        yield f"Nobody has asked for any bar {where} yet: coordinator backfill create …"
        return
    if answer.end_ms > answer.start_ms:
        yield f"{format_ms(answer.start_ms)} – {format_ms(answer.end_ms)}"
        yield coverage_strip(answer, width=width)
        yield LEGEND
    for start_ms, end_ms, text in sorted(_ranges(answer)):
        yield f"{format_ms(start_ms)} – {format_ms(end_ms)}  {text}"
    if answer.truncated:
        yield "(more ranges follow; narrow --start and --end)"


def _ranges(answer: CoverageAnswer) -> Iterator[tuple[int, int, str]]:
    for covered in answer.covered:
        audit = "" if covered.content_digest else ", unaudited"
        text = f"verified  gen {covered.gen}, {covered.rows:,} rows{audit}"
        yield covered.start_ms, covered.end_ms, text
    for gap in answer.gaps:
        asked = f"  ({len(gap.receipt.asked)} answers)" if gap.receipt else ""
        yield gap.start_ms, gap.end_ms, f"absent    {gap.reason.value}{asked}"
    for violated in answer.violated:
        redo = "  (redo failed, older bars stand)" if violated.redo_failed else ""
        why = " ".join(filter(None, (violated.reason, violated.detail)))
        yield violated.start_ms, violated.end_ms, f"VIOLATED  {why}{redo}"
    for flight in answer.in_flight:
        who = f"  by {flight.holder}" if flight.holder else ""
        note = f"  ({flight.note})" if flight.note else ""
        yield flight.start_ms, flight.end_ms, f"{flight.state:9}{who}{note}"


def _without_protocol(view: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(view)
    plain.pop("protocol", None)
    return plain
