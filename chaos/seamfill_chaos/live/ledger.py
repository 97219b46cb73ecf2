"""Ledgers: runs by hand as sections of a Markdown file, each with its date and machine.

Owns the form that all ledgers share, and the lines about traffic. Must not know what a run was.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from seamfill_chaos.live.machine import describe_machine
from seamfill_chaos.live.scene import Totals

__all__ = ["append_section", "traffic_lines"]


def append_section(ledger: Path, *, title: str, command: str, text: str) -> None:
    """Add a section to a ledger; begin it when it does not exist."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    is_new = not ledger.exists()
    with ledger.open("a", encoding="utf-8") as file:
        if is_new:
            file.write(
                f"# {title}\n\nEach section is one run of `{command}`, appended by itself.\n"
            )
        file.write(f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n")
        file.write(f"{describe_machine('seamfill', 'pysyncobj', 'aiohttp')}\n\n{text}")


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
