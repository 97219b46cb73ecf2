"""All checkers of one run that is over, in one call.

Owns which evidence goes to which checker. Must not know how any of them works, or what a good
number of interesting moments is: that is a property of many runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from seamfill_chaos.checkers.agreement import Agreement
from seamfill_chaos.checkers.claim_key import check_linearizability, resolve
from seamfill_chaos.checkers.durability import check_durability, whole_outcome
from seamfill_chaos.checkers.replay import Moments, replay
from seamfill_chaos.checkers.violation import Violation
from seamfill_chaos.history import History
from seamfill_coordinator.machine.outcomes import Outcome

__all__ = ["Judgement", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What all checkers found, and what the run met."""

    violations: tuple[Violation, ...]
    moments: Moments


def judge(
    history: History,
    agreement: Agreement,
    *,
    told: Callable[[Outcome], object] = whole_outcome,
    abandons_unknown: bool = False,
) -> Judgement:
    """Check safety; liveness needs to know when faults ended (``liveness``).

    ``told``: see ``check_durability``; ``abandons_unknown``: see ``ClaimKey``. Everything committed
    must have been applied by some node before this is called.
    """
    replayed = replay(agreement.committed, agreement.digests)
    violations = [
        *agreement.violations,
        *replayed.violations,
        *check_durability(history, replayed.requests, told=told),
        *check_linearizability(
            history,
            abandons_unknown=abandons_unknown,
            resolved=lambda: resolve(history, replayed.requests),
        ),
    ]
    return Judgement(violations=tuple(violations), moments=replayed.moments)
