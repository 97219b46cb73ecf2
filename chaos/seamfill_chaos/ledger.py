"""Ledgers: runs by hand as sections of a Markdown file, each with its date, code and machine.

Owns the form that all ledgers share. Must not know what a run was.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from seamfill_chaos.provenance import current_commit, describe_machine

__all__ = ["append_section"]


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
        file.write(f"Commit {current_commit()}; ")
        file.write(f"{describe_machine('seamfill', 'pysyncobj', 'aiohttp')}\n\n{text}")
