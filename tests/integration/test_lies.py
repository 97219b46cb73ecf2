"""The main job while the exchange lies in every way it can, one way at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pytest

from integration import recorded
from integration.filling import (
    StoreUnderTest,
    a_world,
    assert_everything_is_there,
    bars_of,
    coverage,
    create_backfill,
    start_all,
    watch_backfill,
)
from integration.recorded import DAY_MS, MINUTE_MS
from seamfill.bars import VALUE_COLUMNS, Bars, content_digest
from seamfill.presets import load_venues
from seamfill_coordinator.machine.ending import MAX_ATTEMPTS
from seamfill_worker.retry import TRIES

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

KLINES: Final = 'path = "/api/v3/klines"'

WORKERS: Final = ("w1", "w2")
CONCURRENT: Final = len(WORKERS) * load_venues()["ccxt:binance"].max_concurrent

# The HTTP client under ccxt repeats a GET whose connection was cut, once and without a word. So a
# cut is noticed only when it hits a request and its repetition. While none is noticed, every cut
# hits another request whose repetition is still to come, and there are at most CONCURRENT of those:
# in a run that is longer, one must be cut twice, whatever the machine does. Twice as long, because
# a second reason to repeat (another client, a reused connection) must not bring the luck back. And
# far from enough to use up a window's attempts, even if one window had all the bad luck.
CUTS: Final = 2 * CONCURRENT + 1
assert CUTS < TRIES * MAX_ATTEMPTS
CUT_RUN: Final = list(range(4, 4 + CUTS))

# Every kind of lie, on some requests; each ends with the truth, because none of them is constant.
HARMLESS_IN_THE_END: Final = {
    "status_429": (
        f'kind = "status"\ncode = 429\nheaders = {{ "Retry-After" = "1" }}\n{KLINES}\n'
        "when = [3, 7, 8]"
    ),
    "status_418": (
        f'kind = "status"\ncode = 418\nheaders = {{ "Retry-After" = "2" }}\n{KLINES}\nwhen = [5]'
    ),
    "status_503": f'kind = "status"\ncode = 503\n{KLINES}\nevery = 9',
    "html_200": f'kind = "html_200"\n{KLINES}\nevery = 10',
    "truncate": f'kind = "truncate"\n{KLINES}\nevery = 8',
    "truncate_short": f'kind = "truncate"\nshort = true\n{KLINES}\nwhen = {CUT_RUN}',
    "hang": f'kind = "hang"\nseconds = 60\n{KLINES}\nwhen = [4, 5, 6, 7, 8]',
    "reset": f'kind = "reset"\n{KLINES}\nwhen = {CUT_RUN}',
    "empty": f'kind = "empty"\n{KLINES}\nevery = 7',
    "empty_list": f'kind = "empty"\nbody = "[]"\n{KLINES}\nwhen = [2, 9, 17]',
    "drop_bars": (
        f'kind = "drop_bars"\n{KLINES}\n'
        'bars = ["2021-04-22T10:00:00Z", "2021-04-22T10:30:00Z"]\n'
        'start = "2021-04-22T10:00:00Z"\nend = "2021-04-22T10:31:00Z"\nwhen = [1]'
    ),
    "duplicate_bars": f'kind = "duplicate_bars"\n{KLINES}\nevery = 7',
    "partial_last": f'kind = "partial_last"\n{KLINES}\nevery = 5',
    "off_grid": f'kind = "off_grid"\n{KLINES}\nevery = 7',
    "out_of_range": f'kind = "out_of_range"\n{KLINES}\nevery = 7',
}


@pytest.mark.parametrize("name", HARMLESS_IN_THE_END)
async def test_a_passing_lie_leaves_exactly_the_truth(
    name: str, one_store: StoreUnderTest, tmp_path: Path
) -> None:
    """Nothing wrong is stored or called complete, and in the end everything is there."""
    recording = recorded.load("LTC/USDT")
    lies = tmp_path / "lies.toml"
    lies.write_text(f"[[lie]]\n{HARMLESS_IN_THE_END[name]}\n")
    async with a_world(tmp_path, one_store) as world:
        exchange = await start_all(
            world,
            tmp_path,
            one_store,
            workers=WORKERS,
            exchange_options=["--lies", str(lies)],
        )
        created = await create_backfill(
            world, [recording.symbol], recording.start_ms, recording.end_ms, store=one_store
        )
        printed = await watch_backfill(world, created["id"], timeout_s=240)
        assert printed.exit_code == 0, printed.stdout[-800:] + printed.stderr
        await assert_everything_is_there(world, recording, one_store, tmp_path)
        told = await exchange.look("requests")
        assert any(request.get("lie") for request in told["requests"]), "the lie was never told"
        if name in LOGGED:
            logs = "".join(worker.log.read_text() for worker in world.workers.values())
            assert LOGGED[name] in logs


# What an operator finds in the workers' logs, by lie. Nothing of a half-filled last row: the last
# row of an answer is never believed before another answer repeats it. None of them is luck: only
# cut connections are repeated in silence (CUT_RUN), a timeout is not; a refused or malformed answer
# is told at once; and what contradicts other answers is outvoted, which is told as well.
LOGGED: Final = {
    "status_429": "source_rate_limited",
    "status_418": "source_rate_limited",
    "status_503": "source_unavailable",
    "html_200": "source_malformed",
    "truncate": "source_malformed",
    "truncate_short": "source_unavailable",
    "hang": "source_unavailable",
    "reset": "source_unavailable",
    "empty": "source_malformed",
    "empty_list": "source.contradicted_itself",
    "drop_bars": "source.contradicted_itself",
    "duplicate_bars": "source_malformed",
    "off_grid": "source_malformed",
    "out_of_range": "source_malformed",
}


async def test_under_restatement_each_window_is_one_complete_version(
    one_store: StoreUnderTest, tmp_path: Path
) -> None:
    """The exchange changes all values in the middle: no window is a mixture of both."""
    recording = recorded.load("LTC/USDT")
    window_bars = 1800
    lies = tmp_path / "lies.toml"
    lies.write_text(f'[[lie]]\nkind = "restate"\n{KLINES}\nfrom_request = 30\nfactor = 1.01\n')
    async with a_world(tmp_path, one_store) as world:
        # Few windows at a time: some must be complete before the values change.
        await start_all(
            world,
            tmp_path,
            one_store,
            exchange_options=["--lies", str(lies)],
            worker_options=["--max-leases", "2"],
        )
        created = await create_backfill(
            world, [recording.symbol], recording.start_ms, recording.end_ms, store=one_store
        )
        printed = await watch_backfill(world, created["id"], timeout_s=240)
        assert printed.exit_code == 0, printed.stdout[-800:] + printed.stderr
        new = multiplied(recording.bars, 1.01)
        stored = bars_of(one_store.rows(recording.symbol))
        versions = {"old": 0, "new": 0}
        cell_ms = window_bars * MINUTE_MS
        for cell in range(recording.start_ms // cell_ms, recording.end_ms // cell_ms + 1):
            window = (cell * cell_ms, (cell + 1) * cell_ms)
            digest = content_digest(stored.between(*window))
            olds, news = recording.bars.between(*window), new.between(*window)
            if len(olds) == 0:
                continue
            assert digest in {content_digest(olds), content_digest(news)}, "a mixture"
            versions["new" if digest == content_digest(news) else "old"] += 1
        assert versions["old"] and versions["new"], versions


def multiplied(bars: Bars, factor: float) -> Bars:
    """What the exchange's `restate` lie makes of bars."""
    columns = {
        name: np.array([round(float(value) * factor, 8) for value in getattr(bars, name)])
        for name in VALUE_COLUMNS
    }
    return Bars(ts_ms=bars.ts_ms, **columns)


async def test_what_can_not_be_proved_is_violated_and_tried_again_by_the_next_request(
    one_store: StoreUnderTest, tmp_path: Path
) -> None:
    """Bars after the venue's last answer have no right neighbour: violated, not a gap."""
    recording = recorded.load("ETH/USDT")
    beyond_ms = recording.end_ms + 2 * MINUTE_MS
    start_ms = recording.end_ms - DAY_MS
    async with a_world(tmp_path, one_store) as world:
        await start_all(world, tmp_path, one_store)
        created = await create_backfill(
            world, [recording.symbol], start_ms, beyond_ms, store=one_store
        )
        printed = await watch_backfill(world, created["id"], timeout_s=120)
        assert printed.exit_code == 7, printed.stdout[-800:] + printed.stderr
        seen = await coverage(world, recording.symbol, start_ms, beyond_ms)
        assert [part[:2] for part in seen["covered"]] == [[start_ms, recording.end_ms]]
        assert [(part["start_ms"], part["end_ms"]) for part in seen["violated"]] == [
            (recording.end_ms, beyond_ms)
        ]
        assert seen["violated"][0]["reason"] == "no_right_neighbour"
        again = await create_backfill(
            world, [recording.symbol], start_ms, beyond_ms, store=one_store
        )
        assert again["windows"] == 1
