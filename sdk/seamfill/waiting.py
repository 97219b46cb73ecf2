"""Waiting that ends when a budget does, whatever is being waited for.

Owns the race between a piece of work and the clock. Must not know what the work is or what a
missed budget means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from seamfill.clock import Clock

__all__ = ["BudgetSpent", "run_within"]

T = TypeVar("T")


class BudgetSpent(Exception):
    """The work did not finish within its budget and was cancelled."""


async def run_within(clock: Clock, budget_ms: int, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns, or cancel it and raise ``BudgetSpent`` after ``budget_ms``.

    The injected clock measures, so that tests own the time; ``asyncio.timeout`` would use the
    loop's. Whatever happens, no task is left behind.
    """
    if budget_ms <= 0:
        work.close()
        raise BudgetSpent
    working = asyncio.ensure_future(work)
    ringing = asyncio.ensure_future(clock.sleep_ms(budget_ms))
    try:
        await asyncio.wait({working, ringing}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise BudgetSpent
        return working.result()
    finally:
        for task in (working, ringing):
            task.cancel()
        await asyncio.gather(working, ringing, return_exceptions=True)
