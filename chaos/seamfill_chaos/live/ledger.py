"""What the callers of a run were told, as lines of its ledger.

Owns those lines. Must not know what a run was.
"""

from __future__ import annotations

from seamfill_chaos.live.scene import Totals

__all__ = ["traffic_lines"]


def traffic_lines(totals: Totals) -> list[str]:
    """Return what was asked and answered, as Markdown items."""
    changes = f"{totals.acknowledged:,} changes acknowledged"
    again = f"{totals.asked_again:,} times one was asked for again by its identity"
    digests = f"state digests of two nodes compared at {totals.digests_agreed:,} indexes"
    return [
        f"- {changes}; {again}.",
        f"- {totals.reads:,} linearizable reads.",
        f"- {totals.in_doubt:,} outcomes were in doubt, {totals.settled:,} of them found out.",
        f"- {totals.terms:,} terms had a leader; {digests}.",
    ]
