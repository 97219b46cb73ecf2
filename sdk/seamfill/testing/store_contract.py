"""The behavioural suite that every store must pass; ours and yours.

Subclass it and give it a fresh store::

    class TestMyStore(StoreContract):
        @pytest_asyncio.fixture
        async def store(self) -> AsyncIterator[Store]:
            store = MyStore(...)
            await store.prepare(StoreContract.spec)
            yield store
            await store.aclose()

        @pytest.fixture
        def open_reader(self, store) -> Callable[[], StoreReader]:
            return lambda: MyReader(...)

Owns what is common to all stores. Must not know any of them. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Final

import numpy as np
import pytest

from seamfill.bars import VALUE_COLUMNS, Bars, content_digest
from seamfill.connectors import GenRange, Store, StoreReader, WindowWrite
from seamfill.errors import StoreRefused
from seamfill.protocol.values import DatasetSpec, SeriesId

__all__ = ["StoreContract", "make_window"]

_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
_START_MS: Final = 1_618_963_200_000  # 2021-04-21T00:00Z

# Every corner of float64 that is finite: both zeros, subnormals, the extremes, and neighbours
# that a decimal detour of too few digits would merge.
_CORNERS: Final = (
    0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 2.225073858507201e-308,
    1.7976931348623157e308, -1.7976931348623157e308, 0.1, 0.30000000000000004, 0.3,
    1.0, np.nextafter(1.0, 2.0), 1e23, 9007199254740993.0, 1e-9, 123456789.123456789,
)  # fmt: skip

_ODD_SYMBOLS: Final = (
    "BTC/USDT", "btc/usdt", "BTC/USDT:USDT", "BTC%2FUSDT", "../../escape", "..", "con", "CON",
    "COM1.TXT", "a b,c=d", 'quo"te', "quo'te", "back\\slash", "ünïcode", "ÜNÏCODE", "日本", ".dot.",
    "{brace}", "x" * 200, "x" * 199 + "y", "日" * 200,
)  # fmt: skip


def make_window(
    symbol: str = "BTC/USDT",
    *,
    dataset: str = "ohlcv.test.1m",
    start_ms: int = _START_MS,
    bars: int = 100,
    gen: int = 0,
    fence: int = 1,
    seed: int = 0,
) -> WindowWrite:
    """Make a window of one-minute bars whose values depend on the seed alone."""
    values = np.random.default_rng(seed).uniform(0.5, 60_000.0, size=(5, bars))
    return WindowWrite(
        series=SeriesId(dataset=dataset, symbol=symbol),
        gen=gen,
        fence=fence,
        start_ms=start_ms,
        end_ms=start_ms + bars * _MINUTE_MS,
        bars=Bars(
            ts_ms=start_ms + _MINUTE_MS * np.arange(bars, dtype=np.int64),
            **dict(zip(VALUE_COLUMNS, values, strict=True)),
        ),
    )


def whole(window: WindowWrite) -> list[GenRange]:
    """Return the range that reads exactly one window."""
    return [GenRange(start_ms=window.start_ms, end_ms=window.end_ms, gen=window.gen)]


async def assert_holds(reader: StoreReader, window: WindowWrite) -> None:
    """Fail unless the reader returns the window's rows, bit for bit and in order."""
    found = await reader.read(window.series, whole(window))
    assert found.ts_ms.dtype == np.int64
    assert found.ts_ms.tolist() == window.bars.ts_ms.tolist()
    assert content_digest(found) == content_digest(window.bars)


@pytest.mark.asyncio
class StoreContract:
    """Promises of ``seamfill.connectors.Store``. Subclasses provide the two fixtures."""

    spec: ClassVar[DatasetSpec] = DatasetSpec(
        kind="ohlcv", interval_ms=_MINUTE_MS, source="test:none", store="test:store"
    )

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError("provide a fixture `store`: a fresh, prepared Store")

    @pytest.fixture
    def open_reader(self) -> Callable[[], StoreReader]:
        raise NotImplementedError("provide a fixture `open_reader`: makes a new StoreReader")

    async def test_rows_read_back_as_they_were_written(self, store: Store) -> None:
        window = make_window(bars=1800)
        await store.write([window])
        await assert_holds(store, window)

    async def test_every_finite_float_survives_bit_for_bit(self, store: Store) -> None:
        """Random bit patterns reach every exponent; the corners are in every column."""
        rng = np.random.default_rng(20_210_421)
        noise = rng.integers(0, 1 << 64, size=(5, 4000), dtype=np.uint64).view(np.float64)
        noise[~np.isfinite(noise)] = 1.0
        noise[:, : len(_CORNERS)] = _CORNERS
        window = make_window(bars=4000)
        bars = replace(window.bars, **dict(zip(VALUE_COLUMNS, noise, strict=True)))
        window = replace(window, bars=bars)
        await store.write([window])
        await assert_holds(store, window)

    async def test_written_rows_are_visible_to_a_new_reader_on_return(
        self, store: Store, open_reader: Callable[[], StoreReader]
    ) -> None:
        for at in range(5):
            window = make_window(start_ms=_START_MS + at * _DAY_MS, seed=at)
            await store.write([window])
            reader = open_reader()
            try:
                await assert_holds(reader, window)
            finally:
                await reader.aclose()

    async def test_repeating_a_write_changes_nothing(self, store: Store) -> None:
        window = make_window()
        for _ in range(3):
            await store.write([window])
        await assert_holds(store, window)

    async def test_the_same_window_written_again_with_other_values_holds_the_newer(
        self, store: Store
    ) -> None:
        older, newer = make_window(seed=1), make_window(seed=2)
        await store.write([older])
        await store.write([newer])
        await assert_holds(store, newer)

    async def test_a_holder_may_write_over_its_own_window_with_other_bounds(
        self, store: Store
    ) -> None:
        """One fence, three overlapping windows: what was written last is what is read."""
        page, all_of_it = make_window(bars=60, seed=1), make_window(bars=100, seed=2)
        await store.write([page])
        await store.write([all_of_it])
        await assert_holds(store, all_of_it)
        await store.write([page])
        await assert_holds(store, page)

    async def test_generations_lie_side_by_side(self, store: Store) -> None:
        old, new = make_window(gen=0, seed=1), make_window(gen=1, fence=2, seed=2)
        await store.write([new])
        await store.write([old])
        await assert_holds(store, old)
        await assert_holds(store, new)

    async def test_a_read_takes_each_range_at_its_own_generation(self, store: Store) -> None:
        old, new = make_window(gen=0, seed=1), make_window(gen=7, fence=2, seed=2)
        await store.write([old, new])
        bounds = [_START_MS, _START_MS + 30 * _MINUTE_MS, _START_MS + 60 * _MINUTE_MS, old.end_ms]
        ranges = [
            GenRange(start_ms=start_ms, end_ms=end_ms, gen=gen)
            for start_ms, end_ms, gen in zip(bounds, bounds[1:], (0, 7, 0), strict=False)
        ]
        found = await store.read(old.series, ranges)
        expected = Bars.concat(
            [
                (new if wanted.gen else old).bars.between(wanted.start_ms, wanted.end_ms)
                for wanted in ranges
            ]
        )
        assert content_digest(found) == content_digest(expected)
        assert found.ts_ms.tolist() == expected.ts_ms.tolist()

    async def test_a_read_of_many_ranges_returns_them_all_in_order(self, store: Store) -> None:
        window = make_window(bars=500)
        await store.write([window])
        ranges = [
            GenRange(start_ms=at_ms, end_ms=at_ms + 3 * _MINUTE_MS, gen=0)
            for at_ms in range(window.start_ms, window.end_ms, 5 * _MINUTE_MS)
        ]
        found = await store.read(window.series, ranges)
        kept = [at for at in range(500) if at % 5 < 3]
        assert found.ts_ms.tolist() == window.bars.ts_ms[kept].tolist()
        assert found.close.tolist() == window.bars.close[kept].tolist()

    async def test_ranges_are_half_open(self, store: Store) -> None:
        window = make_window(bars=10)
        await store.write([window])
        third_ms = int(window.bars.ts_ms[2])
        bare = GenRange(start_ms=third_ms, end_ms=third_ms + 1, gen=0)
        assert (await store.read(window.series, [bare])).ts_ms.tolist() == [third_ms]
        none = GenRange(start_ms=third_ms + 1, end_ms=third_ms + _MINUTE_MS, gen=0)
        assert len(await store.read(window.series, [none])) == 0

    async def test_what_was_never_written_reads_as_empty(self, store: Store) -> None:
        window = make_window()
        await store.write([window])
        unknown = SeriesId(dataset=window.series.dataset, symbol="NEVER/SEEN")
        assert len(await store.read(unknown, whole(window))) == 0
        assert len(await store.read(window.series, whole(replace(window, gen=5)))) == 0
        assert len(await store.read(window.series, [])) == 0
        later = [GenRange(start_ms=window.end_ms, end_ms=window.end_ms + _DAY_MS, gen=0)]
        assert len(await store.read(window.series, later)) == 0

    async def test_a_read_across_windows_joins_them_and_leaves_holes_open(
        self, store: Store
    ) -> None:
        left = make_window(bars=50, seed=1)
        right = make_window(start_ms=left.end_ms + 7 * _MINUTE_MS, bars=50, fence=2, seed=2)
        await store.write([right])
        await store.write([left])
        wanted = [GenRange(start_ms=left.start_ms, end_ms=right.end_ms, gen=0)]
        found = await store.read(left.series, wanted)
        assert found.ts_ms.tolist() == [*left.bars.ts_ms.tolist(), *right.bars.ts_ms.tolist()]

    async def test_a_window_without_bars_can_be_written(self, store: Store) -> None:
        window = make_window(bars=10)
        nothing = replace(window, bars=Bars.empty())
        await store.write([nothing])
        await store.write([])
        assert len(await store.read(window.series, whole(window))) == 0

    async def test_several_symbols_go_in_one_write(self, store: Store) -> None:
        windows = [make_window(f"S{at}/USDT", seed=at, fence=at + 1) for at in range(8)]
        await store.write(windows)
        for window in windows:
            await assert_holds(store, window)

    async def test_symbols_of_any_spelling_are_different_series(self, store: Store) -> None:
        """Also those that differ by case alone, or that a path or a query would understand."""
        windows = [make_window(name, bars=3, seed=at) for at, name in enumerate(_ODD_SYMBOLS)]
        await store.write(windows)
        for window in windows:
            await assert_holds(store, window)

    async def test_the_first_and_a_far_time_can_be_stored(self, store: Store) -> None:
        for start_ms in (0, 4_102_444_800_000):
            window = make_window(start_ms=start_ms, bars=3)
            await store.write([window])
            await assert_holds(store, window)

    async def test_concurrent_writes_all_arrive(self, store: Store) -> None:
        windows = [
            make_window(f"S{at % 4}", start_ms=_START_MS + at * _DAY_MS, seed=at)
            for at in range(24)
        ]
        async with asyncio.TaskGroup() as group:
            for window in windows:
                group.create_task(store.write([window]))
        async with asyncio.TaskGroup() as group:
            for window in windows:
                group.create_task(assert_holds(store, window))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("column", VALUE_COLUMNS)
    async def test_a_value_that_is_not_finite_is_refused_before_anything_is_written(
        self, store: Store, column: str, value: float
    ) -> None:
        good, bad = make_window("GOOD"), make_window("BAD")
        values = getattr(bad.bars, column).copy()
        values[41] = value
        bad = replace(bad, bars=replace(bad.bars, **{column: values}))
        with pytest.raises(StoreRefused, match=f"BAD.*{column} at {int(bad.bars.ts_ms[41])}"):
            await store.write([good, bad])
        assert len(await store.read(good.series, whole(good))) == 0

    async def test_bars_that_do_not_fit_their_window_are_refused(self, store: Store) -> None:
        window = make_window()
        unsorted = replace(window.bars, ts_ms=window.bars.ts_ms[::-1].copy())
        for wrong in (
            replace(window, start_ms=window.start_ms + 1),
            replace(window, end_ms=window.end_ms - _MINUTE_MS),
            replace(window, bars=unsorted),
            replace(window, gen=-1),
            replace(window, gen=1 << 31),
        ):
            with pytest.raises(StoreRefused):
                await store.write([wrong])
        assert len(await store.read(window.series, whole(window))) == 0

    async def test_a_cancelled_write_leaves_the_store_usable(self, store: Store) -> None:
        """Nothing may be concluded from it; written again, the rows are there and once."""
        window = make_window(bars=1800)
        for turns in range(6):
            writing = asyncio.ensure_future(store.write([window]))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            if not turns:
                assert writing.cancelled()
        await store.write([window])
        await assert_holds(store, window)

    async def test_prepare_may_be_repeated(self, store: Store) -> None:
        window = make_window()
        await store.write([window])
        await store.prepare(self.spec)
        await assert_holds(store, window)

    async def test_a_kind_that_stores_do_not_know_is_refused_by_name(self, store: Store) -> None:
        trades = DatasetSpec(kind="trades", interval_ms=1, source="test:none", store="test:store")
        with pytest.raises(StoreRefused, match="trades"):
            await store.prepare(trades)

    async def test_the_highest_fence_wins_for_its_whole_range(self, store: Store) -> None:
        """A zombie's late write, and bars that the newer holder did not see, stay invisible.

        A store that can not fence overrides this test and says what happens instead.
        """
        zombie = make_window(bars=100, fence=3, seed=3)
        newer = make_window(start_ms=_START_MS + 40 * _MINUTE_MS, bars=20, fence=5, seed=5)
        sparse = replace(newer, bars=newer.bars.between(newer.start_ms, newer.end_ms - 600_000))
        await store.write([sparse])
        await store.write([zombie])
        expected = Bars.concat(
            [
                zombie.bars.between(zombie.start_ms, newer.start_ms),
                sparse.bars,
                zombie.bars.between(newer.end_ms, zombie.end_ms),
            ]
        )
        found = await store.read(zombie.series, whole(zombie))
        assert found.ts_ms.tolist() == expected.ts_ms.tolist()
        assert content_digest(found) == content_digest(expected)
