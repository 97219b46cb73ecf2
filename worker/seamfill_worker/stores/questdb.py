"""Writes bars to QuestDB, and returns when a new reader sees them.

Owns the table's shape, the order of a flush, and the wait from *acknowledged* to *visible*. The
official client is in ``questdb_sender``, reading in ``seamfill.sources.questdb``.

Crash safety: QuestDB can not fence and does not say whether a failed flush took effect. So rows
are a pure function of source, range and generation, the table drops repetitions by its dedup keys
``(ts, symbol, gen)``, and a write that failed is simply written again.

Concurrent writes share flushes: whoever comes while one is under way goes into the next, rows of
all symbols ordered by time. QuestDB merges such a flush into a day's partition once instead of once
per window, which is most of what writing old data costs there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.clock import Clock, SystemClock
from seamfill.connectors import GenRange, WindowWrite
from seamfill.errors import StoreError, StoreNotVisible, StoreRefused
from seamfill.protocol.values import DatasetSpec, SeriesId
from seamfill.sources.questdb import QuestDBReader
from seamfill.sources.questdb_address import QuestDBAddress, check_table_name
from seamfill.sources.questdb_wire import PgWire
from seamfill.store_checks import refuse_unbuilt_kind, refuse_unstorable
from seamfill_worker.stores.questdb_sender import QuestDBSender

__all__ = ["QuestDBStore"]

_DAY_MS: Final = 86_400_000
_FLUSH_ROWS_MAX: Final = 100_000
_VISIBLE_TIMEOUT_MS: Final = 30_000
_POLL_TIMEOUT_S: Final = 5.0
_FIRST_POLL_MS: Final = 2.0
_SLOWEST_POLL_MS: Final = 50.0

_KEYS: Final = ("ts", "symbol", "gen")
_COLUMNS: Final = {
    "ts": "TIMESTAMP",
    "symbol": "SYMBOL",
    "gen": "INT",
    **dict.fromkeys(VALUE_COLUMNS, "DOUBLE"),
}


@dataclass(slots=True, eq=False)
class _Pending:
    """One caller's windows on their way into a flush."""

    windows: tuple[WindowWrite, ...]
    visible_at_txn: int | None = None
    failed: StoreError | None = None
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = sum(len(window.bars) for window in self.windows)

    @property
    def flushed(self) -> bool:
        return self.visible_at_txn is not None or self.failed is not None


class QuestDBStore:
    """One table of one server. Belongs to the loop that first uses it; never blocks it."""

    def __init__(
        self,
        address: QuestDBAddress,
        table: str,
        *,
        reader: QuestDBReader | None = None,
        clock: Clock | None = None,
        visible_timeout_ms: int = _VISIBLE_TIMEOUT_MS,
    ) -> None:
        assert address.http is not None
        self._table = check_table_name(table)
        self._clock = clock or SystemClock()
        self._wire = PgWire(address.dsn)
        self._reader = reader or QuestDBReader(address, table, wire=self._wire)
        self._sender = QuestDBSender(address.http, table)
        self._visible_timeout_ms = visible_timeout_ms
        self._pending: list[_Pending] = []
        self._flushing = asyncio.Lock()
        self._polling = asyncio.Lock()
        self._visible_txn = -1
        self._last_txn = -1

    @property
    def name(self) -> str:
        return f"questdb:{self._table}"

    @property
    def flushing(self) -> bool:
        """Return whether a flush is under way; what is written now waits for the next one."""
        return self._flushing.locked()

    async def prepare(self, spec: DatasetSpec) -> None:
        """Create the table, or raise ``StoreRefused`` naming how an existing one differs."""
        refuse_unbuilt_kind(spec)
        partition = "YEAR" if spec.interval_ms >= _DAY_MS else "DAY"
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        await self._wire.fetch(
            f"CREATE TABLE IF NOT EXISTS {self._table} ({columns}) TIMESTAMP(ts) "
            f"PARTITION BY {partition} WAL DEDUP UPSERT KEYS({', '.join(_KEYS)})"
        )
        await self._check_shape(partition)

    async def write(self, windows: Sequence[WindowWrite]) -> None:
        """Write the windows and return when they are durable and visible; see ``Store.write``.

        Raises ``StoreUnavailable`` (unknown whether written), ``StoreNotVisible`` (acknowledged,
        not readable in time), ``StoreRefused``. Cancelled before its flush began, nothing is
        written; later, the flush ends by itself within the sender's time limit.
        """
        refuse_unstorable(windows)
        entry = _Pending(tuple(windows))
        if entry.rows == 0:
            return
        self._pending.append(entry)
        try:
            async with self._flushing:
                if not entry.flushed:
                    await self._flush_together()
        finally:
            # Cancelled while waiting: a later flush must not write for somebody who has gone.
            if entry in self._pending:
                self._pending.remove(entry)
        if entry.failed is not None:
            raise entry.failed
        assert entry.visible_at_txn is not None
        await self._wait_visible(entry.visible_at_txn)

    async def read(self, series: SeriesId, ranges: Sequence[GenRange]) -> Bars:
        """Return the rows of each range at its generation; see ``StoreReader.read``."""
        return await self._reader.read(series, ranges)

    async def aclose(self) -> None:
        await self._sender.aclose()
        await self._reader.aclose()
        await self._wire.aclose()

    async def _flush_together(self) -> None:
        """Write what is pending, the oldest first, as far as one flush takes it."""
        together: list[_Pending] = []
        rows = 0
        for entry in self._pending:
            if together and rows + entry.rows > _FLUSH_ROWS_MAX:
                break
            together.append(entry)
            rows += entry.rows
        try:
            await self._sender.send([window for entry in together for window in entry.windows])
            visible_at_txn = await self._last_acknowledged()
        except StoreError as exc:
            for entry in together:
                # An object each: one exception raised by many callers mixes their tracebacks.
                entry.failed = type(exc)(exc.message)
                entry.failed.__cause__ = exc
        else:
            for entry in together:
                entry.visible_at_txn = visible_at_txn
        self._pending = [entry for entry in self._pending if not entry.flushed]

    async def _last_acknowledged(self) -> int:
        """Return a transaction number at which everything acknowledged so far is visible."""
        self._visible_txn, sequencer_txn = await self._progress()
        if sequencer_txn < self._last_txn:
            # Numbers went back: somebody dropped the table, and a server that creates tables by
            # itself has made one without dedup keys out of our rows.
            await self._check_shape(partition=None)
        self._last_txn = sequencer_txn
        return sequencer_txn

    async def _wait_visible(self, txn: int) -> None:
        """Return when the table has applied ``txn``. Waiting writers share one question."""
        deadline_ms = self._clock.monotonic_ms() + self._visible_timeout_ms
        pause_ms = _FIRST_POLL_MS
        while self._visible_txn < txn:
            async with self._polling:
                if self._visible_txn >= txn:
                    return
                self._visible_txn, _ = await self._progress()
            if self._visible_txn >= txn:
                return
            if self._clock.monotonic_ms() >= deadline_ms:
                raise StoreNotVisible(
                    f"QuestDB table {self._table} acknowledged rows that are not readable after "
                    f"{self._visible_timeout_ms} ms (applied {self._visible_txn} of {txn} "
                    "transactions); the server lags behind, or its WAL apply has stopped"
                )
            await self._clock.sleep_ms(pause_ms)
            pause_ms = min(pause_ms * 1.5, _SLOWEST_POLL_MS)

    async def _progress(self) -> tuple[int, int]:
        """Return the transactions applied and acknowledged; raise when the table is suspended."""
        rows = await self._wire.fetch(
            "SELECT writerTxn, sequencerTxn, suspended, errorMessage FROM wal_tables() "
            "WHERE name = %s",
            (self._table,),
            timeout_s=_POLL_TIMEOUT_S,
        )
        if not rows:
            raise StoreRefused(f"QuestDB table {self._table} is gone, or it is not a WAL table")
        writer_txn, sequencer_txn, suspended, said = rows[0]
        if suspended:
            raise StoreNotVisible(
                f"QuestDB table {self._table} is suspended: it acknowledges rows and never applies "
                f"them ({said or 'no reason given'}). Mend the cause, then run "
                f"ALTER TABLE {self._table} RESUME WAL"
            )
        return int(writer_txn), int(sequencer_txn)

    async def _check_shape(self, partition: str | None) -> None:
        differences = [
            *_column_differences(await self._columns()),
            *_table_differences(await self._facts(), partition),
        ]
        if differences:
            raise StoreRefused(
                f"QuestDB table {self._table} differs from what bars need: {'; '.join(differences)}"
            )

    async def _columns(self) -> dict[str, tuple[str, bool]]:
        # table_columns() takes no bound value; the name is allow-listed.
        rows = await self._wire.fetch(
            f"SELECT \"column\", type, upsertKey FROM table_columns('{self._table}')"
        )
        return {str(name): (str(kind), bool(key)) for name, kind, key in rows}

    async def _facts(self) -> dict[str, object]:
        names = ("designatedTimestamp", "partitionBy", "walEnabled", "dedup")
        rows = await self._wire.fetch(
            f"SELECT {', '.join(names)} FROM tables() WHERE table_name = %s", (self._table,)
        )
        return dict(zip(names, rows[0], strict=True)) if rows else {}


def _column_differences(found: dict[str, tuple[str, bool]]) -> list[str]:
    """Compare columns; further ones that are no dedup key do no harm."""
    differences = []
    for name, kind in _COLUMNS.items():
        if name not in found:
            differences.append(f"column {name} {kind} is missing")
        elif found[name][0] != kind:
            differences.append(f"column {name} is {found[name][0]}, not {kind}")
    keys = {name for name, (_, is_key) in found.items() if is_key}
    if keys != set(_KEYS):
        differences.append(
            f"dedup keys are ({', '.join(sorted(keys))}), not ({', '.join(_KEYS)}): "
            f"ALTER TABLE … DEDUP ENABLE UPSERT KEYS({', '.join(_KEYS)})"
        )
    return differences


def _table_differences(found: dict[str, object], partition: str | None) -> list[str]:
    wanted: dict[str, object] = {"designatedTimestamp": "ts", "walEnabled": True, "dedup": True}
    if partition is not None:
        wanted["partitionBy"] = partition
    return [
        f"{name} is {found.get(name)}, not {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
