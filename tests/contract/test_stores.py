"""Every store of ours under the suite that users get, and what only one of them can show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from seamfill.bars import content_digest
from seamfill.connectors import Store, StoreReader
from seamfill.memory_store import MemoryStore
from seamfill.sources.parquet import ParquetReader
from seamfill.sources.questdb import QuestDBReader
from seamfill.sources.questdb_address import QuestDBAddress
from seamfill.testing.store_contract import StoreContract, make_window, whole
from seamfill_worker.stores.parquet import ParquetStore
from seamfill_worker.stores.questdb import QuestDBStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    @pytest.fixture
    def open_reader(self, store: Store) -> Callable[[], StoreReader]:
        return lambda: store


class TestParquetStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = ParquetStore(tmp_path / "bars")
        await store.prepare(self.spec)
        yield store
        await store.aclose()

    @pytest.fixture
    def open_reader(self, tmp_path: Path) -> Callable[[], StoreReader]:
        return lambda: ParquetReader(tmp_path / "bars")


@pytest.mark.real
class TestQuestDBStore(StoreContract):
    async def test_the_highest_fence_wins_for_its_whole_range(self, store: Store) -> None:
        """QuestDB can not fence: a zombie's late write is seen. The content digest tells."""
        newer, zombie = make_window(fence=5, seed=5), make_window(fence=3, seed=3)
        await store.write([newer])
        await store.write([zombie])
        found = await store.read(newer.series, whole(newer))
        assert content_digest(found) != content_digest(newer.bars)
        assert content_digest(found) == content_digest(zombie.bars)

    @pytest.fixture
    def address(self, questdb_environment: Mapping[str, str]) -> QuestDBAddress:
        return QuestDBAddress.from_environment(questdb_environment, http_required=True)

    @pytest.fixture
    async def store(self, address: QuestDBAddress, table_name: str) -> AsyncIterator[Store]:
        store = QuestDBStore(address, table_name)
        await store.prepare(self.spec)
        yield store
        await store.aclose()

    @pytest.fixture
    def open_reader(self, address: QuestDBAddress, table_name: str) -> Callable[[], StoreReader]:
        return lambda: QuestDBReader(address, table_name)


@pytest.mark.real
class TestQuestDBStoreReadByExport(TestQuestDBStore):
    """The same promises when nearly every row comes in small pages of the Parquet export."""

    @pytest.fixture
    async def store(self, address: QuestDBAddress, table_name: str) -> AsyncIterator[Store]:
        store = QuestDBStore(
            address, table_name, reader=QuestDBReader(address, table_name, **self.PAGES)
        )
        await store.prepare(self.spec)
        yield store
        await store.aclose()

    @pytest.fixture
    def open_reader(self, address: QuestDBAddress, table_name: str) -> Callable[[], StoreReader]:
        return lambda: QuestDBReader(address, table_name, **self.PAGES)

    PAGES: ClassVar[dict[str, Any]] = {"wire_page_rows": 7, "export_page_rows": 700}
