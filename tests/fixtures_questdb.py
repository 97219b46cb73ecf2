"""A real QuestDB for tests: one server a run, or the one that the environment names."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping

import pytest

from real_parts import part_missing
from seamfill_chaos.parts.maven import PartMissing
from seamfill_chaos.parts.questdb import QuestDBServer, start

_GIVEN = ("QUESTDB_DSN", "QUESTDB_HTTP")


@pytest.fixture(scope="session")
def questdb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuestDBServer]:
    """A server of our own, for the whole run; tests that hurt it take ``mortal_questdb``."""
    try:
        # Only in its developer's mode does a server suspend a table on request.
        dev = {"dev.mode.enabled": "true"}
        server = asyncio.run(start(tmp_path_factory.mktemp("questdb"), settings=dev))
    except PartMissing as missing:
        part_missing(missing.message)
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def questdb_environment(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The variables that lead to a server: the given one, else our own."""
    if all(os.environ.get(name) for name in _GIVEN):
        return {name: os.environ[name] for name in _GIVEN}
    server: QuestDBServer = request.getfixturevalue("questdb_server")
    return server.environment


@pytest.fixture
def mortal_questdb(questdb_server: QuestDBServer) -> Iterator[QuestDBServer]:
    """Our own server, to be killed or paused; afterwards it runs again whatever happened."""
    yield questdb_server
    questdb_server.resume()
    if not questdb_server.running:
        asyncio.run(questdb_server.start())


@pytest.fixture
def table_name() -> str:
    """A table that no other test uses."""
    return f"bars_{secrets.token_hex(6)}"
