"""A Binance-compatible exchange for tests, demonstrations and measurements.

It serves recorded or generated one-minute bars over Binance's spot REST surface, keeps its own
clock and request weights, and lies on request (`seamfill_chaos.faults`).
Start at `bars` (what the truth is), then `market` (what the exchange would answer), then `server`
(how the answer reaches the wire).
"""
