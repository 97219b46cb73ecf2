"""What a read may cost in time, and what happens when it costs more.

Owns the policy, its named presets and the arithmetic of budgets. Must not wait: ``waiting`` does.
Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from seamfill.errors import InvalidInput

__all__ = [
    "BASELINE",
    "SLA_PRESETS",
    "TOLERANT_PARTIAL",
    "OnViolation",
    "Phase",
    "SLAPolicy",
    "sla_policy",
]


class Phase(StrEnum):
    """A part of a read that has a budget of its own."""

    STORAGE_WAIT = "storage_wait"
    BACKFILL_WAIT = "backfill_wait"
    LIVE_WAIT = "live_wait"
    TOTAL = "total"
    SYNC_GAP = "sync_gap"


class OnViolation(StrEnum):
    """What a read does when a budget runs out or bars stay unexplained."""

    FAIL_FAST = "fail_fast"
    PARTIAL_FILL = "partial_fill"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class SLAPolicy:
    """Budgets in ms, all positive. ``max_sync_gap_bars`` None: any number may be waited for."""

    max_wait_storage_ms: int
    max_wait_backfill_ms: int
    max_wait_live_ms: int
    retry_backoff_ms: int
    total_deadline_ms: int
    max_sync_gap_bars: int | None = None
    on_violation: OnViolation = OnViolation.FAIL_FAST
    min_coverage: float = 0.98
    max_lag_seconds: int = 45

    def __post_init__(self) -> None:
        for name in (
            "max_wait_storage_ms",
            "max_wait_backfill_ms",
            "max_wait_live_ms",
            "retry_backoff_ms",
            "total_deadline_ms",
        ):
            if getattr(self, name) <= 0:
                raise InvalidInput(f"sla.{name}", f"{getattr(self, name)} must be positive")
        if not 0 <= self.min_coverage <= 1:
            raise InvalidInput("sla.min_coverage", f"{self.min_coverage} must be in 0..1")

    def with_deadline(self, deadline_ms: int) -> SLAPolicy:
        """Return the policy of a caller who allows exactly this long, backfill included."""
        if deadline_ms <= 0:
            raise InvalidInput("deadline", f"{deadline_ms} ms must be positive")
        return replace(self, total_deadline_ms=deadline_ms, max_wait_backfill_ms=deadline_ms)


BASELINE: Final = SLAPolicy(
    max_wait_storage_ms=3_000,
    max_wait_backfill_ms=45_000,
    max_wait_live_ms=5_000,
    retry_backoff_ms=500,
    total_deadline_ms=60_000,
    on_violation=OnViolation.FAIL_FAST,
    min_coverage=0.98,
    max_lag_seconds=45,
)
TOLERANT_PARTIAL: Final = SLAPolicy(
    max_wait_storage_ms=5_000,
    max_wait_backfill_ms=75_000,
    max_wait_live_ms=7_000,
    retry_backoff_ms=1_000,
    total_deadline_ms=90_000,
    on_violation=OnViolation.PARTIAL_FILL,
    min_coverage=0.9,
    max_lag_seconds=90,
)
_POLICIES: Final[Mapping[str, SLAPolicy]] = {
    "baseline": BASELINE,
    "tolerant-partial": TOLERANT_PARTIAL,
}
SLA_PRESETS: Final = tuple(_POLICIES)
"""Names that a preset may give as its ``sla_preset``."""


def sla_policy(name: str) -> SLAPolicy:
    """Return the policy of this name, or raise ``InvalidInput`` with the known ones."""
    found = _POLICIES.get(name)
    if found is None:
        near = difflib.get_close_matches(name, _POLICIES, n=1) or list(_POLICIES)
        raise InvalidInput("sla_preset", f"{name!r} is not known; try {' or '.join(near)}")
    return found
