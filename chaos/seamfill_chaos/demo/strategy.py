"""The strategy of the demo: what a user of the SDK writes, and no more.

Owns the call of the public API. Must not know that anything is being killed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import pandas as pd

from seamfill.bars import VALUE_COLUMNS, Bars
from seamfill.client import CoordinatorClient
from seamfill.config import SeamlessConfig
from seamfill.protocol.values import SeriesId
from seamfill.provider import SeamlessDataProvider
from seamfill.result import FetchResult
from seamfill.sources.registry import open_reader

__all__ = ["Served", "ask_for_history"]

PATIENCE: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Served:
    """What the SDK returned for one symbol."""

    bars: Bars
    complete: bool


async def ask_for_history(
    client: CoordinatorClient,
    *,
    dataset: str,
    symbols: Sequence[str],
    start_ms: int,
    end_ms: int,
    store: str,
    environment: Mapping[str, str],
) -> dict[str, Served]:
    """Fetch every symbol's range at once, and wait until each is complete."""
    reader = open_reader(store, environment=environment)
    config = SeamlessConfig(coordinator_urls=client.urls, store=store)
    async with SeamlessDataProvider(config, storage=reader) as provider:
        results = await asyncio.gather(
            *(
                provider.fetch(
                    SeriesId(dataset=dataset, symbol=symbol), start_ms, end_ms, deadline=PATIENCE
                )
                for symbol in symbols
            )
        )
    await reader.aclose()
    return {
        symbol: Served(_bars(result), result.complete)
        for symbol, result in zip(symbols, results, strict=True)
    }


def _bars(result: FetchResult) -> Bars:
    """Turn the frame back into columns, to be digested."""
    frame = result.frame
    assert isinstance(frame.index, pd.DatetimeIndex)
    values = {name: frame[name].to_numpy() for name in VALUE_COLUMNS}
    return Bars(ts_ms=frame.index.as_unit("ms").asi8, **values)
