"""The client against a scripted server: three kinds of "no", exact retries, watching."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from seamfill.client import CoordinatorClient
from seamfill.clock import SystemClock
from seamfill.coordinator_link import parse_urls
from seamfill.errors import (
    CoordinatorUnavailable,
    InvalidInput,
    OutcomeUnknown,
    RequestRefused,
    SeamfillError,
)
from seamfill.protocol.backfills import BackfillRequest, BackfillView, Wanted
from seamfill.protocol.values import DatasetSpec, SeriesId
from unit.sdk.fake_server import scripted

SERIES = SeriesId(dataset="d", symbol="BTC/USDT")
SUBMIT = BackfillRequest(
    dataset="d",
    spec=DatasetSpec(kind="ohlcv", interval_ms=60_000, source="ccxt:binance", store="parquet:/x"),
    wanted=(Wanted(symbol="BTC/USDT", start_ms=0, end_ms=60_000),),
)
PLAN = {
    "id": "bf-1",
    "start_ms": 0,
    "end_ms": 60_000,
    "requested_start_ms": 0,
    "requested_end_ms": 60_000,
    "windows": 1,
    "bars": 1,
    "already_covered": 0,
}


class SkippingClock(SystemClock):
    """Sleeps in no time, but the time has passed afterwards."""

    def __init__(self) -> None:
        self._skipped_ms = 0.0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + int(self._skipped_ms)

    async def sleep_ms(self, delay_ms: float) -> None:
        self._skipped_ms += delay_ms
        await super().sleep_ms(0)


def view(state: str, verified: int) -> dict[str, Any]:
    return {
        "id": "bf-1",
        "dataset": "d",
        "state": state,
        "start_ms": 0,
        "end_ms": 600_000,
        "symbols": ["BTC/USDT"],
        "window_bars": 1800,
        "priority": 0,
        "deadline_ms": None,
        "redo": None,
        "bars_wanted": 10,
        "bars_verified": verified,
        "bars_gap": 0,
        "bars_violated": 0,
        "windows_violated": 0,
        "bars_leased": 0,
        "ratio": verified / 10,
    }


def ok(body: object, **headers: str) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), content_type="application/json", headers=headers
    )


def problem(status: int, code: str, **more: object) -> web.Response:
    body = {"title": code, "status": status, "code": code, **more}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json"
    )


def event(state: str, verified: int) -> str:
    return f"event: backfill\ndata: {msgspec.json.encode(view(state, verified)).decode()}\n\n"


@contextmanager
def closed_port() -> Iterator[str]:
    """A URL on which nobody listens, reserved for the duration."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_a_refusal_is_raised_at_once_and_names_the_field() -> None:
    async with (
        scripted(problem(400, "invalid", field="wanted[0].end_ms", detail="bad")) as server,
        CoordinatorClient(server.url) as client,
    ):
        with pytest.raises(RequestRefused) as caught:
            await client.submit(SUBMIT)
    assert (caught.value.status, caught.value.reason) == (400, "invalid")
    assert caught.value.field == "wanted[0].end_ms"
    assert len(server.seen) == 1


async def test_nobody_listening_means_not_done() -> None:
    with closed_port() as url:
        async with CoordinatorClient(url, timeout_s=0.2) as client:
            with pytest.raises(CoordinatorUnavailable, match="coordinator status"):
                await client.submit(SUBMIT)


async def test_503_without_doubt_means_not_done() -> None:
    steps = [problem(503, "no_leader", retryable=True) for _ in range(100)]
    async with (
        scripted(*steps) as server,
        CoordinatorClient(server.url, clock=SkippingClock()) as client,
    ):
        with pytest.raises(CoordinatorUnavailable, match="no_leader"):
            await client.submit(SUBMIT)
    assert len(server.seen) > 1


async def test_a_reset_after_sending_that_nobody_clears_up_means_unknown() -> None:
    async with (
        scripted(*["reset"] * 100) as server,
        CoordinatorClient(server.url, clock=SkippingClock()) as client,
    ):
        with pytest.raises(OutcomeUnknown, match="may have been carried out"):
            await client.submit(SUBMIT)


async def test_504_in_doubt_is_repeated_under_the_same_key() -> None:
    steps = (problem(504, "outcome_unknown", in_doubt=True), "reset", ok(PLAN))
    async with scripted(*steps) as server, CoordinatorClient(server.url) as client:
        plan = await client.submit(SUBMIT)
    assert plan.id == "bf-1"
    assert server.keys == ["1:1:1", "1:1:1", "1:1:1"]


async def test_each_mutation_has_its_own_sequence_and_answered_ones_raise_low() -> None:
    async with scripted(ok(PLAN), ok(PLAN)) as server, CoordinatorClient(server.url) as client:
        await client.submit(SUBMIT)
        await client.submit(SUBMIT)
    assert server.keys == ["1:1:1", "1:2:2"]
    assert server.sessions == 1


async def test_a_forgotten_session_is_replaced_when_nothing_is_in_doubt() -> None:
    lost = problem(409, "session_unknown", in_doubt=True)
    async with scripted(lost, ok(PLAN)) as server, CoordinatorClient(server.url) as client:
        await client.submit(SUBMIT)
    assert server.keys == ["1:1:1", "2:1:1"]


async def test_a_session_lost_after_an_attempt_in_doubt_means_unknown() -> None:
    """A second session would carry the request out twice if the first attempt had landed."""
    lost = [problem(409, "session_unknown", in_doubt=True) for _ in range(100)]
    async with (
        scripted("reset", *lost) as server,
        CoordinatorClient(server.url, clock=SkippingClock()) as client,
    ):
        with pytest.raises(OutcomeUnknown):
            await client.submit(SUBMIT)
    assert server.sessions == 1


async def test_a_cluster_that_forgets_every_session_is_not_asked_for_ever() -> None:
    lost = [problem(409, "session_unknown", in_doubt=True) for _ in range(9)]
    async with scripted(*lost) as server, CoordinatorClient(server.url) as client:
        with pytest.raises(CoordinatorUnavailable, match="sessions in a row"):
            await client.submit(SUBMIT)
    assert server.sessions == 3


async def test_another_url_is_asked_when_one_is_down() -> None:
    async with scripted(ok(PLAN)) as server:
        with closed_port() as dead:
            async with CoordinatorClient([dead, server.url]) as client:
                assert (await client.submit(SUBMIT)).id == "bf-1"


async def test_the_leader_that_a_follower_names_is_asked_next() -> None:
    async with scripted(ok({"workers": []})) as leader:
        hint = ok({"workers": []}, **{"Seamfill-Leader": leader.url})
        async with scripted(hint) as follower, CoordinatorClient(follower.url) as client:
            await client.workers()
            await client.workers()
    assert (len(follower.seen), len(leader.seen)) == (1, 1)


async def test_a_token_is_not_sent_to_a_node_that_nobody_configured() -> None:
    async with scripted(ok({"workers": []})) as stranger:
        hint = ok({"workers": []}, **{"Seamfill-Leader": stranger.url})
        server = scripted(hint, ok({"workers": []}))
        async with server as known, CoordinatorClient(known.url, token="secret") as client:
            await client.workers()
            await client.workers()
    assert (len(known.seen), len(stranger.seen)) == (2, 0)


async def test_the_highest_rev_seen_is_sent_back_as_a_floor() -> None:
    old = {"Seamfill-Rev": "41", "Seamfill-Recovery": "0"}
    older = {"Seamfill-Rev": "40", "Seamfill-Recovery": "0"}
    after = {"Seamfill-Rev": "7", "Seamfill-Recovery": "1"}
    answers = [ok({"workers": []}, **headers) for headers in (old, older, after, after)]
    async with scripted(*answers) as server, CoordinatorClient(server.url) as client:
        for _ in range(4):
            await client.workers()
    assert server.floors == [None, "41", "41", "7"]


async def test_an_answer_from_something_else_is_not_taken_for_one_of_ours() -> None:
    html = web.Response(text="<html>hello</html>", content_type="text/html")
    async with scripted(html) as server, CoordinatorClient(server.url) as client:
        with pytest.raises(CoordinatorUnavailable, match="not a coordinator"):
            await client.workers()


async def test_an_unreadable_answer_to_a_mutation_is_not_called_not_done() -> None:
    async with scripted(web.Response(text="ok")) as server, CoordinatorClient(server.url) as client:
        with pytest.raises(OutcomeUnknown):
            await client.submit(SUBMIT)


async def test_a_redirect_is_never_followed() -> None:
    moved = web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})
    async with scripted(moved) as server, CoordinatorClient(server.url) as client:
        with pytest.raises(RequestRefused, match="307"):
            await client.submit(SUBMIT)


async def test_a_watch_comes_back_after_a_broken_connection_and_ends_with_the_backfill() -> None:
    steps = (
        ": hello\n\n" + event("active", 3),
        "reset",
        event("active", 3) + event("active", 7),
        event("complete", 10),
    )
    async with scripted(*steps) as server, CoordinatorClient(server.url) as client:
        states = [(each.state, each.bars_verified) async for each in client.watch("bf-1")]
    assert states == [("active", 3), ("active", 7), ("complete", 10)]


async def test_watching_a_backfill_that_does_not_exist_is_refused() -> None:
    async with (
        scripted(problem(404, "not_found")) as server,
        CoordinatorClient(server.url) as client,
    ):
        with pytest.raises(RequestRefused) as caught:
            async for _ in client.watch("bf-404"):
                pass
    assert caught.value.status == 404


async def test_a_watch_without_any_node_gives_up_after_the_timeout() -> None:
    with closed_port() as url:
        async with CoordinatorClient(url, timeout_s=0.2) as client:
            with pytest.raises(CoordinatorUnavailable):
                async for _ in client.watch("bf-1"):
                    pass


async def test_queries_are_spelt_as_the_api_documents_them() -> None:
    coverage = {
        "series": {"dataset": "d", "symbol": "BTC/USDT"},
        "start_ms": 0,
        "end_ms": 60_000,
        "rev": 1,
        "coverage_rev": 1,
        "spec": None,
        "covered": [],
        "gaps": [],
        "violated": [],
        "in_flight": [],
    }
    async with scripted(ok(coverage)) as server, CoordinatorClient(server.url) as client:
        await client.coverage(SERIES, 0, 60_000, as_of=56, in_flight=False)
    assert server.seen == [
        (
            "GET",
            "/v1/coverage?dataset=d&symbol=BTC/USDT&start=0&end=60000&as_of=56&in_flight=false",
        )
    ]


async def test_an_unopened_client_says_how_to_open_it() -> None:
    with pytest.raises(SeamfillError, match="async with"):
        await CoordinatorClient("http://127.0.0.1:9").workers()


@pytest.mark.parametrize(
    "text", ["", " , ", "ftp://h:1", "h:1", "http://h:x", "http://h:1/path", "http://u@h:1"]
)
def test_an_unusable_url_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_urls(text)
    assert caught.value.field == "coordinator_url"


def test_urls_are_split_trimmed_and_taken_once() -> None:
    assert parse_urls("http://a:1/, http://b:2,http://a:1") == ("http://a:1", "http://b:2")


def test_a_view_of_the_scripted_server_is_a_real_one() -> None:
    """Guards the fake: its bodies decode as the protocol's."""
    assert msgspec.convert(view("active", 1), BackfillView).ratio == 0.1
