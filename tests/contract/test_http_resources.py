"""Every resource of the API over a machine of one: what it answers when all is well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.http_rig import (
    DATASET,
    MINUTE_MS,
    T0,
    WORKER,
    HttpRig,
    covered,
    http_rig,
)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[HttpRig]:
    async with http_rig(tmp_path) as running:
        yield running


async def test_a_backfill_is_submitted_filled_and_seen_in_the_coverage(rig: HttpRig) -> None:
    plan = (await rig.submit(id="bf-a")).body
    assert (plan["id"], plan["bars"], plan["windows"]) == ("bf-a", 60, 1)

    (lease,) = (await rig.acquire()).body["leases"]
    assert lease["renew_after_ms"] == lease["ttl_ms"] // 3
    done = await rig.post("/v1/leases/complete", {"worker": WORKER, "leases": [covered(lease)]})
    assert [result["status"] for result in done.body["results"]] == ["completed"]

    seen = (await rig.get(f"/v1/coverage?dataset={DATASET}&symbol=BTC/USDT")).body
    assert [(c["start_ms"], c["end_ms"], c["rows"]) for c in seen["covered"]] == [
        (T0, T0 + 60 * MINUTE_MS, 60)
    ]
    shown = (await rig.get("/v1/backfills/bf-a")).body["backfill"]
    assert (shown["state"], shown["bars_verified"], shown["ratio"]) == ("complete", 60, 1.0)
