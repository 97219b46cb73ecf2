"""From fetched windows to completed ones: write, read back, compare, report.

Owns the order of these steps, which is the product's promise: nothing is completed that was not
read back by a fresh query and found to be, bit for bit, what the source said. Must not know which
store it is, or how windows were fetched.

Several windows go into one flush, the same time range of many symbols side by side, because that
is what a time-partitioned store merges cheapest. Several flushes are under way at once: while one
becomes visible, the next is written.

Invariant: a write starts, and goes on, only while trust in each of its leases holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from seamfill.bars import VALUE_COLUMNS, Bars, content_digest
from seamfill.clock import Clock
from seamfill.connectors import GenRange, Store, WindowWrite
from seamfill.errors import StoreError, StoreMismatch, StoreRefused
from seamfill.logs import log_event
from seamfill.protocol.leases import CompleteItem
from seamfill.protocol.values import CoveredRange, Usage
from seamfill_worker.heartbeat import Heartbeat
from seamfill_worker.held import Held, Stage
from seamfill_worker.questions import Filled, Unclosed, Unproved
from seamfill_worker.reports import Reports
from seamfill_worker.retry import Again, GiveBack, GiveUp, after_store_error
from seamfill_worker.telemetry import WorkerMetrics

__all__ = ["Fetched", "Flusher"]

_LOG: Final = logging.getLogger("seamless.backfill")
MISMATCHES_MAX: Final = 2
"""How often a window is written and read back before its store is called wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A window whose verdict is in, and the store it belongs into."""

    held: Held
    filled: Filled
    store: Store

    @property
    def hull(self) -> tuple[int, int] | None:
        """Return the range that is written: from the first covered bar to the last."""
        covered = self.filled.covered
        return (covered[0][0], covered[-1][1]) if covered else None


class _TrustEnded(Exception):
    """Trust in a lease of a running write ended; internal to this module."""


class Flusher:
    """Writes batches of fetched windows of one store and completes what was proved to be there."""

    def __init__(
        self, reports: Reports, heartbeat: Heartbeat, *, clock: Clock, metrics: WorkerMetrics
    ) -> None:
        self._reports = reports
        self._heartbeat = heartbeat
        self._clock = clock
        self._metrics = metrics

    async def flush(self, batch: Sequence[Fetched], usage: tuple[Usage, ...]) -> None:
        """Write, read back and complete; windows that fail on the way are handed back."""
        batch = sorted(batch, key=lambda fetched: fetched.held.grant.start_ms)
        written = await self._written([one for one in batch if one.hull is not None])
        proved: list[tuple[Fetched, Bars]] = []
        if written:
            proved = await self._read_back(written)
        proved += [(one, Bars.empty()) for one in batch if one.hull is None]
        await self._report([pair for pair in proved if not pair[0].held.is_gone], usage)

    # --- writing --------------------------------------------------------------------------------

    async def _written(self, batch: Sequence[Fetched]) -> list[Fetched]:
        """Return the windows that the store acknowledged and shows; report on the others."""
        tries = 0
        while batch := await self._trusted(batch):
            try:
                await self._write(batch)
                self._metrics.flushed("written")
                return list(batch)
            except _TrustEnded:
                continue
            except StoreError as error:
                tries += 1
                self._metrics.flushed(error.code)
                decision = after_store_error(error, tries=tries)
                _log_store_error(batch, error, decision)
                if isinstance(decision, Again):
                    await self._clock.sleep_ms(decision.delay_ms)
                elif isinstance(error, StoreRefused) and len(batch) > 1:
                    # One window may be what is refused; the others should not pay for it.
                    return [one for each in batch for one in await self._written([each])]
                else:
                    for one in batch:
                        await self._hand_in(one.held, decision)
                    return []
        return []

    async def _trusted(self, batch: Sequence[Fetched]) -> list[Fetched]:
        """Keep the windows whose leases may be written under; ask once for those in doubt."""
        now_ms = self._clock.monotonic_ms()
        doubtful = [one.held for one in batch if not one.held.trust.holds(now_ms)]
        alive = [held for held in doubtful if not held.is_gone]
        if alive:
            for held in alive:
                log_event(_LOG, "lease.trust_ended", level=logging.WARNING, **held.facts())
            await self._heartbeat.renew(alive)
        now_ms = self._clock.monotonic_ms()
        for held in alive:
            if not held.is_gone and not held.trust.holds(now_ms):
                self._reports.lost(held, "trust_ended")
        return [one for one in batch if not one.held.is_gone]

    async def _write(self, batch: Sequence[Fetched]) -> None:
        """Write while trust holds. A renewal meanwhile extends it; its end stops the write."""
        for one in batch:
            one.held.stage = Stage.WRITING
        writing = asyncio.ensure_future(batch[0].store.write([_window(one) for one in batch]))
        try:
            while not writing.done():
                now_ms = self._clock.monotonic_ms()
                left_ms = min(one.held.trust.remaining_ms(now_ms) for one in batch)
                if left_ms == 0:
                    raise _TrustEnded
                await self._first_of(writing, left_ms)
            writing.result()
        finally:
            if not writing.done():
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _first_of(self, writing: asyncio.Future[None], left_ms: int) -> None:
        timer = asyncio.ensure_future(self._clock.sleep_ms(left_ms))
        try:
            await asyncio.wait({writing, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    # --- reading back ---------------------------------------------------------------------------

    async def _read_back(self, written: Sequence[Fetched]) -> list[tuple[Fetched, Bars]]:
        """Return the windows that read back as they were written, with the rows read."""
        proved: list[tuple[Fetched, Bars]] = []
        pending = list(written)
        for _ in range(MISMATCHES_MAX):
            reads = await asyncio.gather(*(self._read(one) for one in pending))
            mismatched = []
            for one, rows in zip(pending, reads, strict=True):
                if rows is None:
                    continue
                if _same(rows, _expected(one)):
                    proved.append((one, rows))
                else:
                    mismatched.append(one)
            pending = mismatched
            if not pending:
                return proved
            self._metrics.flushed(StoreMismatch.code)
            for one in pending:
                log_event(_LOG, "window.mismatch", level=logging.ERROR, **one.held.facts())
            pending = await self._written(pending)
        reads = await asyncio.gather(*(self._read(one) for one in pending))
        for one, rows in zip(pending, reads, strict=True):
            if rows is not None and _same(rows, _expected(one)):
                proved.append((one, rows))
            elif rows is not None:
                await self._mismatch(one, rows)
        return proved

    async def _read(self, one: Fetched) -> Bars | None:
        """Read the window's rows by a fresh query; None when the lease was handed in instead."""
        grant, hull = one.held.grant, one.hull
        assert hull is not None
        tries = 0
        while True:
            try:
                wanted = GenRange(start_ms=hull[0], end_ms=hull[1], gen=grant.gen)
                return await one.store.read(grant.series, [wanted])
            except StoreError as error:
                tries += 1
                decision = after_store_error(error, tries=tries)
                _log_store_error([one], error, decision)
                if not isinstance(decision, Again):
                    await self._hand_in(one.held, decision)
                    return None
                await self._clock.sleep_ms(decision.delay_ms)

    async def _mismatch(self, one: Fetched, rows: Bars) -> None:
        wrote = len(_expected(one))
        detail = (
            f"wrote {wrote} rows, read back {len(rows)} that differ, {MISMATCHES_MAX + 1} times"
        )
        await self._reports.give_up(
            one.held, GiveUp(code=StoreMismatch.code, retryable=True, detail=detail)
        )

    async def _hand_in(self, held: Held, decision: GiveBack | GiveUp) -> None:
        if held.is_gone:
            return
        if isinstance(decision, GiveBack):
            await self._reports.give_back(held, decision)
        else:
            await self._reports.give_up(held, decision)

    # --- reporting ------------------------------------------------------------------------------

    async def _report(
        self, proved: Sequence[tuple[Fetched, Bars]], usage: tuple[Usage, ...]
    ) -> None:
        """Complete what was proved in one request, then say what became of the rests."""
        rests = {one.held.grant.fence: one for one, _ in proved if one.filled.rest is not None}
        items = [(one.held, _completion(one, rows)) for one, rows in proved if _says_anything(one)]
        silent = [one for one, _ in proved if not _says_anything(one)]
        for one, _ in proved:
            one.held.stage = Stage.REPORTING
        keeping = await self._reports.complete(items, usage) if items else []
        for held in (*keeping, *(one.held for one in silent)):
            one_with_rest = rests.get(held.grant.fence)
            if one_with_rest is None:
                await self._reports.release([held], no_write_in_flight=True)
            else:
                await self._hand_in(held, _decision(one_with_rest))


def _decision(one: Fetched) -> GiveBack | GiveUp:
    match one.filled.rest:
        case Unclosed(delay_ms=delay_ms):
            return GiveBack(delay_ms=delay_ms, why="bar_not_closed")
        case Unproved(code=code, detail=detail):
            return GiveUp(code=code, retryable=False, detail=detail)
        case None:
            raise AssertionError("a window without a rest is completed whole")


def _says_anything(one: Fetched) -> bool:
    return bool(one.filled.covered or one.filled.gaps)


def _completion(one: Fetched, rows: Bars) -> CompleteItem:
    """Build the facts from the rows that were *read*, never from those that were sent."""
    covered = []
    for start_ms, end_ms in one.filled.covered:
        part = rows.between(start_ms, end_ms)
        covered.append(
            CoveredRange(
                start_ms=start_ms,
                end_ms=end_ms,
                rows=len(part),
                content_digest=content_digest(part),
            )
        )
    return CompleteItem(
        lease=one.held.ref,
        covered=tuple(covered),
        gaps=one.filled.gaps,
        final=one.filled.rest is None,
        listed_from=one.filled.listed_from,
        delisted_at=one.filled.delisted_at,
    )


def _expected(one: Fetched) -> Bars:
    hull = one.hull
    assert hull is not None
    return one.filled.bars.between(*hull)


def _window(one: Fetched) -> WindowWrite:
    hull = one.hull
    assert hull is not None
    grant = one.held.grant
    return WindowWrite(
        series=grant.series,
        gen=grant.gen,
        fence=grant.fence,
        start_ms=hull[0],
        end_ms=hull[1],
        bars=_expected(one),
    )


def _same(left: Bars, right: Bars) -> bool:
    """Compare bit for bit, which is what equal content digests would only make likely."""
    return np.array_equal(left.ts_ms, right.ts_ms) and all(
        np.array_equal(getattr(left, name).view(np.int64), getattr(right, name).view(np.int64))
        for name in VALUE_COLUMNS
    )


def _log_store_error(
    batch: Sequence[Fetched], error: StoreError, decision: Again | GiveBack | GiveUp
) -> None:
    log_event(
        _LOG,
        "store.error",
        level=logging.WARNING,
        store=batch[0].store.name,
        code=error.code,
        message=error.message,
        windows=len(batch),
        then=type(decision).__name__,
    )
