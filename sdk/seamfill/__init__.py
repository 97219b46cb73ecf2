"""seamfill: market history without unexplained holes. The library for strategy authors.

The names below are the public surface. They are loaded when first used, so that a command which
only looks at a cluster does not pay for pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from seamfill.client import CoordinatorClient
    from seamfill.config import Profile, SeamlessConfig
    from seamfill.intervals import (
        CoverageRange,
        TimeRange,
        WarmupWindow,
        compute_missing_ranges,
        merge_coverage,
    )
    from seamfill.protocol.values import GapReason, SeriesId
    from seamfill.provider import SeamlessDataProvider
    from seamfill.read_plan import Strategy
    from seamfill.result import FetchResult, Gap, GapState
    from seamfill.sla import OnViolation, SLAPolicy

__version__ = "0.1.0"

__all__ = [
    "CoordinatorClient",
    "CoverageRange",
    "FetchResult",
    "Gap",
    "GapReason",
    "GapState",
    "OnViolation",
    "Profile",
    "SLAPolicy",
    "SeamlessConfig",
    "SeamlessDataProvider",
    "SeriesId",
    "Strategy",
    "TimeRange",
    "WarmupWindow",
    "compute_missing_ranges",
    "merge_coverage",
]

_HOMES: Final = {
    "CoordinatorClient": "client",
    "CoverageRange": "intervals",
    "FetchResult": "result",
    "Gap": "result",
    "GapReason": "protocol.values",
    "GapState": "result",
    "OnViolation": "sla",
    "Profile": "config",
    "SLAPolicy": "sla",
    "SeamlessConfig": "config",
    "SeamlessDataProvider": "provider",
    "SeriesId": "protocol.values",
    "Strategy": "read_plan",
    "TimeRange": "intervals",
    "WarmupWindow": "intervals",
    "compute_missing_ranges": "intervals",
    "merge_coverage": "intervals",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'seamfill' has no attribute {name!r}")
    value = getattr(import_module(f"seamfill.{home}"), name)
    globals()[name] = value
    return value
