"""The official QuestDB client, which blocks, on a thread of its own.

Owns the client's connection, its time limit and its errors. Must not know visibility or leases.

Invariants: one flush at a time, in the order of calls; a flush ends within ``WRITE_TIMEOUT_MS``,
which is shorter than the coordinator's lock-delay, so that a holder that lost its lease can not
write any more when the next one may; a failed flush takes its connection with it. The client's
``in_doubt`` is not looked at: it is false also where rows did arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import pandas as pd
import questdb
from questdb import Protocol, QuestDBError, QuestDBErrorCode, Sender

from seamfill.bars import VALUE_COLUMNS
from seamfill.connectors import WindowWrite
from seamfill.errors import StoreError, StoreRefused, StoreUnavailable
from seamfill.sources.questdb_address import HttpAddress

__all__ = ["WRITE_TIMEOUT_MS", "QuestDBSender", "rows_in_time_order"]

WRITE_TIMEOUT_MS: Final = 3_000
_TRANSACTION_ROWS_MAX: Final = 100_000

# A failed flush hangs up on purpose, and the worker's policy paces what follows: the client's
# advice to reuse connections would be noise on stderr, or an exception where warnings are errors.
questdb.WARN_HIGH_RECONNECTS = False  # type: ignore[attr-defined]  # not in its stubs


class QuestDBSender:
    """Sends windows to one table. Nothing is connected before the first one."""

    def __init__(self, address: HttpAddress, table: str) -> None:
        self._address = address
        self._table = table
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="questdb-sender")
        self._sender: Sender | None = None

    async def send(self, windows: Sequence[WindowWrite]) -> None:
        """Return when the server has acknowledged all rows, ordered by time, in one transaction.

        More than 100,000 rows go in several, each a later part of the time. Raises
        ``StoreUnavailable`` or ``StoreRefused``; in both cases rows may have been written.
        """
        loop = asyncio.get_running_loop()
        rows = rows_in_time_order(windows)
        for first in range(0, len(rows), _TRANSACTION_ROWS_MAX):
            part = rows.iloc[first : first + _TRANSACTION_ROWS_MAX]
            await loop.run_in_executor(self._thread, self._flush, part)

    async def aclose(self) -> None:
        """Close the connection after the flush that is under way, if any. May be repeated."""
        if self._sender is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._hang_up)
        self._thread.shutdown(wait=False)

    def _flush(self, rows: pd.DataFrame) -> None:
        try:
            # Not `or`: a sender's length is what it has buffered, so an idle one is false.
            sender = self._connect() if self._sender is None else self._sender
            sender.dataframe(rows, table_name=self._table, symbols=["symbol"], at="ts")
            sender.flush(transactional=True)
        except QuestDBError as exc:
            self._hang_up()
            raise _wrapped(exc, self._table) from exc
        except BaseException:
            self._hang_up()
            raise

    def _connect(self) -> Sender:
        sender = Sender(
            Protocol.Https if self._address.tls else Protocol.Http,
            self._address.host,
            self._address.port,
            username=self._address.username,
            password=self._address.password,
            # Version 2 sends doubles in binary, and needs QuestDB 9.0. Asking the server which
            # versions it knows would take its own time limit, twice, on one that is silent.
            protocol_version=2,
            auto_flush=False,
            request_timeout=WRITE_TIMEOUT_MS,
            # Otherwise the limit grows with the size of the request.
            request_min_throughput=0,
            # The worker's own policy retries; the client's would go on past our trust.
            retry_timeout=0,
        )
        sender.establish()  # type: ignore[no-untyped-call]  # its stub has no return type
        self._sender = sender
        return sender

    def _hang_up(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close(flush=False)


def rows_in_time_order(windows: Sequence[WindowWrite]) -> pd.DataFrame:
    """Return the windows' rows as one frame, ascending by time across all symbols.

    Of rows with equal keys the one with the highest fence comes last, and therefore wins.
    """
    windows = [window for window in windows if len(window.bars)]
    counts = [len(window.bars) for window in windows]
    ts_ms = np.concatenate([window.bars.ts_ms for window in windows] or [np.empty(0, np.int64)])
    fence = np.repeat([window.fence for window in windows], counts)
    order = np.lexsort((fence, ts_ms))
    symbols = sorted({window.series.symbol for window in windows})
    code = {symbol: at for at, symbol in enumerate(symbols)}
    codes = np.repeat(
        np.array([code[window.series.symbol] for window in windows], dtype=np.int64), counts
    )
    gens = np.repeat([window.gen for window in windows], counts).astype(np.int32)
    columns: dict[str, object] = {
        "ts": (ts_ms[order] * 1000).view("datetime64[us]"),
        "symbol": pd.Categorical.from_codes(codes[order], categories=pd.Index(symbols)),
        "gen": gens[order],
    }
    for name in VALUE_COLUMNS:
        values = [getattr(window.bars, name) for window in windows]
        columns[name] = np.concatenate(values or [np.empty(0)])[order]
    return pd.DataFrame(columns, copy=False)


def _wrapped(exc: QuestDBError, table: str) -> StoreError:
    said = str(exc).strip()
    if exc.code is QuestDBErrorCode.AuthError:
        return StoreRefused(f"QuestDB refuses our credentials for writing: {said}")
    # The server's answer carries its own code; "invalid" is a row that it will never take.
    if exc.code is QuestDBErrorCode.ServerFlushError and '"code":"invalid"' in said:
        return StoreRefused(f"QuestDB table {table} refuses rows: {said}")
    return StoreUnavailable(f"QuestDB did not acknowledge rows for {table}: {said}")
