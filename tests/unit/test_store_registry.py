"""Names of stores: what they open, and how a wrong one is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import pytest

from seamfill.connectors import StoreReader
from seamfill.errors import InvalidInput
from seamfill.memory_store import MemoryStore
from seamfill.sources.parquet import ParquetReader
from seamfill.sources.questdb import QuestDBReader
from seamfill.sources.registry import ENTRY_POINTS, open_reader
from seamfill_worker.stores.parquet import ParquetStore
from seamfill_worker.stores.questdb import QuestDBStore
from seamfill_worker.stores.registry import open_store

SERVER = {"QUESTDB_DSN": "postgresql://h:8812/qdb", "QUESTDB_HTTP": "http://h:9000"}


def both(spec: str, environment: Mapping[str, str]) -> list[StoreReader]:
    return [open_reader(spec, environment), open_store(spec, environment=environment)]


async def test_built_in_names_open_without_touching_anything(tmp_path: Path) -> None:
    reader, store = both(f"parquet:{tmp_path / 'bars'}", {})
    assert isinstance(reader, ParquetReader)
    assert isinstance(store, ParquetStore)
    assert store.name == f"parquet:{tmp_path / 'bars'}"
    assert not (tmp_path / "bars").exists()
    reader, store = both("questdb:bars_1m", SERVER)
    assert isinstance(reader, QuestDBReader)
    assert isinstance(store, QuestDBStore)
    assert store.name == "questdb:bars_1m"
    for opened in (reader, store):
        await opened.aclose()


async def test_a_reader_needs_no_http_address() -> None:
    reader = open_reader("questdb:bars_1m", {"QUESTDB_DSN": SERVER["QUESTDB_DSN"]})
    await reader.aclose()


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ("", "store", "is not like"),
        ("questdb", "store", "is not like"),
        ("questdb:", "store", "is not like"),
        (":bars", "store", "is not like"),
        ("sqlite:bars", "store", "known: parquet, questdb"),
        ("questdb:bars; DROP TABLE bars", "store", "letters, digits or underscores"),
        ("questdb:bars'", "store", "letters, digits or underscores"),
        ("questdb:" + "x" * 128, "store", "1 to 127"),
        ("questdb:bars", "QUESTDB_DSN", "is not set"),
        ("parquet:a\0b", "store", "null"),
    ],
)
@pytest.mark.parametrize("opening", [open_reader, lambda s, e: open_store(s, environment=e)])
def test_a_wrong_name_is_refused_by_its_field(
    opening: Callable[[str, Mapping[str, str]], object], spec: str, field: str, says: str
) -> None:
    with pytest.raises(InvalidInput, match=says) as refusal:
        opening(spec, {})
    assert refusal.value.field == field


def test_a_writer_needs_the_http_address() -> None:
    with pytest.raises(InvalidInput, match="QUESTDB_HTTP"):
        open_store("questdb:bars", environment={"QUESTDB_DSN": SERVER["QUESTDB_DSN"]})


def make_memory_store(rest: str, environment: Mapping[str, str]) -> MemoryStore:
    return MemoryStore(f"mine:{rest}:{environment['MINE']}")


def test_users_stores_are_found_by_their_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a package installed for real, as far as importlib can tell."""
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nmine = {__name__}:{make_memory_store.__name__}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert metadata.version("mine") == "1"
    for opened in both("mine:here", {"MINE": "yes"}):
        assert isinstance(opened, MemoryStore)
        assert opened.name == "mine:here:yes"
    with pytest.raises(InvalidInput, match="known: mine, parquet, questdb"):
        open_reader("other:here", {})
