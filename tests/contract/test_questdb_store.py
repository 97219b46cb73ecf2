"""What only a real QuestDB can show: tables that differ, lag, suspension, kills and silence."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from seamfill.bars import Bars, content_digest
from seamfill.connectors import GenRange
from seamfill.errors import InvalidInput, StoreNotVisible, StoreRefused, StoreUnavailable
from seamfill.protocol.values import DatasetSpec
from seamfill.sources.questdb import QuestDBReader
from seamfill.sources.questdb_address import QuestDBAddress
from seamfill.sources.questdb_wire import PgWire
from seamfill.testing.store_contract import StoreContract, assert_holds, make_window, whole
from seamfill_chaos.parts.questdb import QuestDBServer
from seamfill_worker.stores.questdb import QuestDBStore

pytestmark = pytest.mark.real

MINUTE_MS = 60_000


@pytest.fixture
def address(questdb_environment: Mapping[str, str]) -> QuestDBAddress:
    return QuestDBAddress.from_environment(questdb_environment, http_required=True)


@pytest.fixture
async def wire(address: QuestDBAddress) -> AsyncIterator[PgWire]:
    """Plain SQL, for what a test does behind the store's back."""
    wire = PgWire(address.dsn)
    yield wire
    await wire.aclose()


@pytest.fixture
async def store(address: QuestDBAddress, table_name: str) -> AsyncIterator[QuestDBStore]:
    store = QuestDBStore(address, table_name)
    yield store
    await store.aclose()


GOOD = (
    "ts TIMESTAMP, symbol SYMBOL, gen INT, "
    "open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE"
)
SHAPE = "TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, symbol, gen)"


@pytest.mark.parametrize(
    ("columns", "shape", "says"),
    [
        (GOOD.replace("volume DOUBLE", "volume FLOAT"), SHAPE, "volume is FLOAT, not DOUBLE"),
        (GOOD.replace("gen INT", "gen LONG"), SHAPE, "gen is LONG, not INT"),
        (GOOD.replace(", volume DOUBLE", ""), SHAPE, "column volume DOUBLE is missing"),
        (GOOD, SHAPE.replace("DAY", "MONTH"), "partitionBy is MONTH, not DAY"),
        (GOOD, "TIMESTAMP(ts) PARTITION BY DAY WAL", "dedup keys are"),
        (GOOD, SHAPE.replace(", gen)", ")"), r"dedup keys are \(symbol, ts\)"),
        (GOOD, "TIMESTAMP(ts) PARTITION BY DAY BYPASS WAL", "walEnabled is False"),
    ],
)
async def test_a_table_that_differs_is_refused_by_the_difference(
    store: QuestDBStore, wire: PgWire, table_name: str, columns: str, shape: str, says: str
) -> None:
    await wire.fetch(f"CREATE TABLE {table_name} ({columns}) {shape}")
    with pytest.raises(StoreRefused, match=says) as refusal:
        await store.prepare(StoreContract.spec)
    assert table_name in refusal.value.message


async def test_further_columns_and_another_order_do_no_harm(
    store: QuestDBStore, wire: PgWire, table_name: str
) -> None:
    await wire.fetch(f"CREATE TABLE {table_name} (note VARCHAR, {GOOD}) {SHAPE}")
    await store.prepare(StoreContract.spec)
    window = make_window()
    await store.write([window])
    await assert_holds(store, window)


async def test_daily_bars_lie_in_yearly_partitions(
    store: QuestDBStore, wire: PgWire, table_name: str
) -> None:
    daily = DatasetSpec(
        kind="ohlcv", interval_ms=86_400_000, source="test:none", store="test:store"
    )
    await store.prepare(daily)
    found = await wire.fetch(
        "SELECT partitionBy FROM tables() WHERE table_name = %s", (table_name,)
    )
    assert found == [("YEAR",)]
    with pytest.raises(StoreRefused, match="partitionBy is YEAR, not DAY"):
        await store.prepare(StoreContract.spec)


async def test_two_workers_may_prepare_at_the_same_time(
    address: QuestDBAddress, table_name: str
) -> None:
    stores = [QuestDBStore(address, table_name) for _ in range(4)]
    try:
        await asyncio.gather(*(store.prepare(StoreContract.spec) for store in stores))
    finally:
        await asyncio.gather(*(store.aclose() for store in stores))


async def test_a_table_that_nobody_has_created_reads_as_empty(
    address: QuestDBAddress, table_name: str
) -> None:
    reader = QuestDBReader(address, table_name)
    window = make_window()
    assert len(await reader.read(window.series, whole(window))) == 0
    await reader.aclose()


async def test_repeated_rows_are_stored_once(
    store: QuestDBStore, wire: PgWire, table_name: str
) -> None:
    await store.prepare(StoreContract.spec)
    window = make_window()
    for _ in range(3):
        await store.write([window])
    assert await wire.fetch(f"SELECT count() FROM {table_name}") == [(100,)]


async def test_concurrent_writes_share_transactions(
    store: QuestDBStore, wire: PgWire, table_name: str
) -> None:
    """Sixteen writers, far fewer flushes: what came during the first goes in the second."""
    await store.prepare(StoreContract.spec)
    windows = [make_window(f"S{at}", seed=at) for at in range(16)]
    await asyncio.gather(*(store.write([window]) for window in windows))
    [(transactions,)] = await wire.fetch(
        "SELECT sequencerTxn FROM wal_tables() WHERE name = %s", (table_name,)
    )
    assert transactions <= 3
    for window in windows:
        await assert_holds(store, window)


async def test_a_writer_cancelled_before_its_flush_writes_nothing(store: QuestDBStore) -> None:
    await store.prepare(StoreContract.spec)
    windows = [make_window(f"S{at}", seed=at) for at in range(3)]
    first, cancelled, last = (asyncio.ensure_future(store.write([each])) for each in windows)
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(first, last)
    await assert_holds(store, windows[0])
    await assert_holds(store, windows[2])
    assert len(await store.read(windows[1].series, whole(windows[1]))) == 0


async def test_a_flush_whose_leader_is_cancelled_reaches_the_others(store: QuestDBStore) -> None:
    await store.prepare(StoreContract.spec)
    windows = [make_window(f"S{at}", seed=at, bars=1800) for at in range(4)]
    writes = [asyncio.ensure_future(store.write([window])) for window in windows]
    while not store.flushing:  # noqa: ASYNC110  it becomes so within two turns of the loop
        await asyncio.sleep(0)
    writes[0].cancel()
    await asyncio.gather(*writes[1:])
    for window in windows[1:]:
        await assert_holds(store, window)


async def test_more_rows_than_one_transaction_takes(
    store: QuestDBStore, address: QuestDBAddress, table_name: str
) -> None:
    """A quarter of a million bars: several transactions out, the export back."""
    await store.prepare(StoreContract.spec)
    window = make_window(bars=250_000)
    await store.write([window])
    await assert_holds(store, window)
    by_wire = QuestDBReader(replace(address, http=None), table_name)
    await assert_holds(by_wire, window)
    await by_wire.aclose()


async def test_pages_never_cut_generations_apart(
    store: QuestDBStore, table_name: str, address: QuestDBAddress
) -> None:
    """Three generations at every instant, and pages of every small size."""
    await store.prepare(StoreContract.spec)
    windows = [make_window(bars=60, gen=gen, seed=gen) for gen in range(3)]
    await store.write(windows)
    start_ms = windows[0].start_ms
    ranges = [
        GenRange(
            start_ms=start_ms + at * MINUTE_MS,
            end_ms=start_ms + (at + 5) * MINUTE_MS,
            gen=at // 5 % 3,
        )
        for at in range(0, 60, 5)
    ]
    expected = Bars.concat(
        [windows[wanted.gen].bars.between(wanted.start_ms, wanted.end_ms) for wanted in ranges]
    )
    for rows in range(4, 12):
        reader = QuestDBReader(address, table_name, wire_page_rows=rows, export_page_rows=rows + 9)
        found = await reader.read(windows[0].series, ranges)
        await reader.aclose()
        assert content_digest(found) == content_digest(expected)


async def test_a_busy_export_is_replaced_by_the_wire(
    store: QuestDBStore, address: QuestDBAddress, table_name: str
) -> None:
    """The server takes two exports at once and answers 429 beyond; readers must not notice."""
    await store.prepare(StoreContract.spec)
    window = make_window(bars=3000)
    await store.write([window])
    readers = [
        QuestDBReader(address, table_name, wire_page_rows=500, export_page_rows=500)
        for _ in range(8)
    ]
    await asyncio.gather(*(assert_holds(reader, window) for reader in readers))
    await asyncio.gather(*(reader.aclose() for reader in readers))


async def test_writes_share_one_connection(address: QuestDBAddress, table_name: str) -> None:
    """Counted by a door of our own in front of the server."""
    assert address.http is not None
    host, port = address.http.host, address.http.port
    handlers: list[asyncio.Task[None]] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.ensure_future(forward(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as door:
        before = replace(address.http, host="127.0.0.1", port=door.sockets[0].getsockname()[1])
        store = QuestDBStore(replace(address, http=before), table_name)
        await store.prepare(StoreContract.spec)
        for at in range(5):
            await store.write([make_window(seed=at)])
        await store.aclose()
        await asyncio.gather(*handlers)
    assert len(handlers) == 1


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_suspended_table_is_named_with_the_way_out(
    store: QuestDBStore, wire: PgWire, table_name: str
) -> None:
    await store.prepare(StoreContract.spec)
    await wire.fetch(f"ALTER TABLE {table_name} SUSPEND WAL")
    window = make_window()
    with pytest.raises(StoreNotVisible, match=f"ALTER TABLE {table_name} RESUME WAL"):
        await store.write([window])
    await wire.fetch(f"ALTER TABLE {table_name} RESUME WAL")
    await store.write([window])
    await assert_holds(store, window)


async def test_a_dropped_table_is_refused_not_created_without_dedup(
    store: QuestDBStore, wire: PgWire, table_name: str
) -> None:
    await store.prepare(StoreContract.spec)
    await store.write([make_window()])
    await wire.fetch(f"DROP TABLE {table_name}")
    with pytest.raises(StoreRefused, match=table_name):
        await store.write([make_window()])


async def test_a_table_made_anew_without_dedup_is_noticed(
    store: QuestDBStore, wire: PgWire, table_name: str
) -> None:
    """As a server that creates tables by itself does when somebody drops ours."""
    await store.prepare(StoreContract.spec)
    for at in range(3):
        await store.write([make_window(seed=at)])
    await wire.fetch(f"DROP TABLE {table_name}")
    await wire.fetch(f"CREATE TABLE {table_name} ({GOOD}) TIMESTAMP(ts) PARTITION BY DAY WAL")
    with pytest.raises(StoreRefused, match="dedup"):
        await store.write([make_window()])


async def test_acknowledged_rows_survive_sigkill(
    mortal_questdb: QuestDBServer, table_name: str
) -> None:
    """Writes go on until the server is shot; what returned is there, what failed is repeated."""
    address = QuestDBAddress.from_environment(mortal_questdb.environment, http_required=True)
    store = QuestDBStore(address, table_name)
    await store.prepare(StoreContract.spec)
    acknowledged, in_doubt = [], []
    for at in range(1_000):
        if at == 20:
            asyncio.get_running_loop().call_later(0.02, mortal_questdb.kill)
        window = make_window(
            f"S{at % 3}", start_ms=make_window().start_ms + at * 6_000_000, seed=at
        )
        try:
            await store.write([window])
        except StoreUnavailable:
            in_doubt.append(window)
            break
        acknowledged.append(window)
    assert in_doubt, "the server was not hit while writing"
    assert len(acknowledged) >= 20
    await mortal_questdb.start()
    for window in acknowledged:
        await assert_holds(store, window)
    await store.write(in_doubt)
    for window in in_doubt:
        await assert_holds(store, window)
    await store.aclose()


BOUND_S = 9.0
"""Three seconds for a flush and some for a busy machine; the client's own limits are ten each."""


async def test_a_server_that_is_down_or_silent_is_reported_within_bounds(
    mortal_questdb: QuestDBServer, table_name: str
) -> None:
    address = QuestDBAddress.from_environment(mortal_questdb.environment, http_required=True)
    store = QuestDBStore(address, table_name)
    await store.prepare(StoreContract.spec)
    window = make_window()
    await store.write([window])

    mortal_questdb.pause()
    assert await seconds_until_unavailable(store) < BOUND_S
    mortal_questdb.resume()
    await store.write([window])
    await assert_holds(store, window)

    mortal_questdb.kill()
    assert await seconds_until_unavailable(store) < BOUND_S
    with pytest.raises(StoreUnavailable):
        await store.read(window.series, whole(window))
    await mortal_questdb.start()
    await store.write([window])
    await assert_holds(store, window)
    await store.aclose()


async def seconds_until_unavailable(store: QuestDBStore) -> float:
    """Return how long a write takes to be refused while the loop stays responsive."""
    began = time.monotonic()
    writing = asyncio.ensure_future(store.write([make_window(seed=7)]))
    slowest = 0.0
    while not writing.done():
        turn = time.monotonic()
        await asyncio.sleep(0.01)
        slowest = max(slowest, time.monotonic() - turn)
    with pytest.raises(StoreUnavailable):
        await writing
    took = time.monotonic() - began
    # A blocked loop stands still for the whole attempt; a busy machine never for most of it.
    assert slowest < max(1.0, took / 2), "the event loop was blocked"
    return took


async def test_a_cancelled_query_on_a_silent_server_returns_at_once(
    mortal_questdb: QuestDBServer,
) -> None:
    """The driver's own way of cancelling would wait ten seconds for each of the two."""
    wire = PgWire(mortal_questdb.dsn)
    try:
        await wire.fetch("SELECT 1")
        mortal_questdb.pause()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"within 0\.2 s"):
            await wire.fetch("SELECT 2", timeout_s=0.2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.fetch("SELECT 3"), 0.2)
        assert time.monotonic() - began < 8
        mortal_questdb.resume()
        assert await wire.fetch("SELECT 4") == [(4,)]
    finally:
        await wire.aclose()


def test_addresses_are_read_from_the_environment() -> None:
    given = {"QUESTDB_DSN": "postgresql://u:secret@h:1/qdb", "QUESTDB_HTTP": "https://a:b%40@h:2/"}
    address = QuestDBAddress.from_environment(given, http_required=True)
    assert address.http is not None
    assert (address.http.url, address.http.password) == ("https://h:2", "b@")
    assert "secret" not in repr(address)
    assert "b@" not in repr(address)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "QUESTDB_DSN"),
        ({"QUESTDB_DSN": "secret nonsense"}, "QUESTDB_DSN"),
        ({"QUESTDB_DSN": "postgresql://h/q"}, "QUESTDB_HTTP"),
        ({"QUESTDB_DSN": "postgresql://h/q", "QUESTDB_HTTP": "h:9000"}, "QUESTDB_HTTP"),
        ({"QUESTDB_DSN": "postgresql://h/q", "QUESTDB_HTTP": "http://h:secret"}, "QUESTDB_HTTP"),
        ({"QUESTDB_DSN": "postgresql://h/q", "QUESTDB_HTTP": "http://h/secret"}, "QUESTDB_HTTP"),
    ],
)
def test_a_wrong_address_names_its_variable_and_hides_its_value(
    given: Mapping[str, str], field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        QuestDBAddress.from_environment(given, http_required=True)
    assert refusal.value.field == field
    assert "secret" not in refusal.value.message
