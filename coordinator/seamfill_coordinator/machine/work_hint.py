"""Whether asking for windows may be worth it now: a hint for long polls, never a decision.

A pure read of caches that may promise too much (a budget is used up, a frontier is not moved yet)
but never too little once a command has been applied. Must not know who asks.
"""

from __future__ import annotations

from seamfill.protocol.values import SourceOffer
from seamfill_coordinator.machine.machine import LeaseMachine

__all__ = ["may_grant"]


def may_grant(
    machine: LeaseMachine, offers: tuple[SourceOffer, ...], stores: tuple[str, ...]
) -> bool:
    """Return False only when an Acquire of these offers and stores would certainly get nothing."""
    state = machine.state
    sources = {offer.source for offer in offers}
    return any(
        source in sources and not _is_stopped(machine, source) and _is_written(stores, store)
        for (source, store), ready in state.ready.items()
        if ready
    )


def _is_stopped(machine: LeaseMachine, source: str) -> bool:
    row = machine.state.sources.get(source)
    return row is not None and (row.is_paused or row.breaker_until_ms > machine.state.clock_ms)


def _is_written(stores: tuple[str, ...], store: str) -> bool:
    return any(own == store or (own.endswith("*") and store.startswith(own[:-1])) for own in stores)
