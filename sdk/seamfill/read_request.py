"""A validated read, and how everything about it is worded.

Owns ``ReadRequest``, the series' ``node_id`` and the messages of a read's errors: each names
series, range, phase, and the command or call that helps. Must not wait or fetch. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from seamfill.errors import (
    BackfillViolated,
    CoverageIncomplete,
    Restated,
    SeamlessSLAExceeded,
    StoreMismatch,
)
from seamfill.intervals import IntervalSet
from seamfill.presets import BackfillMode
from seamfill.protocol.backfills import BackfillView
from seamfill.protocol.values import DatasetSpec, Redo, SeriesId
from seamfill.read_plan import Strategy, Survey
from seamfill.sla import Phase, SLAPolicy
from seamfill.times import format_ms

__all__ = ["ReadRequest", "node_id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """What a caller asked for, validated; the range is half-open and on the grid.

    ``as_of``: a rev, or a time in ISO 8601.
    """

    series: SeriesId
    spec: DatasetSpec
    start_ms: int
    end_ms: int
    strategy: Strategy
    policy: SLAPolicy
    as_of: int | str | None
    mode: BackfillMode
    window_bars: int

    @property
    def subject(self) -> str:
        """Name series and range, as every message begins."""
        return (
            f"{self.series.dataset} {self.series.symbol}"
            f" [{format_ms(self.start_ms)}, {format_ms(self.end_ms)})"
        )

    @property
    def node_id(self) -> str:
        """Return the series' name in logs, metrics and errors."""
        return node_id(self.spec, self.series)

    @property
    def ensure_line(self) -> str:
        """Return the call that has the range filled outside of any budget."""
        return (
            f'await provider.ensure(SeriesId(dataset="{self.series.dataset}",'
            f' symbol="{self.series.symbol}"),'
            f' "{format_ms(self.start_ms)}", "{format_ms(self.end_ms)}")'
        )

    def bars(self, duration_ms: int) -> int:
        """Return how many bars a duration is."""
        return duration_ms // self.spec.interval_ms

    # --- errors ---------------------------------------------------------------------------------

    def exceeded(
        self,
        phase: Phase,
        *,
        budget_ms: int,
        elapsed_ms: int,
        backfill_id: str | None,
        view: BackfillView | None,
    ) -> SeamlessSLAExceeded:
        """Say which budget was missed, how far the backfill is, and how to wait for it."""
        told = f"{self.subject}: {phase.value} did not end within {budget_ms} ms"
        if view is not None:
            told += f" ({view.bars_verified} of {view.bars_wanted} bars verified)"
        if backfill_id is not None:
            told += f"; backfill {backfill_id} goes on, wait for it: {self.ensure_line}"
        return SeamlessSLAExceeded(
            told,
            phase=phase.value,
            node_id=self.node_id,
            elapsed_ms=elapsed_ms,
            budget_ms=budget_ms,
            backfill_id=backfill_id,
            bars_verified=view.bars_verified if view else None,
            bars_wanted=view.bars_wanted if view else None,
            eta_ms=_eta_ms(view, elapsed_ms),
        )

    def too_wide(self, bars: int, allowed: int) -> SeamlessSLAExceeded:
        """Say that a synchronous read does not wait for so many bars."""
        return SeamlessSLAExceeded(
            f"{self.subject}: {bars} bars are more than the {allowed} that a synchronous read"
            f" waits for; fill them first: {self.ensure_line}",
            phase=Phase.SYNC_GAP.value,
            node_id=self.node_id,
            elapsed_ms=0,
            budget_ms=0,
            bars_wanted=bars,
        )

    def violated(self, found: Survey) -> BackfillViolated:
        """Say which bars could not be explained, and why the first of them."""
        first = found.violated[0]
        bars = self.bars(sum(each.end_ms - each.start_ms for each in found.violated))
        why = f"{first.reason} ({first.detail})" if first.detail else first.reason
        return BackfillViolated(
            f"{self.subject}: {bars} bars could neither be filled nor be proved absent; the first"
            f" from {format_ms(first.start_ms)}: {why}. Try again:"
            f" {self._create_line(first.start_ms, first.end_ms, Redo.FAILED)}"
        )

    def unfilled(self, found: Survey) -> CoverageIncomplete:
        """Say that bars are not there and that this read does not wait for them."""
        missing = self.bars(sum(each.duration_ms for each in found.unfilled))
        return CoverageIncomplete(
            f"{self.subject}: {missing} bars are not filled, and strategy {self.strategy.value}"
            f" does not wait for them any longer; have them filled first: {self.ensure_line}"
        )

    def restated(self, ranges: tuple[tuple[int, int], ...]) -> Restated:
        """Say that the values of an ``as_of`` are gone."""
        named = ", ".join(f"{format_ms(a)} – {format_ms(b)}" for a, b in ranges[:5])
        return Restated(
            f"{self.subject}: the values as of {self.as_of} are no longer kept for {named};"
            " ask without as_of for the current ones",
            ranges=ranges,
        )

    def mismatch(self, lost: IntervalSet) -> StoreMismatch:
        """Say that the store does not give back what was verified."""
        first = next(iter(lost))
        return StoreMismatch(
            f"{self.subject}: {self.bars(lost.total)} verified bars are not in {self.spec.store} as"
            f" they were written, the first from {format_ms(first.start_ms)}. Have them fetched"
            f" again: {self._create_line(first.start_ms, first.end_ms, Redo.RESTATED)}"
        )

    def _create_line(self, start_ms: int, end_ms: int, redo: Redo) -> str:
        return (
            f"coordinator backfill create --dataset {self.series.dataset}"
            f" --symbol {self.series.symbol} --start {format_ms(start_ms)}"
            f" --end {format_ms(end_ms)} --redo {redo.value}"
        )


def node_id(spec: DatasetSpec, series: SeriesId) -> str:
    """Return ``kind:venue:symbol:interval``, like ``ohlcv:binance:BTC/USDT:1m``."""
    kind, _, name = spec.source.partition(":")
    venue = name if kind == "ccxt" else kind
    return f"{spec.kind}:{venue}:{series.symbol}:{_interval_label(spec.interval_ms)}"


def _interval_label(interval_ms: int) -> str:
    for unit_ms, letter in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")):
        if interval_ms % unit_ms == 0:
            return f"{interval_ms // unit_ms}{letter}"
    return f"{interval_ms}ms"


def _eta_ms(view: BackfillView | None, elapsed_ms: int) -> int | None:
    """Estimate from this read's own experience: what is left, at the rate so far."""
    if view is None or view.bars_verified == 0:
        return None
    done = view.bars_verified + view.bars_gap + view.bars_violated
    return int((view.bars_wanted - done) * elapsed_ms / view.bars_verified)
