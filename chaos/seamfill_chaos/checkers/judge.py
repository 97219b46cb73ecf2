"""All checkers of one run that is over, in one call.

Owns which evidence goes to which checker. Must not know how any of them works, or what a good
number of interesting moments is: that is a property of many runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    commands: Mapping[int, bytes],
    digests: Mapping[int, str],
    *,
    terms: Mapping[int, int] | None = None,
    told: Callable[[Outcome], object] = whole_outcome,
    abandons_unknown: bool = False,
) -> Judgement:
    """Compare what callers heard with the whole committed log.

    ``commands``, ``digests`` and ``terms``: by index, all that any node ever applied or had
    (``Agreement`` gathers them, and has violations of its own). ``told``: see
    ``check_durability``; ``abandons_unknown``: see ``ClaimKeys``. Liveness needs to know when
    faults ended, and is checked apart.
    """
    replayed = replay(commands, digests, terms=terms)
    violations = [
        *replayed.violations,
        *check_durability(history, replayed.requests, told=told),
        *check_linearizability(
            resolve(history, replayed.requests), abandons_unknown=abandons_unknown
        ),
    ]
    return Judgement(violations=tuple(violations), moments=replayed.moments)
