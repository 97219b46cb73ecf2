"""Presets files: what is accepted, and that every refusal names its entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamfill.errors import InvalidInput
from seamfill.presets import (
    MAX_FILE_BYTES,
    BackfillMode,
    DataKind,
    cautious_venue,
    load_presets,
    load_venues,
)

GOOD = """
version: 1
data_presets:
  ohlcv.x:
    kind: ohlcv
    interval_ms: 60000
    storage: "parquet:/data"
    backfill: {source: "ccxt:binance"}
"""


def refused(tmp_path: Path, text: str) -> InvalidInput:
    path = tmp_path / "presets.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        load_presets(path)
    return caught.value


def test_the_packaged_presets_are_the_two_standard_ones() -> None:
    presets = load_presets()
    minute = presets.preset("ohlcv.binance.spot.1m")
    assert list(presets) == ["ohlcv.binance.spot.1m", "ohlcv.polygon.us_equity.1d"]
    assert (minute.kind, minute.interval_ms) == (DataKind.OHLCV, 60_000)
    assert minute.backfill.mode is BackfillMode.BACKGROUND
    assert minute.live is not None
    assert minute.live.feed == "binance.ws.kline.1m"
    assert presets["ohlcv.polygon.us_equity.1d"].live is None


def test_a_preset_becomes_the_identity_of_its_dataset() -> None:
    preset = load_presets().preset("ohlcv.binance.spot.1m")
    spec = preset.dataset_spec(load_venues())
    assert spec.store == "questdb:ohlcv_binance_spot_1m"
    assert (spec.kind, spec.interval_ms, spec.source) == ("ohlcv", 60_000, "ccxt:binance")
    assert spec.dense is True
    assert preset.dataset_spec(load_venues(), store="parquet:/d").store == "parquet:/d"


def test_a_venue_nobody_described_is_taken_to_be_sparse_and_slow() -> None:
    venue = cautious_venue("ccxt:elsewhere")
    assert not venue.dense
    assert venue.max_concurrent == 1
    spec = load_presets().preset("ohlcv.binance.spot.1m").dataset_spec({})
    assert spec.dense is False


def test_a_preset_may_overrule_its_venue_on_density(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD + "    dense: false\n", encoding="utf-8")
    assert load_presets(path).preset("ohlcv.x").dataset_spec(load_venues()).dense is False


def test_an_unknown_dataset_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(InvalidInput, match=r"did you mean ohlcv\.binance\.spot\.1m") as caught:
        load_presets().preset("ohlcv.binance.spot.5m")
    assert caught.value.field == "dataset"


@pytest.mark.parametrize(
    ("old", "new", "field", "says"),
    [
        ("60000", '"60000"', "data_presets.ohlcv.x.interval_ms", "expected `int`"),
        ("60000", "0", "data_presets.ohlcv.x.interval_ms", ">= 1"),
        ("60000", "true", "data_presets.ohlcv.x.interval_ms", "expected `int`"),
        ("kind: ohlcv", "kind: orderbook", "data_presets.ohlcv.x.kind", "not built"),
        ("interval_ms", "interval", "data_presets.ohlcv.x.interval", "unknown key"),
        ("source:", "sauce:", "data_presets.ohlcv.x.backfill.sauce", "unknown key"),
        ('{source: "ccxt:binance"}', "{}", "data_presets.ohlcv.x.backfill.source", "required"),
        ('"ccxt:binance"', '"binance"', "data_presets.ohlcv.x.backfill.source", "matching regex"),
        (
            "kind: ohlcv",
            "kind: ohlcv\n    conformance_preset: nope",
            "data_presets.ohlcv.x.conformance_preset",
            "one of strict-blocking, permissive-dev",
        ),
        (
            "kind: ohlcv",
            "kind: ohlcv\n    sla_preset: nope",
            "data_presets.ohlcv.x.sla_preset",
            "one of baseline, tolerant-partial",
        ),
        ("version: 1", "version: 2", "version", "this release reads 1"),
        ("version: 1", "version: true", "version", "this release reads 1"),
        ("version: 1", "version: 1\nextra: 1", "extra", "unknown key"),
        ("data_presets:", "data:", "data", "unknown key"),
        ("kind: ohlcv", "kind: trades", "data_presets.ohlcv.x.kind", "not built yet"),
        ("kind: ohlcv", "kind: ohlcv\n    kind: trades", "data_presets.ohlcv.x.kind", "twice"),
        ("ohlcv.x:", "a|b:", "data_presets.a|b", "without |"),
    ],
)
def test_a_wrong_entry_is_named_by_its_full_path(
    tmp_path: Path, old: str, new: str, field: str, says: str
) -> None:
    assert old in GOOD
    error = refused(tmp_path, GOOD.replace(old, new, 1))
    assert error.field == field
    assert says in error.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "{",
        "a: &x 1\nb: *x",
        "!!python/object/apply:os.system [ls]",
        "\x00",
        "[" * 5000,
        "version: 1\ndata_presets: [1]",
        "version: 1\ndata_presets: {1: {}}",
        "version: 1\ndata_presets: {a: 2020-13-45}",
    ],
)
def test_what_is_not_a_presets_file_is_refused_not_crashed_on(tmp_path: Path, text: str) -> None:
    refused(tmp_path, text)


def test_a_file_over_the_cap_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    error = refused(tmp_path, "#" * (MAX_FILE_BYTES + 1))
    assert "larger than" in error.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.yaml"):
        load_presets(tmp_path / "nowhere.yaml")


def test_packaged_venues_carry_the_weights_that_budgets_are_kept_in() -> None:
    venue = load_venues()["ccxt:binance"]
    assert (venue.page_bars, venue.page_weight, venue.weight_per_minute) == (1000, 2, 6000)


def test_a_wrong_venue_is_named_by_its_full_path(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("version: 1\nvenues: {'ccxt:x': {page_bars: 0}}\n", encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        load_venues(path)
    assert caught.value.field == "venues.ccxt:x.page_bars"
