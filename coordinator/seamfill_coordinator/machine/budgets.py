"""Budgets and breakers of sources: how much the whole cluster may ask of an exchange.

Owns ``state.sources``. A budget is a token bucket in units of 1/60,000 weight, so that refilling is
exact integer arithmetic: one millisecond brings ``weight_per_minute`` tokens. The bucket holds ten
seconds' worth: exchanges count by wall-clock minutes, and a bucket of a whole minute could be spent
twice around a minute's turn. Workers report the exchange's own counter, which lowers the bucket to
what is really left; 418 and 429 open the breaker for all workers.

Must not know leases. Invariant: tokens never exceed the bucket.
"""

from __future__ import annotations

from typing import Final

from seamfill.protocol.values import SourceOffer, Usage
from seamfill_coordinator.machine.model import SourceRow, State
from seamfill_coordinator.machine.tables import clamp, emit, touch

__all__ = ["available_weight", "budget_wait_ms", "note_usage", "offered", "spend"]

TOKENS_PER_WEIGHT: Final = 60_000
BURST_PART: Final = 6
MAX_WEIGHT_PER_MINUTE: Final = 10_000_000
MAX_PENALTY_MS: Final = 86_400_000
DEFAULT_PENALTY_MS: Final = {429: 10_000, 418: 120_000}


def offered(state: State, offer: SourceOffer) -> SourceRow:
    """Return the row of an offered source, adopting the offer's budget.

    The caller has made sure that the table has room.
    """
    row = state.sources.get(offer.source)
    if row is None:
        row = SourceRow(name=offer.source)
        state.sources[offer.source] = row
        state.match_epoch += 1
        touch(state, row)
    weight = clamp(offer.weight_per_minute, 0, MAX_WEIGHT_PER_MINUTE)
    if row.weight_per_minute != weight:
        was_unlimited = row.weight_per_minute == 0
        row.weight_per_minute = weight
        row.tokens = _bucket(row) if was_unlimited else min(row.tokens, _bucket(row))
        row.refilled_ms = state.clock_ms
        state.match_epoch += 1
        touch(state, row)
    return row


def budget_wait_ms(state: State, row: SourceRow, weight: int) -> int:
    """Return 0 when ``weight`` may be spent now, else how long to wait for it.

    A window dearer than the whole bucket may go when the bucket is full, and leaves a debt.
    """
    if not row.weight_per_minute:
        return 0
    _refill(state, row)
    missing = min(weight * TOKENS_PER_WEIGHT, _bucket(row)) - row.tokens
    return 0 if missing <= 0 else -(-missing // row.weight_per_minute)


def spend(state: State, row: SourceRow, weight: int) -> None:
    """Take ``weight`` from the bucket."""
    if row.weight_per_minute:
        row.tokens -= weight * TOKENS_PER_WEIGHT
        touch(state, row)


def available_weight(state: State, row: SourceRow) -> int:
    """Return the weight that could be spent now, for people."""
    grown = row.tokens + (state.clock_ms - row.refilled_ms) * row.weight_per_minute
    return max(0, min(grown, _bucket(row)) // TOKENS_PER_WEIGHT)


def note_usage(state: State, usages: tuple[Usage, ...]) -> None:
    """Correct budgets by what the exchanges' own counters said; open breakers on refusals."""
    for usage in usages:
        row = state.sources.get(usage.source)
        if row is None:
            continue
        touch(state, row)
        if usage.status is not None:
            row.last_status = clamp(usage.status, 0, 999)
        if usage.used_weight is not None and row.weight_per_minute:
            _refill(state, row)
            left = max(0, row.weight_per_minute - usage.used_weight)
            row.tokens = min(row.tokens, left * TOKENS_PER_WEIGHT)
        penalty_ms = usage.penalty_ms
        if penalty_ms is None and usage.status is not None:
            penalty_ms = DEFAULT_PENALTY_MS.get(usage.status)
        if penalty_ms:
            until_ms = state.clock_ms + clamp(penalty_ms, 0, MAX_PENALTY_MS)
            if until_ms > row.breaker_until_ms:
                row.breaker_until_ms = until_ms
                emit(
                    state,
                    "source.breaker",
                    ("source", row.name, "status", usage.status, "wait_ms", penalty_ms),
                )


def _bucket(row: SourceRow) -> int:
    return max(1, row.weight_per_minute // BURST_PART) * TOKENS_PER_WEIGHT


def _refill(state: State, row: SourceRow) -> None:
    if row.refilled_ms != state.clock_ms:
        grown = row.tokens + (state.clock_ms - row.refilled_ms) * row.weight_per_minute
        row.tokens = min(grown, _bucket(row))
        row.refilled_ms = state.clock_ms
        touch(state, row)
