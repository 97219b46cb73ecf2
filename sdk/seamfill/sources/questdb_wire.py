"""QuestDB's PG wire: short queries with bound values, on a few connections that are used again.

Owns connections, time limits and the translation of errors. Must not know tables or bars.

Invariants: ``autocommit`` always, because QuestDB silently drops old rows that are inserted inside
an explicit transaction; no server-side prepared statements; a query that failed, timed out or was
cancelled takes its connection with it, so that no answer is ever read by the wrong question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from seamfill.errors import StoreError, StoreRefused, StoreUnavailable

__all__ = ["PgWire", "TableMissing"]

_CONNECT_TIMEOUT_S: Final = 5
_QUERY_TIMEOUT_S: Final = 30.0
_MAX_CONNECTIONS: Final = 4


class TableMissing(StoreRefused):
    """The table does not exist; a worker creates it with its first window."""

    code = "store_table_missing"


class _Connection(AsyncConnection[TupleRow]):
    """A connection that hangs up instead of asking the server to cancel.

    psycopg's way opens a second connection and waits up to ten seconds for both, which a server
    that does not answer would make every one of our deadlines overrun. QuestDB notices the hang-up
    and ends the query.
    """

    async def cancel_safe(self, *, timeout: float = 0.0) -> None:  # noqa: ASYNC109  psycopg's
        self.pgconn.finish()


class PgWire:
    """A few connections to one server. Belongs to the loop that first uses it."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._free = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._idle: list[_Connection] = []
        self._closed = False

    async def fetch(
        self, query: str, values: Sequence[object] = (), *, timeout_s: float = _QUERY_TIMEOUT_S
    ) -> list[TupleRow]:
        """Run one query that may be repeated harmlessly, and return its rows (none for DDL).

        ``query`` holds only names that were checked; everything else is in ``values``. Raises
        ``StoreUnavailable`` when there is no answer in time, ``TableMissing``, or ``StoreRefused``
        with the server's words.
        """
        try:
            async with asyncio.timeout(timeout_s), self._free:
                return await self._fetch(query, values)
        except TimeoutError as exc:
            raise StoreUnavailable(
                f"QuestDB did not answer a query within {timeout_s:g} s"
            ) from exc

    async def aclose(self) -> None:
        """Close what is idle; a query that still runs closes its own connection."""
        self._closed = True
        await self._close_idle()

    async def _fetch(self, query: str, values: Sequence[object]) -> list[TupleRow]:
        if self._idle:
            # It may have died with an earlier server: then a fresh connection decides.
            try:
                return await self._fetch_on(self._idle.pop(), query, values)
            except StoreUnavailable:
                await self._close_idle()
        return await self._fetch_on(await self._connect(), query, values)

    async def _fetch_on(
        self, connection: _Connection, query: str, values: Sequence[object]
    ) -> list[TupleRow]:
        try:
            cursor = connection.cursor(binary=True)
            # Encoded, because psycopg takes a str only when it is a literal; ours has a table's
            # name in it, which was checked.
            await cursor.execute(query.encode(), values or None)
            rows = await cursor.fetchall() if cursor.description else []
        except BaseException as exc:
            await connection.close()
            if isinstance(exc, (psycopg.Error, OSError)):
                raise _wrapped(exc) from exc
            raise
        if self._closed:
            await connection.close()
        else:
            self._idle.append(connection)
        return rows

    async def _connect(self) -> _Connection:
        try:
            return await _Connection.connect(
                self._dsn,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=_CONNECT_TIMEOUT_S,
            )
        except (psycopg.Error, OSError) as exc:
            raise StoreUnavailable(f"QuestDB can not be reached at QUESTDB_DSN: {exc}") from exc

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


def _wrapped(exc: psycopg.Error | OSError) -> StoreError:
    said = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
    if "table does not exist" in said:
        return TableMissing(f"QuestDB: {said}")
    # QuestDB gives every refusal the SQLSTATE 00000; a broken connection has none at all.
    if isinstance(exc, psycopg.Error) and exc.sqlstate is not None:
        return StoreRefused(f"QuestDB refuses a query: {said}")
    return StoreUnavailable(f"QuestDB did not answer: {said}")
