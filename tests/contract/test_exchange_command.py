"""The command line: one ready line, a clean end, and errors a person can act on."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result

from seamfill_chaos.cli import main

COMMAND = (sys.executable, "-c", "from seamfill_chaos.cli import main; main()", "exchange")
WAIT_S = 30


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[tuple[Process, dict[str, object]]]:
    process = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), WAIT_S))
        yield process, ready
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_one_ready_line_then_service_then_a_quiet_end() -> None:
    arguments = ("--bars", "300", "--outages", "1", "--now", "2024-01-01T02:00:00Z", "--warm")
    async with running(*arguments) as (process, ready):
        assert ready == {"event": "ready", "url": ready["url"], "pid": process.pid}
        async with (
            aiohttp.ClientSession(str(ready["url"])) as http,
            http.get("/__control/state") as answer,
        ):
            state = await answer.json()
        assert 0 <= state["now_ms"] - 1_704_074_400_000 < WAIT_S * 1_000
        assert list(state["symbols"]) == ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]
        process.send_signal(signal.SIGTERM)
        stdout, stderr = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert (stdout, stderr, process.returncode) == (b"", b"", 0)


async def test_sigterm_answers_what_is_in_flight() -> None:
    async with running("--bars", "300", "--outages", "0", "--delay-ms", "2000") as (process, ready):
        async with aiohttp.ClientSession(str(ready["url"])) as http:
            query = {"symbol": "BTCUSDT", "interval": "1m", "limit": "3"}
            asking = asyncio.create_task(_get(http, "/api/v3/klines", query))
            while not (await _get(http, "/__control/requests", {}))["total"]:
                pass
            process.send_signal(signal.SIGTERM)
            assert len(await asyncio.wait_for(asking, WAIT_S)) == 3
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


async def test_a_second_signal_does_not_wait_for_what_is_in_flight() -> None:
    async with running("--bars", "300", "--outages", "0", "--delay-ms", "60000") as (
        process,
        ready,
    ):
        async with aiohttp.ClientSession(str(ready["url"])) as http:
            query = {"symbol": "BTCUSDT", "interval": "1m", "limit": "3"}
            asking = asyncio.create_task(_get(http, "/api/v3/klines", query))
            while not (await _get(http, "/__control/requests", {}))["total"]:
                pass
            process.send_signal(signal.SIGTERM)
            # Two signals at once may arrive as one: the second is sent when the first was heeded.
            with pytest.raises(aiohttp.ClientConnectionError):
                while True:
                    async with aiohttp.ClientSession(str(ready["url"])) as late:
                        await _get(late, "/__control/requests", {})
            process.send_signal(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(asking, WAIT_S)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 130


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["exchange", *arguments])


def test_bad_lies_are_named_by_file_lie_and_field(tmp_path: Path) -> None:
    file = tmp_path / "lies.toml"
    file.write_text('[[lie]]\nkind = "status"\ncode = "many"\n')
    result = invoke("--lies", str(file))
    assert result.exit_code == 8
    assert f'{file}: lie 1 ("status"): code: must be an integer from 200 to 599' in result.output


def test_unusable_recordings_are_named(tmp_path: Path) -> None:
    assert "holds no SYMBOL.parquet" in invoke("--data", str(tmp_path)).output
    (tmp_path / "BTCUSDT.parquet").write_bytes(b"not parquet")
    result = invoke("--data", str(tmp_path))
    assert result.exit_code == 8
    assert "BTCUSDT.parquet" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--now", "yesterday"), "neither like 2024-01-01T00:00:00Z nor epoch milliseconds"),
        (("--now", "2024-01-01T00:00:00"), "neither like"),
        (("--listen", "8090"), "not like 127.0.0.1:8090"),
        (("--bars", "100", "--outages", "2"), "2 outages need a history of at least 160 minutes"),
        (("--start", "2024-01-01T00:00:30Z"), "whole minute"),
        (("--data", "/nonexistent"), "does not exist"),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: tuple[str, ...], says: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_symbol_without_a_known_quote_is_refused() -> None:
    result = invoke("--symbols", "BTCXYZ")
    assert result.exit_code == 8
    assert "'BTCXYZ' ends in none of the known quotes" in result.output


async def _get(http: aiohttp.ClientSession, path: str, query: dict[str, str]) -> dict[str, object]:
    async with http.get(path, params=query) as answer:
        document: dict[str, object] = await answer.json()
        return document
