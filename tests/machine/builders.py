"""Short ways to write commands in tests: specs, receipts and digests with honest arithmetic.

Owns the vocabulary of the machine's tests. Must not know the machine or the model. A bar's content
digest here is a hash of its place, generation and flavour, and digests of ranges are sums modulo
2¹²⁸ of those, as for real bars: so whatever the machine adds up can be checked bar by bar.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from seamfill.protocol.values import (
    Asked,
    CoveredRange,
    DatasetSpec,
    GapRange,
    GapReason,
    ListingDate,
    Receipt,
)

MINUTE_MS: Final = 60_000
DIGEST_MODULUS: Final = 1 << 128

DENSE: Final = DatasetSpec(
    kind="ohlcv", interval_ms=MINUTE_MS, source="ccxt:sim", store="parquet:main", dense=True
)
SPARSE: Final = DatasetSpec(
    kind="ohlcv", interval_ms=5 * MINUTE_MS, source="ccxt:other", store="questdb:main", dense=False
)


def bar_digest(symbol: str, ts_ms: int, flavour: str) -> int:
    """One bar's share of a content digest."""
    content = f"{symbol} {ts_ms} {flavour}".encode()
    return int.from_bytes(blake2b(content, digest_size=16).digest(), "little")


def range_digest(symbol: str, start_ms: int, end_ms: int, interval_ms: int, flavour: str) -> str:
    """The sum of the bars' digests modulo 2¹²⁸, as 32 hex digits."""
    total = sum(bar_digest(symbol, ts, flavour) for ts in range(start_ms, end_ms, interval_ms))
    return f"{total % DIGEST_MODULUS:032x}"


def covered(
    symbol: str,
    start_ms: int,
    end_ms: int,
    spec: DatasetSpec,
    flavour: str = "v0",
    rows: int = -1,
) -> CoveredRange:
    """A verified range; without ``rows``, every bar is one."""
    return CoveredRange(
        start_ms=start_ms,
        end_ms=end_ms,
        rows=(end_ms - start_ms) // spec.interval_ms if rows < 0 else rows,
        content_digest=range_digest(symbol, start_ms, end_ms, spec.interval_ms, flavour),
    )


def receipt(reason: GapReason, start_ms: int, end_ms: int) -> Receipt:
    """Two agreeing answers, with a bar on each side where the reason needs one."""
    answers = tuple(
        Asked(
            start_ms=start_ms,
            end_ms=end_ms,
            server_time_ms=end_ms + number,
            http_status=200,
            body_sha256=f"{number:064x}",
            rows=0,
        )
        for number in (1, 2)
    )
    return Receipt(
        reason=reason, asked=answers, left_ms=max(0, start_ms - MINUTE_MS), right_ms=end_ms
    )


def gap(start_ms: int, end_ms: int, reason: GapReason = GapReason.VENUE_OUTAGE) -> GapRange:
    return GapRange(
        start_ms=start_ms,
        end_ms=end_ms,
        reason=reason,
        receipt=receipt(reason, start_ms, end_ms),
    )


def listing(at_ms: int, reason: GapReason) -> ListingDate:
    return ListingDate(at_ms=at_ms, receipt=receipt(reason, at_ms, at_ms + MINUTE_MS))
