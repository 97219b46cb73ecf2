"""What machine a benchmark ran on; printed at its head. (Not a benchmark itself.)"""

from __future__ import annotations

from seamfill_chaos.provenance import describe_machine as describe

__all__ = ["describe"]
