"""``coordinator status``: the whole cluster on one screen, also without a leader."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

import click
import msgspec

from seamfill.client import CoordinatorClient
from seamfill.errors import CoordinatorError, CoordinatorUnavailable
from seamfill.protocol.backfills import BackfillView
from seamfill.protocol.cluster import (
    ClusterAnswer,
    MemberView,
    SourcesAnswer,
    WorkersAnswer,
)
from seamfill.terminal import Output, emit, output_option
from seamfill.times import format_ms
from seamfill_coordinator.console.cluster_view import (
    ClusterView,
    fault_margin_words,
    merge_views,
)
from seamfill_coordinator.console.connecting import (
    Endpoints,
    call,
    console,
    endpoint_options,
    print_table,
    repeat,
)

__all__ = ["status"]

# What needs a leader is not waited for: a cluster without one is what `status` is looked at for.
DETAIL_TIMEOUT_S: Final = 2.5
MAX_MEMBERS: Final = 16
MAX_ROWS: Final = 20


@click.command()
@endpoint_options
@click.option("--watch", is_flag=True, help="Look again every two seconds until interrupted.")
@output_option(Output.TABLE, Output.WIDE, Output.JSON, Output.JSONL)
def status(*, endpoints: Endpoints, watch: bool, output: Output) -> None:
    """Show members, leader, fault margin, leases, backfills, workers and sources.

    Works with whatever nodes can be reached, also without a leader. "tolerates 1 more failure" says
    how many members may still fail before writes stop. Digests are compared at the newest point
    that all reachable members have passed: "differ" means that a node must be replaced.

    \b
    Example:
      coordinator status --endpoint http://127.0.0.1:8080 --endpoint http://127.0.0.1:8081
    """

    async def show(client: CoordinatorClient) -> None:
        view = await look(client)
        details = await _details(client, view)
        if output in (Output.JSON, Output.JSONL):
            line = Output.JSONL if watch else output
            emit({**view.document(), **_plain(details)}, line)
        else:
            if watch:
                click.clear()
            _print(view, details, is_wide=output is Output.WIDE)

    if watch:
        repeat(endpoints, show)
    else:
        call(endpoints, show)


async def look(client: CoordinatorClient) -> ClusterView:
    """Ask every endpoint, and then the members that they name and nobody was asked yet.

    Raises ``CoordinatorUnavailable`` when no node answers at all.
    """
    answers: dict[str, ClusterAnswer] = {}
    asked: set[str] = set()
    waiting: set[str] = set(client.urls)
    while waiting and len(asked) < MAX_MEMBERS:
        round_urls = sorted(waiting)[: MAX_MEMBERS - len(asked)]
        asked.update(round_urls)
        found = await asyncio.gather(*(_ask(client, url) for url in round_urls))
        answers |= {url: each for url, each in zip(round_urls, found, strict=True) if each}
        waiting = set(_named_urls(answers.values())) - asked
    if not answers:
        raise CoordinatorUnavailable(
            f"no node answers at {', '.join(client.urls)};"
            " is one running there, and is this its HTTP port?"
        )
    return merge_views(answers)


async def _ask(client: CoordinatorClient, url: str) -> ClusterAnswer | None:
    try:
        return await client.cluster(url)
    except CoordinatorError:
        return None


def _named_urls(answers: Iterable[ClusterAnswer]) -> Iterator[str]:
    """Yield the URLs of members that did not answer themselves yet, as others know them."""
    given = list(answers)
    reached = {answer.node_id for answer in given}
    for answer in given:
        for peer in answer.peers:
            if peer.url is not None and peer.id not in reached and peer.healthy:
                yield peer.url


class _Details(msgspec.Struct, frozen=True, kw_only=True):
    """What only a leader can say; None when it did not."""

    active: tuple[BackfillView, ...] | None = None
    workers: WorkersAnswer | None = None
    sources: SourcesAnswer | None = None


async def _details(client: CoordinatorClient, view: ClusterView) -> _Details:
    if view.leader is None:
        return _Details()
    try:
        async with asyncio.timeout(DETAIL_TIMEOUT_S):
            backfills, workers, sources = await asyncio.gather(
                client.backfills(active_only=True, limit=MAX_ROWS),
                client.workers(),
                client.sources(),
            )
    except (TimeoutError, CoordinatorError):
        return _Details()
    return _Details(active=backfills.backfills, workers=workers, sources=sources)


def _plain(details: _Details) -> dict[str, Any]:
    return {
        "active_backfills": msgspec.to_builtins(details.active),
        "workers": msgspec.to_builtins(details.workers.workers) if details.workers else None,
        "sources": msgspec.to_builtins(details.sources.sources) if details.sources else None,
    }


# --- the screen -----------------------------------------------------------------------------------

_MARGIN_STYLES: Final = {True: "bold red", False: "green"}


def _print(view: ClusterView, details: _Details, *, is_wide: bool) -> None:
    newest, out = view.newest, console()
    words = fault_margin_words(view.fault_margin)
    style = _MARGIN_STYLES[view.fault_margin <= 0]
    # A cluster of one never tolerates a failure; that is its operator's choice, not an alarm.
    if len(view.members) == 1 and view.fault_margin == 0:
        style = "yellow"
    out.print(
        f"[bold]{newest.cluster_id}[/]  leader {view.leader or '[bold red]none[/]'}"
        f"  term {newest.term}  rev {newest.rev}  [{style}]{words}[/]"
    )
    _print_members(view, is_wide=is_wide)
    out.print(_agreement(view))
    leases, fills = newest.leases, newest.backfills
    out.print(
        f"\n[bold]Leases[/]     {leases.live} live, {leases.lock_delay} in lock-delay,"
        f" {leases.waiting} ranges waiting, {leases.compatibility} compatibility;"
        f" so far {leases.granted_total} granted, {leases.expired_total} expired,"
        f" {leases.regranted_total} granted again, {leases.stale_fence_total} stale answers"
    )
    out.print(
        f"[bold]Backfills[/]  {fills.active} active, {fills.paused} paused,"
        f" {fills.complete} complete, {fills.incomplete} incomplete, {fills.cancelled} cancelled"
    )
    if view.leader is None:
        out.print("\nWithout a leader nothing is granted; backfills and workers are not shown.")
        return
    for backfill in details.active or ():
        out.print("  " + backfill_line(backfill))
    if details.workers is not None:
        out.print(f"\n[bold]Workers[/]    {_workers_line(details.workers)}")
    if details.sources is not None and details.sources.sources:
        print_table(
            ("SOURCE", "BUDGET LEFT", "PER MINUTE", "STATE"),
            [
                (s.source, s.weight_available, s.weight_per_minute, source_state(s))
                for s in details.sources.sources
            ],
            none="",
        )


def _print_members(view: ClusterView, *, is_wide: bool) -> None:
    header = ["MEMBER", "ROLE", "HEALTH", "APPLIED", "LAG", "DISK FREE", "VERSION", "URL"]
    if is_wide:
        header += ["TERM", "JOURNAL", "UP", "STATE DIGEST"]
    furthest = max((m.commit_index or m.applied_index or 0 for m in view.members), default=0)
    print_table(
        header,
        [_member_row(m, furthest, m.id in view.reached, is_wide) for m in view.members],
        none="",
    )


def _member_row(member: MemberView, furthest: int, reached: bool, is_wide: bool) -> list[str]:
    lag = "?" if member.applied_index is None else str(max(0, furthest - member.applied_index))
    health = "ok" if member.healthy else "NOT READY" if reached else "UNREACHABLE"
    row = [
        member.id,
        member.role,
        health,
        _or_unknown(member.applied_index),
        lag,
        _mib(member.disk_free_bytes),
        member.version or "?",
        member.url or "?",
    ]
    if is_wide:
        digest = f"{member.state_digest or '?'} @ {_or_unknown(member.digest_index)}"
        up = "?" if member.uptime_s is None else f"{member.uptime_s:.0f} s"
        row += [_or_unknown(member.term), _mib(member.journal_bytes), up, digest]
    return row


def _agreement(view: ClusterView) -> str:
    match view.digests_agree:
        case None:
            return "State digests can not be compared yet"
        case True:
            return f"State digests agree at index {view.compared_index}"
        case False:
            return f"[bold red]STATE DIGESTS DIFFER at index {view.compared_index}[/]"


def backfill_line(view: BackfillView) -> str:
    """Return a backfill's progress in one line."""
    done = view.bars_verified + view.bars_gap
    parts = [
        f"{view.id}  {view.state}  {view.ratio:7.2%}",
        f"{done:,} of {view.bars_wanted:,} bars",
    ]
    if view.bars_gap:
        parts.append(f"{view.bars_gap:,} proved absent")
    if view.bars_violated:
        parts.append(f"{view.bars_violated:,} VIOLATED")
    if view.bars_leased:
        parts.append(f"{view.bars_leased:,} being filled")
    waiting = [each for each in view.unfilled if each.state == "waiting"]
    if waiting:
        bars = sum(each.bars for each in waiting)
        parts.append(f"{bars:,} put off ({', '.join(each.reason for each in waiting[:3])})")
    if view.blocked:
        parts.append(f"blocked: {view.blocked}")
    if view.deadline_ms is not None and view.state == "active":
        parts.append(f"wanted by {format_ms(view.deadline_ms)}")
    return "  ".join(parts)


def unfilled_lines(view: BackfillView) -> Iterator[str]:
    """Yield a line for each reason why bars of a backfill are not there, with an example."""
    for each in view.unfilled:
        state = each.state.upper() if each.state == "violated" else each.state
        detail = f": {each.detail}" if each.detail else ""
        yield (
            f"{state}  {each.bars:,} bars  {each.reason}{detail}"
            f"  (such as {each.symbol} {format_ms(each.start_ms)} – {format_ms(each.end_ms)})"
        )


def _workers_line(answer: WorkersAnswer) -> str:
    if not answer.workers:
        return "none has asked for work yet: seamfill-worker run --coordinator URL"
    counts: dict[str, int] = {}
    for worker in answer.workers:
        counts[worker.state] = counts.get(worker.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def source_state(source: Any) -> str:
    """Return what keeps a source from being asked, if anything does."""
    if source.paused:
        return "paused"
    if source.breaker_remaining_ms:
        status = f" after HTTP {source.last_status}" if source.last_status else ""
        return f"breaker open for {source.breaker_remaining_ms / 1000:.0f} s{status}"
    return "ok"


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / (1 << 20):,.0f} MiB"
