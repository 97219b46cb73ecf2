"""What every store refuses before it writes anything.

Owns the checks that all writers share, so that no store accepts what another would refuse. Must
not know any store. Pure, except that a refusal is raised: it reaches the caller of
``Store.write`` unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seamfill.bars import VALUE_COLUMNS
from seamfill.connectors import WindowWrite
from seamfill.errors import StoreRefused
from seamfill.protocol.values import DatasetSpec

__all__ = ["MAX_GEN", "refuse_unbuilt_kind", "refuse_unstorable"]

MAX_GEN = (1 << 31) - 1
"""QuestDB keeps the generation in an INT; the other stores keep the same limit."""


def refuse_unbuilt_kind(spec: DatasetSpec) -> None:
    """Raise ``StoreRefused`` unless the dataset is of a kind that stores know (``ohlcv``)."""
    if spec.kind != "ohlcv":
        raise StoreRefused(f"datasets of kind {spec.kind!r} can not be stored yet; known: ohlcv")


def refuse_unstorable(windows: Sequence[WindowWrite]) -> None:
    """Raise ``StoreRefused`` for rows that no store may hold, naming series, column and time.

    Refused are: values that are not finite (QuestDB turns them into NULL), bars outside their
    window, times that do not ascend, a generation out of bounds.
    """
    for window in windows:
        _refuse_bad_times(window)
        _refuse_non_finite(window)


def _refuse_bad_times(window: WindowWrite) -> None:
    ts_ms = window.bars.ts_ms
    if not 0 <= window.gen <= MAX_GEN:
        raise StoreRefused(f"{_name(window)}: gen {window.gen} is not in 0..{MAX_GEN}")
    if not 0 <= window.start_ms < window.end_ms:
        raise StoreRefused(f"{_name(window)}: the window is empty or begins before 1970")
    if len(ts_ms) == 0:
        return
    # Written with `not … <` so that one comparison also catches two equal times.
    if not bool(np.all(ts_ms[:-1] < ts_ms[1:])):
        raise StoreRefused(f"{_name(window)}: bar times do not ascend")
    if ts_ms[0] < window.start_ms or ts_ms[-1] >= window.end_ms:
        raise StoreRefused(f"{_name(window)}: a bar lies outside the window")


def _refuse_non_finite(window: WindowWrite) -> None:
    for column in VALUE_COLUMNS:
        finite = np.isfinite(getattr(window.bars, column))
        if not finite.all():
            at_ms = int(window.bars.ts_ms[int(np.argmin(finite))])
            raise StoreRefused(f"{_name(window)}: {column} at {at_ms} is not a finite number")


def _name(window: WindowWrite) -> str:
    series = window.series
    return f"{series.dataset} {series.symbol} [{window.start_ms}, {window.end_ms})"
