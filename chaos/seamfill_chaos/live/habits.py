"""What the clients of live traffic do again and again: whole stories of leases, in the small.

Owns which operations follow which. Must not know how they travel, are repeated or checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from seamfill.protocol.backfills import BackfillRequest, Wanted
from seamfill.protocol.values import CoveredRange, DatasetSpec, LeaseRef, SeriesId, SourceOffer
from seamfill_coordinator.machine.commands import (
    Acquire,
    Claim,
    Complete,
    CompleteClaim,
    FailClaim,
    Renew,
)
from seamfill_coordinator.machine.outcomes import Claimed, Grant, Granted

if TYPE_CHECKING:
    from seamfill_chaos.live.clients import Client

__all__ = ["BACKFILL", "claim_and_finish", "fill_windows"]

LEASE_MS: Final = 600_000
"""The longest a claim may have: a run is about the nodes' faults, not about expiry."""
FAIL_SHARE: Final = 0.3
MOST_WINDOWS: Final = 3

_MINUTE_MS: Final = 60_000
_EPOCH_MS: Final = 1_600_000_020_000
_BARS: Final = 500_000
_SOURCE: Final = "ccxt:binance"
_STORE: Final = "parquet:bars"

BACKFILL: Final = BackfillRequest(
    id="traffic",
    dataset="ohlcv.binance.spot.1m",
    spec=DatasetSpec(kind="ohlcv", interval_ms=_MINUTE_MS, source=_SOURCE, store=_STORE),
    wanted=(Wanted(symbol="BTC/USDT", start_ms=_EPOCH_MS, end_ms=_EPOCH_MS + _BARS * _MINUTE_MS),),
    window_bars=1,
)
"""More windows than any run fills, each of one bar."""


async def claim_and_finish(client: Client) -> None:
    """Claim a key, own or wanted by all; read it; complete it, fail it, or keep it."""
    is_own = client.rng.random() < 0.7
    if is_own:
        key = f"own-{client.name}-{client.rng.getrandbits(48):012x}"
    else:
        key = f"shared-{client.rng.randrange(client.plan.shared_keys)}"
    # Without a colon: a key that names no range is one object, which the checkers can judge alone.
    claimed = await client.change(Claim(key=key, lease_ms=LEASE_MS, holder=client.address))
    if client.rng.random() < 0.5:
        await client.look(key)
    if not isinstance(claimed, Claimed):
        return
    if is_own and client.rng.random() < client.plan.keep_share:
        return
    if client.rng.random() < FAIL_SHARE:
        await client.change(FailClaim(key=key, token=claimed.token, reason="as it happens"))
    else:
        await client.change(CompleteClaim(key=key, token=claimed.token))


async def fill_windows(client: Client) -> None:
    """Acquire some windows; renew and complete each. A failed one would come again for ever."""
    acquired = await client.change(
        Acquire(
            worker=client.worker,
            offers=(SourceOffer(source=_SOURCE),),
            stores=(_STORE,),
            max_windows=client.rng.randint(1, MOST_WINDOWS),
            ttl_ms=LEASE_MS,
        )
    )
    if not isinstance(acquired, Granted):
        return
    for grant in acquired.grants:
        if client.rng.random() < 0.5:
            await client.change(Renew(lease=_ref(grant), ttl_ms=LEASE_MS, cursor_ms=grant.start_ms))
        await client.change(Complete(lease=_ref(grant), covered=(_covered(grant),)))


def _ref(grant: Grant) -> LeaseRef:
    return LeaseRef(
        series=SeriesId(dataset=grant.dataset, symbol=grant.symbol),
        start_ms=grant.start_ms,
        end_ms=grant.end_ms,
        fence=grant.fence,
    )


def _covered(grant: Grant) -> CoveredRange:
    return CoveredRange(
        start_ms=grant.start_ms,
        end_ms=grant.end_ms,
        rows=(grant.end_ms - grant.start_ms) // _MINUTE_MS,
        content_digest=f"{grant.start_ms:032x}",
    )
