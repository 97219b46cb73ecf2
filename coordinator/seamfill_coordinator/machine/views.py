"""Frozen answers about the machine's state, for readers. Never changes anything.

Owns the questions that operators, SDKs and workers may ask. Must not know HTTP. Every function is a
pure read of a ``LeaseMachine`` at its current ``rev`` and returns bodies of ``seamfill.protocol``.
"""

from __future__ import annotations

from seamfill_coordinator.machine.view_series import coverage, explain, violations
from seamfill_coordinator.machine.view_tables import (
    announced_url,
    backfill,
    backfill_counts,
    backfills,
    inspect,
    lease_counts,
    leases,
    next_claim_end_ms,
    next_due_ms,
    rev_at_wall,
    sources,
    wanted,
    workers,
)

__all__ = [
    "announced_url",
    "backfill",
    "backfill_counts",
    "backfills",
    "coverage",
    "explain",
    "inspect",
    "lease_counts",
    "leases",
    "next_claim_end_ms",
    "next_due_ms",
    "rev_at_wall",
    "sources",
    "violations",
    "wanted",
    "workers",
]
