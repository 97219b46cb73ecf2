"""What only files can show: formats, damage, forgotten files and a full disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seamfill.bars import content_digest
from seamfill.errors import StoreRefused, StoreUnavailable
from seamfill.sources.parquet import ParquetReader
from seamfill.sources.parquet_layout import MARKER
from seamfill.testing.store_contract import (
    StoreContract,
    assert_holds,
    make_window,
    whole,
)
from seamfill_worker.stores.parquet import ParquetStore


async def written(directory: Path) -> tuple[ParquetStore, Path]:
    """Return a store with one window, and that window's file."""
    store = ParquetStore(directory)
    await store.prepare(StoreContract.spec)
    await store.write([make_window()])
    return store, next(directory.rglob("*.parquet"))


async def test_a_directory_that_does_not_exist_reads_as_empty(tmp_path: Path) -> None:
    window = make_window()
    found = await ParquetReader(tmp_path / "absent").read(window.series, whole(window))
    assert len(found) == 0


async def test_repeating_a_window_leaves_one_file(tmp_path: Path) -> None:
    store, path = await written(tmp_path)
    await store.write([make_window()])
    await store.write([make_window(seed=9)])
    assert list(tmp_path.rglob("*.parquet")) == [path]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


async def test_the_same_window_twice_in_one_write_counts_once(tmp_path: Path) -> None:
    store, _ = await written(tmp_path)
    later = make_window(seed=4)
    await store.write([make_window(seed=3), later])
    await assert_holds(store, later)


async def test_a_directory_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    store, _ = await written(tmp_path)
    (tmp_path / MARKER).write_bytes(b'{"kind":"parquet","format":2}')
    window = make_window()
    for refused in (store.prepare(StoreContract.spec), store.read(window.series, whole(window))):
        with pytest.raises(StoreRefused, match=r"format 2.*upgrade"):
            await refused


async def test_bars_without_a_marker_are_refused_not_guessed(tmp_path: Path) -> None:
    store, _ = await written(tmp_path)
    (tmp_path / MARKER).unlink()
    window = make_window()
    with pytest.raises(StoreRefused, match=MARKER):
        await store.read(window.series, whole(window))


async def test_a_file_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    store, path = await written(tmp_path)
    table = pq.read_table(path)
    metadata = {**(table.schema.metadata or {}), b"seamfill.format": b"2"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    window = make_window()
    with pytest.raises(StoreRefused, match=r"format 2.*upgrade"):
        await store.read(window.series, whole(window))


async def test_a_file_in_another_series_place_is_refused(tmp_path: Path) -> None:
    store, path = await written(tmp_path)
    other = make_window("ETH/USDT")
    await store.write([other])
    foreign = next(p for p in tmp_path.rglob("*.parquet") if "ETH" in str(p))
    path.replace(foreign)
    with pytest.raises(StoreRefused, match="another series"):
        await store.read(other.series, whole(other))


async def test_no_single_flipped_byte_reads_as_other_rows(tmp_path: Path) -> None:
    """Page checksums, magic numbers and metadata: damage is refused, or changes nothing."""
    store, path = await written(tmp_path)
    window = make_window()
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), 11):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            found = await store.read(window.series, whole(window))
        except StoreRefused as refusal:
            assert path.name in refusal.message
            refused += 1
        else:
            assert content_digest(found) == content_digest(window.bars), f"byte {at}"
    assert refused > len(content) // 11 * 0.8


async def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    store, path = await written(tmp_path)
    window = make_window()
    content = path.read_bytes()
    for length in (0, 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StoreRefused, match=path.name):
            await store.read(window.series, whole(window))


async def test_forgotten_temporary_files_are_removed_and_young_ones_kept(tmp_path: Path) -> None:
    store, path = await written(tmp_path)
    old = path.with_name(".seamfill-tmp-1-dead")
    young = path.with_name(".seamfill-tmp-2-alive")
    for temporary in (old, young):
        temporary.write_bytes(b"half a window")
    os.utime(old, (0, 0))
    await assert_holds(store, make_window())
    await store.prepare(StoreContract.spec)
    assert not old.exists()
    assert young.exists()


async def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bars").write_text("not a directory")
    with pytest.raises((StoreRefused, StoreUnavailable), match="bars"):
        await ParquetStore(tmp_path / "bars").prepare(StoreContract.spec)


@pytest.mark.real
async def test_a_full_disk_is_refused_clearly_and_leaves_no_partial_file(small_disk: Path) -> None:
    store = ParquetStore(small_disk)
    await store.prepare(StoreContract.spec)
    held = []
    with pytest.raises(StoreRefused, match="no space left on the disk under"):
        for at in range(100):
            window = make_window(f"S{at}", bars=1800, seed=at)
            await store.write([window])
            held.append(window)
    assert held, "the disk was full from the start"
    files = [path for path in small_disk.rglob("*") if path.is_file()]
    assert len(files) == len(held) + 1
    assert not [path for path in files if "tmp" in path.name]
    for window in held:
        await assert_holds(store, window)
    refused = make_window(f"S{len(held)}")
    assert len(await store.read(refused.series, whole(refused))) == 0
    next(small_disk.rglob("*.parquet")).unlink()
    await store.write([replace(refused, fence=2)])
    await assert_holds(store, refused)
