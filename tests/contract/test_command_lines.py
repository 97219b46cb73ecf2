"""The command lines over a real coordinator: outputs that scripts rely on, exit codes, messages."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from contract.http_rig import HttpRig, http_rig
from contract.sdk_rig import MINUTE_MS, SERIES, T0, BenchWorker, make_bars
from seamfill.cli import main as seamfill
from seamfill.client import CoordinatorClient
from seamfill_coordinator.cli import main as coordinator
from seamfill_worker.stores.parquet import ParquetStore

T = TypeVar("T")
START, END = "2021-04-21T00:00:00Z", "2021-04-21T01:00:00Z"
END_MS = T0 + 60 * MINUTE_MS


@dataclass
class World:
    """A coordinator in a thread of its own, a store, and a worker that the test steers."""

    url: str
    store: str
    tmp_path: Path
    loop: asyncio.AbstractEventLoop
    worker: BenchWorker
    http: HttpRig

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def coordinator(self, *arguments: str) -> Result:
        return CliRunner().invoke(coordinator, [*arguments, "--endpoint", self.url])

    def create(self, *more: str) -> Any:
        result = self.coordinator(
            "backfill", "create", "--dataset", SERIES.dataset, "--symbol", SERIES.symbol,
            "--start", START, "--end", END, "--store", self.store, "-o", "json", *more,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def fetch(self, *more: str, output: str = "out.parquet") -> Result:
        return CliRunner().invoke(
            seamfill,
            [
                "fetch", SERIES.dataset, SERIES.symbol, "--start", START, "--end", END,
                "--coordinator", self.url, "--store", self.store,
                "--output", str(self.tmp_path / output), *more,
            ],
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    started: list[World] = []
    ready, stop = threading.Event(), []

    async def serve() -> None:
        stopping = asyncio.Event()
        async with http_rig(tmp_path) as rig, CoordinatorClient(rig.url) as client:
            directory = tmp_path / "bars"
            worker = BenchWorker(client, ParquetStore(directory))
            loop = asyncio.get_running_loop()
            stop.append(lambda: loop.call_soon_threadsafe(stopping.set))
            started.append(World(rig.url, f"parquet:{directory}", tmp_path, loop, worker, rig))
            ready.set()
            await stopping.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    yield started[0]
    stop[0]()
    thread.join(20)
    assert not thread.is_alive()


def test_create_prints_what_the_backfill_amounts_to(world: World) -> None:
    plan = world.create("--window-bars", "25", "--id", "mine")
    assert {name: plan[name] for name in ("id", "windows", "bars", "already_covered")} == {
        "id": "mine",
        "windows": 4,
        "bars": 60,
        "already_covered": 0,
    }
    assert (plan["start_ms"], plan["end_ms"]) == (T0, END_MS)
    assert world.create("--window-bars", "25", "--id", "mine")["repeated"]
    assert world.create("--dry-run")["dry_run"]
    listed = world.coordinator("backfill", "list", "-o", "json")
    assert json.loads(listed.stdout)["total"] == 1


def test_fetch_writes_exactly_the_bars_and_lists_gaps_with_their_reason(world: World) -> None:
    world.worker.holes = {T0 + 10 * MINUTE_MS}
    world.create()
    world.do(world.worker.fill_all())
    result = world.fetch()
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "venue_outage" in result.stderr
    assert "1 proved gap, 0 unexplained" in result.stderr
    table = pq.read_table(world.tmp_path / "out.parquet")
    assert table.column_names == ["ts", "open", "high", "low", "close", "volume"]
    assert str(table.schema.field("ts").type) == "int64"
    expected = make_bars(T0, END_MS)
    kept = [ts for ts in expected.ts_ms.tolist() if ts not in world.worker.holes]
    assert table["ts"].to_pylist() == kept
    assert not list(world.tmp_path.glob(".out.parquet.*")), "a temporary file was left behind"


def test_coverage_of_a_symbol_that_nobody_asked_for_says_so(world: World) -> None:
    world.create()
    shown = world.coordinator(
        "coverage", "show", "--dataset", SERIES.dataset, "--symbol", "ABC/USDT"
    )
    assert "Nobody has asked for any bar of this symbol yet" in shown.stdout


def test_fetch_over_budget_exits_6_and_writes_nothing(world: World) -> None:
    result = world.fetch("--deadline-ms", "3000")
    assert result.exit_code == 6, result.output
    assert "backfill_wait did not end within 3000 ms" in result.stderr
    assert "ensure" in result.stderr
    assert not (world.tmp_path / "out.parquet").exists()


def test_fetch_of_an_incomplete_range_exits_7_with_what_is_there(world: World) -> None:
    result = world.fetch("--strategy", "partial_fill")
    assert result.exit_code == 7, result.output
    assert "unfilled" in result.stderr
    assert pq.read_table(world.tmp_path / "out.parquet").num_rows == 0
    assert world.fetch("--strategy", "fail_fast").exit_code == 7


def test_watch_ends_with_the_state_and_its_exit_code(world: World) -> None:
    world.create("--id", "w")
    late = world.coordinator("backfill", "watch", "w", "--timeout", "3", "-o", "jsonl")
    assert late.exit_code == 6
    assert json.loads(late.stdout.splitlines()[-1])["state"] == "active"
    world.do(world.worker.fill_all())
    done = world.coordinator("backfill", "watch", "w", "-o", "jsonl")
    assert done.exit_code == 0
    last = json.loads(done.stdout.splitlines()[-1])
    assert {name: last[name] for name in ("state", "bars_wanted", "bars_verified", "bars_gap")} == {
        "state": "complete",
        "bars_wanted": 60,
        "bars_verified": 60,
        "bars_gap": 0,
    }
    assert last["windows_violated"] == 0


def test_a_cancelled_backfill_ends_its_watch_incomplete(world: World) -> None:
    world.create("--id", "c")
    assert world.coordinator("backfill", "pause", "c").exit_code == 0
    assert world.coordinator("backfill", "resume", "c").exit_code == 0
    assert world.coordinator("backfill", "cancel", "c").exit_code == 0
    assert world.coordinator("backfill", "watch", "c", "-o", "json").exit_code == 7


def test_violated_bars_are_retried_by_one_command(world: World) -> None:
    world.create("--id", "v")
    leases = world.do(world.worker.acquire())
    world.do(world.worker.give_up(leases, "source_says_no"))
    shown = world.coordinator("backfill", "show", "v")
    assert f"VIOLATED  60 bars  source_says_no  (such as {SERIES.symbol} {START} – " in shown.stdout
    assert "coordinator backfill retry v" in shown.stdout
    watched = world.coordinator("backfill", "watch", "v")
    assert watched.exit_code == 7
    assert "source_says_no" in watched.stdout
    as_before = world.coordinator(
        "backfill", "create", "--dataset", SERIES.dataset, "--symbol", SERIES.symbol,
        "--start", START, "--end", END,
    )  # fmt: skip
    assert "--redo failed" in as_before.stderr
    again = world.coordinator("backfill", "retry", "v", "-o", "json")
    assert "--redo failed" not in again.stderr
    assert json.loads(again.stdout)["bars"] == 60
    world.do(world.http.advance(6_000))  # past the lock-delay of the lease that failed
    assert world.do(world.worker.fill_all()) == 1
    assert "has been filled since" in world.coordinator("backfill", "show", "v").stdout
    assert world.fetch().exit_code == 0


@pytest.mark.parametrize("by", ["coordinator", "seamfill"])
def test_coverage_has_the_documented_keys(world: World, by: str) -> None:
    world.worker.holes = {T0 + 10 * MINUTE_MS}
    world.create()
    world.do(world.worker.fill_all())
    if by == "coordinator":
        result = world.coordinator(
            "coverage", "show", "--dataset", SERIES.dataset, "--symbol", SERIES.symbol, "-o", "json"
        )
    else:
        result = CliRunner().invoke(
            seamfill,
            ["coverage", SERIES.dataset, SERIES.symbol, "--coordinator", world.url, "-o", "json"],
        )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    hole = T0 + 10 * MINUTE_MS
    assert document["covered"] == [[T0, hole, 0], [hole + MINUTE_MS, END_MS, 0]]
    (gap,) = document["gaps"]
    assert (gap["start_ms"], gap["end_ms"], gap["reason"]) == (
        hole,
        hole + MINUTE_MS,
        "venue_outage",
    )
    assert len(gap["receipt"]["asked"]) == 2
    assert document["in_flight"] == document["violated"] == []
    assert document["rev"] > 0


def test_status_has_the_documented_keys(world: World) -> None:
    document = json.loads(world.coordinator("status", "-o", "json").stdout)
    for name in ("cluster_id", "leader", "term", "fault_margin", "digests_agree", "leases"):
        assert name in document
    (member,) = document["members"]
    for name in ("id", "url", "role", "healthy", "applied_index", "state_digest", "digest_index"):
        assert name in member
    assert document["backfills"]["active"] == 0
    text = world.coordinator("status")
    assert text.exit_code == 0
    assert "NEXT FAILURE STOPS WRITES" in text.stdout


def test_a_lease_is_listed_explained_and_released_only_with_its_present_token(
    world: World,
) -> None:
    world.create()
    (lease,) = world.do(world.worker.acquire())
    listed = json.loads(world.coordinator("lease", "list", "-o", "json").stdout)
    (row,) = listed["leases"]
    assert row["holder"] == "bench"
    explained = world.coordinator(
        "lease", "explain", "--dataset", SERIES.dataset, "--symbol", SERIES.symbol, "--at", START
    )
    assert "Worker bench holds it" in explained.stdout
    wrong = world.coordinator("lease", "release", row["key"], "--token", str(lease.fence + 7))
    assert wrong.exit_code == 4, wrong.output
    right = world.coordinator("lease", "release", row["key"], "--token", str(lease.fence))
    assert right.exit_code == 0, right.output
    missing = world.coordinator("lease", "release", "ohlcv:x:60:0:60::", "--token", "1")
    assert missing.exit_code == 3


def test_workers_and_sources_are_listed_drained_and_paused(world: World) -> None:
    world.create()
    world.do(world.worker.acquire())
    assert "bench" in world.coordinator("worker", "list").stdout
    assert world.coordinator("worker", "drain", "bench").exit_code == 0
    assert world.coordinator("worker", "drain", "nobody").exit_code == 3
    assert world.coordinator("source", "pause", "ccxt:binance").exit_code == 0
    assert "paused" in world.coordinator("source", "list").stdout
    assert world.coordinator("source", "resume", "ccxt:binance").exit_code == 0
    assert world.coordinator("health").exit_code == 0


def test_a_source_that_nobody_has_offered_is_paused_with_a_warning(world: World) -> None:
    """Pausing before the workers start is fine; a slip of the pen must not look like it."""
    early = world.coordinator("source", "pause", "ccxt:kraken")
    assert (early.exit_code, early.stdout) == (0, "ccxt:kraken is paused\n")
    assert "no worker has offered 'ccxt:kraken' yet" in early.stderr
    world.create()
    world.do(world.worker.acquire())
    slip = world.coordinator("source", "pause", "ccxt:binace", "-o", "json")
    assert json.loads(slip.stdout) == {"source": "ccxt:binace", "state": "paused"}
    assert "did you mean ccxt:binance?" in slip.stderr
    assert (
        "did you mean ccxt:binance?" in world.coordinator("source", "resume", "ccxt:binanc").stderr
    )
    known = world.coordinator("source", "pause", "ccxt:binance")
    assert (known.exit_code, known.stderr) == (0, "")


@pytest.mark.parametrize("output", [(), ("-o", "json")], ids=["table", "json"])
def test_a_lease_that_nobody_knows_is_not_shown(world: World, output: tuple[str, ...]) -> None:
    missing = world.coordinator("lease", "show", "garbage", *output)
    assert (missing.exit_code, missing.stdout) == (3, "")
    assert "nothing is known of 'garbage'" in missing.stderr
    bad = world.coordinator("lease", "show", "native:garbage", *output)
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "native:DATASET|SYMBOL|START_MS|END_MS" in bad.stderr


def test_a_lease_is_shown_while_it_is_held_or_something_overlaps_it(world: World) -> None:
    world.create()
    (lease,) = world.do(world.worker.acquire())
    key = f"native:{SERIES.dataset}|{SERIES.symbol}|{lease.start_ms}|"
    held = world.coordinator("lease", "show", f"{key}{lease.end_ms}")
    assert held.exit_code == 0
    assert held.stdout.startswith("held by bench")
    inside = world.coordinator("lease", "show", f"{key}{lease.start_ms + MINUTE_MS}")
    assert inside.exit_code == 0
    assert inside.stdout.startswith("not held\noverlaps native:")


def test_a_second_store_for_a_dataset_is_refused_by_the_name_of_the_field(world: World) -> None:
    world.create()
    other = world.coordinator(
        "backfill", "create", "--dataset", SERIES.dataset, "--symbol", SERIES.symbol,
        "--start", START, "--end", END, "--store", "questdb:elsewhere",
    )  # fmt: skip
    assert other.exit_code == 4
    assert "store" in other.stderr
    fetched = world.fetch("--store", "questdb:elsewhere")
    assert fetched.exit_code == 2
    assert "questdb:elsewhere" in fetched.stderr


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("--start", "2021-04-21T00:00:00"), 2, "no time zone"),
        (("--start", "1618963200"), 2, "looks like seconds"),
        (("--end", START), 2, "--end"),
        (("--start", "2021"), 2, "looks like a year"),
        (("--symbol", "BTCUSDT"), 2, "did you mean BTC/USDT"),
        (("--dataset", "ohlcv.binance.spot.5m"), 2, "did you mean ohlcv.binance.spot.1m"),
        (("--store", "nonsense"), 2, "store"),
        (("--id", "has space"), 2, "id"),
    ],
)
def test_bad_input_names_the_field(
    world: World, change: tuple[str, str], code: int, says: str
) -> None:
    options = {
        "--dataset": SERIES.dataset,
        "--symbol": SERIES.symbol,
        "--start": START,
        "--end": END,
        **dict([change]),
    }
    flat = [part for option in options.items() for part in option]
    result = world.coordinator("backfill", "create", *flat)
    assert result.exit_code == code, result.output
    assert says in result.stderr


def test_a_coordinator_that_is_down_is_told_with_its_url() -> None:
    result = CliRunner().invoke(
        coordinator, ["backfill", "list", "--endpoint", "http://127.0.0.1:9", "--call-timeout", "1"]
    )
    assert result.exit_code == 5
    assert "http://127.0.0.1:9" in result.stderr
    assert "can not connect: Connection refused" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bad_address_in_the_environment_is_told_by_the_name_of_its_variable() -> None:
    result = CliRunner().invoke(coordinator, ["status"], env={"SEAMFILL_COORDINATOR_URL": "nodes"})
    assert result.exit_code == 2
    assert "SEAMFILL_COORDINATOR_URL: 'nodes' must look like http://host:port" in result.stderr


def test_an_output_that_can_not_be_written_is_named(world: World) -> None:
    world.create()
    world.do(world.worker.fill_all())
    result = world.fetch(output="no/such/directory.parquet")
    assert result.exit_code == 2
    assert "--output" in result.stderr


def test_presets_are_listed_shown_and_checked(tmp_path: Path) -> None:
    run: Callable[..., Result] = lambda *a: CliRunner().invoke(seamfill, ["presets", *a])  # noqa: E731
    assert "ohlcv.binance.spot.1m" in run().stdout
    shown = json.loads(run("show", SERIES.dataset, "-o", "json").stdout)
    assert shown["spec"]["source"] == "ccxt:binance"
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\ndata_presets: {x: {kind: ohlcv}}\n", encoding="utf-8")
    result = run("check", str(bad))
    assert result.exit_code == 2
    assert "data_presets.x" in result.stderr


def test_the_installed_command_works_as_a_process(world: World) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "seamfill_coordinator", "status"),
            *("--endpoint", world.url, "-o", "json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["leader"] == "n1"
    assert done.stderr == ""
