"""The loop anybody would write: fetch a window with ccxt, send it with the client, next.

Arguments: exchange URL, QuestDB URL, table, start_ms, windows, window_bars, symbols. Prints rows
per second. One process, no validation, no read-back, nothing known about what happened.
"""

from __future__ import annotations

import asyncio
import sys
import time

import ccxt.async_support as ccxt
import pandas as pd
from questdb import Sender

MINUTE_MS = 60_000
PAGE_BARS = 1_000


async def fetch_window(
    venue: ccxt.binance, symbol: str, start_ms: int, bars: int
) -> list[list[float]]:
    rows: list[list[float]] = []
    while len(rows) < bars:
        limit = min(PAGE_BARS, bars - len(rows))
        since = start_ms + len(rows) * MINUTE_MS
        rows += await venue.fetch_ohlcv(symbol, "1m", since=since, limit=limit)
    return rows


def send_window(sender: Sender, table: str, symbol: str, rows: list[list[float]]) -> None:
    # A frame, because the client takes one several times faster than row by row.
    frame = pd.DataFrame(rows, columns=["ts", "open", "high", "low", "close", "volume"])
    frame["ts"] = pd.to_datetime(frame["ts"], unit="ms")
    frame["symbol"] = symbol
    frame["gen"] = 0
    sender.dataframe(frame, table_name=table, symbols=["symbol"], at="ts")
    sender.flush()


async def main() -> None:
    url, http, table, start, windows, bars, names = sys.argv[1:]
    start_ms, window_bars, symbols = int(start), int(bars), names.split(",")
    venue = ccxt.binance(
        {
            "enableRateLimit": False,
            "options": {"fetchMarkets": {"types": ["spot"]}, "defaultType": "spot"},
        }
    )
    for api in venue.urls["api"]:
        venue.urls["api"][api] = url + "/api/v3"
    try:
        await venue.load_markets()
        address = http.removeprefix("http://")
        started = time.perf_counter()
        with Sender.from_conf(f"http::addr={address};auto_flush=off;") as sender:
            for window in range(int(windows)):
                for symbol in symbols:
                    at_ms = start_ms + window * window_bars * MINUTE_MS
                    rows = await fetch_window(venue, symbol, at_ms, window_bars)
                    send_window(sender, table, symbol, rows)
        print(int(windows) * len(symbols) * window_bars / (time.perf_counter() - started))
    finally:
        await venue.close()


if __name__ == "__main__":
    asyncio.run(main())
