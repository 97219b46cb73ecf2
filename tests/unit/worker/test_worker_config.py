"""What a person types wrong is named by its field before anything starts."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from seamfill.errors import InvalidInput
from seamfill.presets import load_venues
from seamfill_worker.cli import main
from seamfill_worker.config import parse_ccxt_urls, parse_host_port, parse_urls
from seamfill_worker.sources.registry import open_source

URL = "http://127.0.0.1:1"


def run(*arguments: str, **environment: str) -> Result:
    env = {"QUESTDB_DSN": None, "QUESTDB_HTTP": None, "WORKER_COORDINATOR": None, **environment}
    return CliRunner().invoke(main, ["run", *arguments], env=env)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "coordinator: give at least one"),
        (("--coordinator", "ftp://x"), "coordinator: 'ftp://x' is not an http"),
        (("--coordinator", "127.0.0.1:8080"), "coordinator:"),
        (("--coordinator", URL, "--ccxt-url", "binance"), "ccxt-url: 'binance' is not EXCHANGE="),
        (("--coordinator", URL, "--ccxt-url", f"binanse={URL}"), "did you mean binance"),
        (("--coordinator", URL, "--store", "mongo:x"), "mongo"),
        (("--coordinator", URL, "--store", "questdb:bars"), "QUESTDB_DSN"),
        (("--coordinator", URL, "--metrics-listen", "9102"), "metrics-listen: '9102' is not HOST"),
        (("--coordinator", URL, "--presets", "/nowhere.yaml"), "/nowhere.yaml"),
        (("--coordinator", URL, "--ttl-ms", "5"), "--ttl-ms"),
    ],
)
def test_a_mistake_is_named(arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stdout == ""


def test_a_flag_may_come_from_the_environment() -> None:
    result = run(WORKER_COORDINATOR="http://a:1, nonsense")
    assert result.exit_code == 2
    assert "coordinator: 'nonsense'" in result.stderr


def test_composite_flags_are_read() -> None:
    assert parse_urls(["http://a:1/,http://b:2", "https://c"]) == (
        "http://a:1",
        "http://b:2",
        "https://c",
    )
    assert parse_ccxt_urls([f"binance={URL},kraken={URL}"]) == {"binance": URL, "kraken": URL}
    assert parse_host_port("x", "127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_host_port("x", "[::1]:9102") == ("::1", 9102)
    with pytest.raises(InvalidInput):
        parse_host_port("x", "127.0.0.1:70000")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("binance", "is not <scheme>:<name>"),
        ("polygon:rest", "'polygon:rest' is not built yet"),
        ("ftp:x", "no scheme 'ftp'"),
    ],
)
def test_an_unknown_source_is_refused_by_its_name(spec: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        open_source(spec, venues=load_venues())


def test_help_names_every_flag() -> None:
    text = CliRunner().invoke(main, ["run", "--help"]).output
    for flag in ("--coordinator", "--worker-id", "--store", "--ccxt-url", "--presets"):
        assert flag in text
