"""The demo's story: start, ask, kill, wait, compare. Each step a function that reads like it.

Owns the order of events and the verdict. Must not know how processes are kept (``live``) or how
anything is drawn (``screen``).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.table import Table

from seamfill.bars import Bars, content_digest
from seamfill.client import CoordinatorClient
from seamfill.errors import SeamfillError
from seamfill.protocol.values import SeriesId
from seamfill_chaos.demo.screen import Screen, SeriesProgress, progress_of
from seamfill_chaos.demo.strategy import Served, ask_for_history
from seamfill_chaos.live.command import run_command
from seamfill_chaos.live.processes import Processes
from seamfill_chaos.live.world import Exchange, World, cluster_view
from seamfill_chaos.parts import questdb
from seamfill_chaos.parts.maven import PartMissing

__all__ = ["DemoOptions", "run_demo"]

DATASET: Final = "ohlcv.binance.spot.1m"
INTERVAL_MS: Final = 60_000
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
WORKERS: Final = ("w1", "w2")
KILL_LEADER_AT: Final = 0.30
KILL_WORKER_AT: Final = 0.55
_POLL_S: Final = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What a user may choose."""

    directory: Path
    bars: int
    seed: int
    delay_ms: int
    use_questdb: bool


@dataclass(slots=True)
class Story:
    """What happens is told here, and what is known now."""

    screen: Screen
    world: World
    client: CoordinatorClient
    progress: dict[str, SeriesProgress] = field(default_factory=dict)

    @property
    def share(self) -> float:
        wanted = sum(line.bars_wanted for line in self.progress.values())
        done = sum(line.bars_done for line in self.progress.values())
        return done / wanted if wanted else 0.0


async def run_demo(options: DemoOptions, screen: Screen) -> bool:
    """Run the whole story; return whether the verdict is good."""
    async with (
        _store(options, screen) as (store, environment),
        Processes(options.directory / "logs") as processes,
    ):
        world = World(processes, environment=environment)
        exchange = await _start(options, screen, world, store)
        async with CoordinatorClient(world.coordinator_urls) as client:
            story = Story(screen, world, client)
            return await _tell(story, exchange, store, environment)


@contextlib.asynccontextmanager
async def _store(
    options: DemoOptions, screen: Screen
) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
    """Yield the store's name and the environment that leads to it."""
    parquet = f"parquet:{options.directory / 'bars'}"
    if not options.use_questdb:
        screen.say("store: Parquet on this disk (asked for)")
        yield parquet, {}
        return
    try:
        server = await questdb.start(options.directory / "questdb")
    except PartMissing as missing:
        screen.say(f"store: Parquet on this disk. {missing.message}", style="yellow")
        yield parquet, {}
        return
    try:
        screen.say(f"store: QuestDB, a real server of our own (pid {server.pid})")
        yield "questdb:ohlcv_binance_spot_1m", server.environment
    finally:
        await server.stop()


async def _start(options: DemoOptions, screen: Screen, world: World, store: str) -> Exchange:
    exchange = await world.start_exchange(
        *("--seed", str(options.seed), "--bars", str(options.bars), "--outages", "2"),
        *("--symbols", ",".join(symbol.replace("/", "") for symbol in SYMBOLS)),
        *("--delay-ms", str(options.delay_ms)),
    )
    screen.say(f"exchange: speaks Binance, answers slowly, at {exchange.url}")
    await world.start_cluster(options.directory / "cluster")
    urls = ", ".join(world.coordinator_urls)
    screen.say(f"coordinators: {', '.join(world.nodes)} at {urls}")
    await asyncio.gather(
        *(world.start_worker(name, exchange, "--store", store) for name in WORKERS)
    )
    screen.say(f"workers: {', '.join(WORKERS)}, stateless, through the real ccxt library")
    return exchange


async def _tell(
    story: Story, exchange: Exchange, store: str, environment: Mapping[str, str]
) -> bool:
    truth = {symbol: await _truth(exchange, symbol) for symbol in SYMBOLS}
    start_ms = min(int(bars.ts_ms[0]) for bars in truth.values())
    end_ms = max(int(bars.ts_ms[-1]) for bars in truth.values()) + INTERVAL_MS
    bars = (end_ms - start_ms) // INTERVAL_MS * len(SYMBOLS)
    story.screen.say(f"a strategy asks the SDK for {bars:,} bars that are not there", style="bold")
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(story, start_ms, end_ms))
        killing = tasks.create_task(_kill(story))
        served = await ask_for_history(
            story.client,
            dataset=DATASET,
            symbols=SYMBOLS,
            start_ms=start_ms,
            end_ms=end_ms,
            store=store,
            environment=environment,
        )
        await killing
        watching.cancel()
    await _final_look(story, start_ms, end_ms)
    return _verdict(story.screen, truth, served)


async def _truth(exchange: Exchange, symbol: str) -> Bars:
    """Return what the exchange really holds, outages included, without asking through ccxt."""
    answer = await exchange.look("bars", symbol=symbol.replace("/", ""))
    return Bars.from_rows(answer["bars"])


async def _watch(story: Story, start_ms: int, end_ms: int) -> None:
    """Keep the picture fresh until cancelled; a cluster without a leader is part of the story."""
    while True:
        for symbol in SYMBOLS:
            with contextlib.suppress(SeamfillError):
                answer = await story.client.coverage(
                    SeriesId(dataset=DATASET, symbol=symbol), start_ms, end_ms
                )
                story.progress[symbol] = progress_of(
                    answer, INTERVAL_MS, width=story.screen.strip_width
                )
        story.screen.show(story.progress, await _cluster_line(story.world))
        await asyncio.sleep(_POLL_S)


async def _cluster_line(world: World) -> str:
    up = [name for name, process in world.nodes.items() if process.running]
    for name in up:
        view = await cluster_view(world.urls[name])
        if view is not None and view["leader"]:
            leases = view["leases"]
            return (
                f"leader {view['leader']} in term {view['term']} · {len(up)} of "
                f"{len(world.nodes)} members up · {leases['live']} leases live, "
                f"{leases['expired_total']} expired"
            )
    return f"no leader · {len(up)} of {len(world.nodes)} members up"


async def _kill(story: Story) -> None:
    """Kill the leader, then a worker, each when enough is filled and enough is left."""
    world, screen = story.world, story.screen
    await _until_share(story, KILL_LEADER_AT)
    leader = await world.wait_until_ready()
    await world.kill_node(leader)
    screen.say(f"SIGKILL to {leader}, which leads the cluster", style="bold red")
    before = screen.elapsed_s
    successor = await world.wait_until_ready()
    screen.say(f"{successor} leads, {screen.elapsed_s - before:.1f} s later", style="green")
    screen.quote(await _status(world))
    await world.restart_node(leader)
    screen.say(f"{leader} is back, and catches up from the others")
    await _until_share(story, KILL_WORKER_AT)
    await world.kill_worker(WORKERS[0])
    screen.say(f"SIGKILL to worker {WORKERS[0]}, in the middle of its windows", style="bold red")
    await asyncio.sleep(2)
    await world.restart_worker(WORKERS[0])
    screen.say(f"{WORKERS[0]} is back under its old id: its leases were given up at once")


async def _until_share(story: Story, share: float) -> None:
    while story.share < share:  # noqa: ASYNC110  # a picture to look at, not an event to await
        await asyncio.sleep(0.1)


async def _status(world: World) -> str:
    """Return what `coordinator status` prints; the demo shows the real command."""
    endpoints = [word for url in world.coordinator_urls for word in ("--endpoint", url)]
    columns = str(min(shutil.get_terminal_size().columns - 12, 110))
    printed = await run_command(
        "coordinator", "status", *endpoints, environment={"COLUMNS": columns}
    )
    return f"$ coordinator status\n{printed.stdout}{printed.stderr}"


async def _final_look(story: Story, start_ms: int, end_ms: int) -> None:
    story.screen.say("the backfill is finished; the last look:")
    for symbol in SYMBOLS:
        answer = await story.client.coverage(
            SeriesId(dataset=DATASET, symbol=symbol), start_ms, end_ms
        )
        line = progress_of(answer, INTERVAL_MS, width=story.screen.strip_width)
        story.screen.quote(f"{symbol:<9} {line.strip}")
        for gap in answer.gaps:
            bars = (gap.end_ms - gap.start_ms) // INTERVAL_MS
            receipts = len(gap.receipt.asked) if gap.receipt else 0
            story.screen.quote(f"          · {bars} bars: {gap.reason}, {receipts} answers agree")
    story.screen.quote(await _status(story.world))


def _verdict(screen: Screen, truth: Mapping[str, Bars], served: Mapping[str, Served]) -> bool:
    """Compare what the SDK returned with what the exchange holds, digest by digest."""
    table = Table(title="What the exchange holds, and what the SDK returned")
    for column in ("symbol", "bars held", "bars served", "digest held", "digest served", ""):
        table.add_column(column)
    good = True
    for symbol, held in truth.items():
        got = served[symbol]
        same = content_digest(held) == content_digest(got.bars) and got.complete
        good = good and same
        table.add_row(
            symbol,
            f"{len(held):,}",
            f"{len(got.bars):,}",
            content_digest(held)[:16],
            content_digest(got.bars)[:16],
            "[green]equal[/]" if same else "[red]DIFFERENT[/]",
        )
    screen.table(table)
    if good:
        screen.say("verdict: every bar is there, every hole has a reason", style="bold green")
    else:
        screen.say("verdict: NOT what the exchange holds", style="bold red")
    return good
