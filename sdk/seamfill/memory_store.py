"""A store that keeps its rows in this process: for tests, users' tests and simulations.

Owns rows and the faults asked of it. Must not do I/O or look at a clock: it is visible at once and
durable for as long as the object lives. Its rule of fences is the Parquet store's.
"""

from __future__ import annotations

from collections.abc import Sequence

from seamfill.bars import Bars
from seamfill.connectors import GenRange, WindowWrite
from seamfill.errors import StoreError
from seamfill.protocol.values import DatasetSpec, SeriesId
from seamfill.sources.parquet_layout import WrittenWindow, next_take, resolve
from seamfill.store_checks import refuse_unbuilt_kind, refuse_unstorable

__all__ = ["MemoryStore"]

_Rows = dict[WrittenWindow, Bars]


class MemoryStore:
    """Holds bars in memory. ``fail_writes(error, times)`` makes the next writes fail."""

    def __init__(self, name: str = "memory:default") -> None:
        self._name = name
        self._rows: dict[tuple[SeriesId, int], _Rows] = {}
        self._failures: list[StoreError] = []

    @property
    def name(self) -> str:
        return self._name

    async def prepare(self, spec: DatasetSpec) -> None:
        """Refuse kinds that stores do not know; see ``Store.prepare``."""
        refuse_unbuilt_kind(spec)

    async def write(self, windows: Sequence[WindowWrite]) -> None:
        """Keep the windows; see ``Store.write``."""
        refuse_unstorable(windows)
        if self._failures:
            raise self._failures.pop(0)
        for window in windows:
            self._keep(window)

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        """Return the rows of each range at its generation; see ``StoreReader.read``."""
        return Bars.concat([part for wanted in ranges for part in self._parts(series, wanted)])

    async def aclose(self) -> None:
        """Keep the rows: a test may look at them after its worker has gone."""

    def fail_writes(self, error: StoreError, times: int = 1) -> None:
        """Make the next ``times`` writes raise ``error`` and keep nothing."""
        self._failures.extend([error] * times)

    def _keep(self, window: WindowWrite) -> None:
        rows = self._rows.setdefault((window.series, window.gen), {})
        bounds = {"start_ms": window.start_ms, "end_ms": window.end_ms, "fence": window.fence}
        rows[WrittenWindow(**bounds, take=next_take(rows, **bounds))] = window.bars

    def _parts(self, series: SeriesId, wanted: GenRange) -> list[Bars]:
        rows = self._rows.get((series, wanted.gen), {})
        pieces = resolve(list(rows), wanted.start_ms, wanted.end_ms)
        return [rows[piece.window].between(piece.start_ms, piece.end_ms) for piece in pieces]
