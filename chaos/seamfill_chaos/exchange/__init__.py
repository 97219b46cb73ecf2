"""A Binance-compatible exchange that replays recorded bars, and lies on request."""
