"""Every lie, as the real ccxt experiences it, and as it stands on the wire.

What ccxt makes of a lie is the reason for the guards around it in the worker's source, so these
tests also notice when a newer ccxt behaves differently.
"""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from ccxt.base.errors import (
    DDoSProtection,
    ExchangeError,
    ExchangeNotAvailable,
    NetworkError,
    OperationFailed,
    RequestTimeout,
)

from contract.exchange_rig import HISTORY, MINUTE, START, Rig, exchange_at
from seamfill_chaos.exchange.app import DRAIN_S_MAX, ExchangeConfig, build_exchange, serving
from seamfill_chaos.faults_file import parse_lies

KLINES = "/api/v3/klines"


def lie(kind: str, **fields: str) -> str:
    lines = [f'kind = "{kind}"', f'path = "{KLINES}"', *(f"{k} = {v}" for k, v in fields.items())]
    return "\n".join(["[[lie]]", *lines, ""])


async def raw(rig: Rig) -> tuple[int, bytes]:
    query = {"symbol": "ETHUSDT", "interval": "1m", "startTime": str(START), "limit": "10"}
    async with rig.http.get(KLINES, params=query) as answer:
        return answer.status, await answer.read()


async def told(rig: Rig) -> list[str | None]:
    _, log, _ = await rig.get("/__control/requests")
    return [each["lie"] for each in log["requests"] if each["path"] == KLINES]


@pytest.mark.parametrize(
    ("lies", "error", "says"),
    [
        (lie("status", code="429", headers='{ "Retry-After" = "2" }'), DDoSProtection, "-1003"),
        (lie("status", code="418"), DDoSProtection, "IP banned until"),
        (lie("status", code="503"), ExchangeError, "-1008"),
        (lie("status", code="500"), OperationFailed, "-1000"),
        (lie("status", code="500", body="{code = -1001, msg = 'x'}"), OperationFailed, "-1001"),
        (lie("status", code="503", body="'<html>down</html>'"), ExchangeNotAvailable, "down"),
        (lie("truncate", short="true"), ExchangeError, "klines"),
        (lie("hang", seconds="0.05"), NetworkError, "klines"),
        (lie("reset"), NetworkError, "klines"),
    ],
)
async def test_a_refused_or_broken_answer_is_an_error_in_ccxt(
    lies: str, error: type[Exception], says: str
) -> None:
    async with exchange_at(lies=lies) as rig:
        with pytest.raises(error, match=says):
            await rig.fetch()
        assert (await told(rig))[0] is not None


async def test_an_overloaded_exchange_is_no_network_error_in_ccxt() -> None:
    """Whoever retries network errors only misses it: the worker's source has to know."""
    async with exchange_at(lies=lie("status", code="503")) as rig:
        with pytest.raises(ExchangeError) as caught:
            await rig.fetch()
    assert not isinstance(caught.value, NetworkError)


@pytest.mark.parametrize(
    "lies",
    [lie("html_200"), lie("truncate"), lie("empty"), lie("empty", body='"[]"')],
)
async def test_a_useless_200_looks_like_no_data_in_ccxt(lies: str) -> None:
    async with exchange_at(lies=lies) as rig:
        assert await rig.fetch() == []


async def test_what_stands_on_the_wire() -> None:
    async with exchange_at() as rig:
        honest = await raw(rig)
        await rig.tell(lie("html_200"))
        assert (await raw(rig))[1].startswith(b"<!DOCTYPE html>")
        await rig.tell(lie("truncate", keep="0.25"))
        assert await raw(rig) == (200, honest[1][: len(honest[1]) // 4])
        await rig.tell(lie("truncate", short="true"))
        with pytest.raises(aiohttp.ClientPayloadError):
            await raw(rig)
        await rig.tell(lie("empty"))
        assert await raw(rig) == (200, b"")
        await rig.tell(lie("empty", body='"[]"'))
        assert await raw(rig) == (200, b"[]")
        await rig.tell(lie("hang", seconds="0.01"))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await raw(rig)
        await rig.tell(lie("status", code="429", headers='{ "Retry-After" = "2" }'))
        status, _, headers = await rig.get(KLINES, symbol="ETHUSDT", interval="1m")
        assert (status, headers["Retry-After"]) == (429, "2")
        await rig.tell("")
        assert await raw(rig) == honest


async def test_a_reset_is_sent_as_rst() -> None:
    async with exchange_at(lies=lie("reset")) as rig:
        host, port = rig.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /api/v3/klines?symbol=ETHUSDT&interval=1m HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 30)
        writer.close()


async def test_one_reset_alone_is_never_seen_since_the_http_client_asks_again() -> None:
    async with exchange_at(lies=lie("reset", when="[1, 3, 4]")) as rig:
        assert len(await rig.fetch(limit=10)) == 10
        with pytest.raises(NetworkError):
            await rig.fetch()
        assert await told(rig) == ["reset", None, "reset", "reset"]


async def test_a_hanging_answer_does_not_hold_up_the_end() -> None:
    exchange = build_exchange(
        ExchangeConfig(history=HISTORY, lies=parse_lies(lie("hang", seconds="600")))
    )
    # Less than DRAIN_S_MAX, after which everything in flight is cut off anyway.
    async with asyncio.timeout(DRAIN_S_MAX / 2), aiohttp.ClientSession() as http:
        async with serving(exchange) as url:
            asking = asyncio.create_task(http.get(f"{url}{KLINES}?symbol=ETHUSDT&interval=1m"))
            while not exchange.log.document()["requests"]:
                (await http.get(f"{url}/__control/requests")).release()
        with pytest.raises(aiohttp.ClientConnectionError):
            await asking


async def test_a_hanging_answer_times_out_in_ccxt() -> None:
    async with exchange_at(lies=lie("hang", seconds="600")) as rig:
        rig.ccxt.timeout = 50
        with pytest.raises(RequestTimeout):
            await rig.ccxt.publicGetKlines({"symbol": "ETHUSDT", "interval": "1m"})


async def test_dropped_bars_are_absent_and_all_others_are_there() -> None:
    bars = '["2024-01-01T00:03:00Z", "2024-01-01T00:07:00+00:00"]'
    async with exchange_at(lies=lie("drop_bars", bars=bars, when="[1]")) as rig:
        lied, honest = await rig.fetch(limit=10), await rig.fetch(limit=10)
        assert await told(rig) == ["drop_bars", None]
    assert lied == [row for k, row in enumerate(honest) if k not in (3, 7)]


async def test_bars_are_dropped_by_range_or_from_the_middle() -> None:
    in_range = lie(
        "drop_bars", start='"2024-01-01T00:02:00Z"', end='"2024-01-01T00:05:00Z"', when="[1]"
    )
    async with exchange_at(lies=in_range) as rig:
        lied, honest = await rig.fetch(limit=10), await rig.fetch(limit=10)
        await rig.tell(lie("drop_bars", count="2"))
        middle = await rig.fetch(limit=10)
    assert lied == [honest[k] for k in (0, 1, 5, 6, 7, 8, 9)]
    assert middle == honest[:4] + honest[6:]


async def test_duplicated_bars_come_twice() -> None:
    async with exchange_at(lies=lie("duplicate_bars", when="[1]")) as rig:
        # ccxt cuts what it got back to the limit, so its pages have room for one more.
        lied, honest = await rig.fetch_until(9), await rig.fetch_until(9)
    assert lied == honest[:5] + honest[4:]


async def test_a_partial_last_bar_has_another_volume_and_nothing_else_shows_it() -> None:
    async with exchange_at(lies=lie("partial_last", when="[1]")) as rig:
        lied, honest = await rig.fetch(limit=10), await rig.fetch(limit=10)
    assert lied[:-1] == honest[:-1]
    assert lied[-1][:2] == honest[-1][:2]
    assert lied[-1][5] < honest[-1][5]


async def test_restated_values_come_from_the_given_request_on() -> None:
    lies = lie("restate", from_request="3", factor="1.01", end='"2024-01-01T00:04:00Z"')
    async with exchange_at(lies=lies) as rig:
        first, second, third, fourth = [await rig.fetch(limit=6) for _ in range(4)]
        assert await told(rig) == [None, None, "restate", "restate"]
    assert first == second
    assert third == fourth
    assert third[4:] == first[4:]
    assert third[:4] == [
        [row[0], *(round(value * 1.01, 8) for value in row[1:])] for row in first[:4]
    ]


async def test_off_grid_and_out_of_range_rows() -> None:
    async with exchange_at() as rig:
        honest = await rig.fetch(START + 5 * MINUTE, limit=3)
        await rig.tell(lie("off_grid", shift_ms="7000"))
        shifted = await rig.fetch(START + 5 * MINUTE, limit=3)
        await rig.tell(lie("out_of_range", before="2", after="1"))
        # ccxt hides rows before `since` and above the limit: a page with room shows the later one.
        seen = await rig.fetch_until(2)
        _, rows, _ = await rig.get(
            KLINES, symbol="ETHUSDT", interval="1m", startTime=START + 5 * MINUTE, limit=3
        )
    assert shifted == [[row[0] + 7_000, *row[1:]] for row in honest]
    assert [row[0] for row in rows] == [START + k * MINUTE for k in range(3, 9)]
    assert [row[0] for row in seen] == [START + k * MINUTE for k in range(4)]


async def test_lies_are_numbered_by_what_passed_and_may_meet_in_one_answer() -> None:
    lies = lie("drop_bars", every="2") + lie("duplicate_bars", every="3") + lie("empty", when="[6]")
    async with exchange_at(lies=lies) as rig:
        sizes = [len(await rig.fetch_until(9)) for _ in range(6)]
        _, log, _ = await rig.get("/__control/requests")
    assert sizes == [10, 9, 11, 9, 10, 0]
    assert log["requests"][-1]["lies"] == [
        {"index": 1, "kind": "drop_bars"},
        {"index": 2, "kind": "duplicate_bars"},
        {"index": 3, "kind": "empty"},
    ]


async def test_a_delay_makes_klines_late_and_nothing_else() -> None:
    async with exchange_at() as rig:
        status, _ = await rig.control("delay", delay_ms=2_000)
        assert status == 200
        with pytest.raises(TimeoutError):
            await rig.http.get(
                KLINES, params={"symbol": "ETHUSDT"}, timeout=aiohttp.ClientTimeout(total=0.2)
            )
        timeout = aiohttp.ClientTimeout(total=1.5)
        async with rig.http.get("/api/v3/exchangeInfo", timeout=timeout) as answer:
            assert answer.status == 200
