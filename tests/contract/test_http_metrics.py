"""The metrics of a coordinator: listed, bounded, and saying what happened."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.http_rig import WORKER, HttpRig, covered, http_rig

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
KEY = "ohlcv:binance:BTC/USDT:1m:60:1618963200:1618963799::"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[HttpRig]:
    async with http_rig(tmp_path) as running:
        yield running


async def samples(rig: HttpRig) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = (await rig.get("/metrics")).raw.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_reference_lists_exactly_what_is_served(rig: HttpRig) -> None:
    await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": 0})
    chapter = REFERENCE.read_text().partition("## Coordinator")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)`", chapter, re.MULTILINE))
    text = (await rig.get("/metrics")).raw.decode()
    served = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    }
    assert served == listed


async def test_grants_completions_and_expiries_are_counted(rig: HttpRig) -> None:
    await rig.submit()
    (lease,) = (await rig.acquire()).body["leases"]
    await rig.post("/v1/leases/complete", {"worker": WORKER, "leases": [covered(lease)]})
    await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": 1_000})
    await rig.submit(start_ms=lease["end_ms"])
    await rig.acquire(ttl_ms=10_000)
    await rig.advance(20_000)
    await rig.get("/nowhere")
    await rig.call("POST", "/v1/leases/claim", raw=b"{")
    seen = await samples(rig)

    def value(name: str, **labels: str) -> float:
        return seen[name, frozenset(labels.items())]

    assert value("coordinator_lease_granted_total", kind="native") == 2
    assert value("coordinator_lease_granted_total", kind="compatibility") == 1
    assert value("coordinator_lease_completed_total") == 1
    assert value("coordinator_lease_expired_total", reason="ttl") == 1
    assert value("coordinator_lease_expired_total", reason="claim_ttl") == 1
    assert value("coordinator_backfill_bars", fact="wanted") == 60
    requests = "coordinator_http_requests_total"
    assert value(requests, operation="acquireLeases", status="200") == 2
    assert value(requests, operation="claimLease", status="400") == 1
    assert value(requests, operation="none", status="404") == 1


async def test_a_ratio_is_shown_only_while_its_lease_lives(rig: HttpRig) -> None:
    got = await rig.field_call("/v1/leases/claim", {"key": KEY, "lease_ms": 0})
    labels = {"node_id": "ohlcv:binance:BTC/USDT:1m", "interval": "60", "lease_key": KEY}
    name = ("backfill_completion_ratio", frozenset(labels.items()))
    assert (await samples(rig))[name] == 0.0
    token = got.body["lease"]["token"]
    await rig.field_call("/v1/leases/complete", {"key": KEY, "token": token})
    assert name not in await samples(rig)
