"""Every store of ours under the suite that users get, and what only one of them can show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from seamfill.connectors import Store, StoreReader
from seamfill.memory_store import MemoryStore
from seamfill.sources.parquet import ParquetReader
from seamfill.testing.store_contract import StoreContract
from seamfill_worker.stores.parquet import ParquetStore


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
