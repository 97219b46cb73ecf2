"""A run of flapping links as people read it. Owns the words."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final

from seamfill_chaos.flapping.flapping import Account, Stretch
from seamfill_chaos.ledger import append_section
from seamfill_chaos.live.ledger import traffic_lines

__all__ = ["append_to_ledger", "stretch_line", "summary"]

_SHOWN: Final = 20


def stretch_line(stretch: Stretch) -> str:
    """Return one line about one stretch."""
    return (
        f"{stretch.flaps:>3} cuts  agreed after {stretch.convergence_s:5.2f} s  "
        f"silent at most {stretch.silence_s:5.2f} s"
    )


def summary(account: Account) -> str:
    """Return the account as Markdown: the verdict and what was done."""
    failures = account.failures()
    verdict = "FAILED." if failures else "nothing lost, nothing stale, one leader a term."
    waits = sorted(stretch.convergence_s for stretch in account.stretches)
    p99 = waits[min(len(waits) - 1, int(len(waits) * 0.99))]
    silences = [stretch.silence_s for stretch in account.stretches]
    lines = [
        f"Verdict: {verdict}",
        "",
        f"- {account.flaps} cuts in {account.plan.lasting_s:.0f} s, seed {account.plan.seed}.",
        *traffic_lines(account.totals),
        (
            f"- Agreement after healing, {len(waits)} times: median "
            f"{statistics.median(waits):.2f} s, p99 {p99:.2f} s, longest {waits[-1]:.2f} s."
        ),
        f"- Longest time without an acknowledged change: {max(silences):.2f} s.",
    ]
    lines += ["", *(f"- FAILED: {failure}" for failure in failures[:_SHOWN])] if failures else []
    if len(failures) > _SHOWN:
        lines.append(f"- … and {len(failures) - _SHOWN} more")
    return "\n".join(lines) + "\n"


def append_to_ledger(ledger: Path, account: Account) -> None:
    """Add the account to a Markdown file."""
    append_section(
        ledger, title="Flapping links", command="seamfill-chaos flapping", text=summary(account)
    )
