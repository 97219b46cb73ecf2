"""A run of kill cycles as people read it: on the terminal, and as a section of a ledger.

Owns the words and the table. Must not know how kills are carried out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from seamfill_chaos.kills.cycles import Account, Cycle, Target
from seamfill_chaos.ledger import append_section
from seamfill_chaos.live.ledger import traffic_lines

__all__ = ["append_to_ledger", "cycle_line", "summary"]

_SHOWN: Final = 20
_HEAD: Final = (
    "| killed | times | leader among them | changes/s at the kill, least / median "
    "| longest silence s, median / longest | back after s, median / longest |"
)


def cycle_line(cycle: Cycle) -> str:
    """Return one line about one kill."""
    who = ", ".join(cycle.victims) + (" (leader)" if cycle.had_leader else "")
    missed = "" if cycle.is_hit else "  missed, once more"
    return (
        f"{cycle.number:>4}  {cycle.target:<26}  {who:<20}  {cycle.rate:4.0f} changes/s  "
        f"silent {cycle.silence_s:5.2f} s  back {cycle.recovery_s:5.2f} s  "
        f"asked again {cycle.asked_again:>5}{missed}"
    )


def summary(account: Account) -> str:
    """Return the account as Markdown: the verdict, what was done, a line per kind of kill."""
    plan, failures = account.plan, account.failures()
    verdict = "FAILED." if failures else "nothing lost, nothing twice."
    kills = (
        f"{len(account.cycles)} kills in {account.duration_s:.0f} s, seed {plan.seed}, a snapshot "
        f"every {plan.snapshot_every} entries ({account.snapshots_written} written)"
    )
    lines = [f"Verdict: {verdict}", "", f"- {kills}.", *traffic_lines(account.totals)]
    lines.append(f"- The nodes' disks hold equal states at {account.disks_compared:,} indexes.")
    lines += ["", _HEAD, "|---|---|---|---|---|---|"]
    lines += [_row(target, account.hits(target)) for target in Target if account.hits(target)]
    missed = sum(not cycle.is_hit for cycle in account.cycles)
    if missed:
        lines += [
            "",
            f"{missed} more kills aimed at a snapshot came when it was finished, or in a lull.",
        ]
    lines += ["", *(f"- FAILED: {failure}" for failure in failures[:_SHOWN])] if failures else []
    if len(failures) > _SHOWN:
        lines.append(f"- … and {len(failures) - _SHOWN} more")
    return "\n".join(lines) + "\n"


def append_to_ledger(ledger: Path, account: Account) -> None:
    """Add the account to a Markdown file."""
    append_section(
        ledger, title="Kill cycles", command="seamfill-chaos kills", text=summary(account)
    )


def _row(target: Target, cycles: Sequence[Cycle]) -> str:
    def both(values: list[float], digits: int) -> str:
        return f"{statistics.median(values):.{digits}f} / {max(values):.{digits}f}"

    rates = [cycle.rate for cycle in cycles]
    return (
        f"| {target} | {len(cycles)} | {sum(cycle.had_leader for cycle in cycles)} "
        f"| {min(rates):.0f} / {statistics.median(rates):.0f} "
        f"| {both([cycle.silence_s for cycle in cycles], 2)} "
        f"| {both([cycle.recovery_s for cycle in cycles], 2)} |"
    )
