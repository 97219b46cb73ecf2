"""``coordinator health``: is each node fit to serve, check by check."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from seamfill.client import CoordinatorClient
from seamfill.errors import CoordinatorError
from seamfill.protocol.cluster import ReadyAnswer
from seamfill.terminal import Exit, Output, emit, output_option
from seamfill_coordinator.console.connecting import Endpoints, call, endpoint_options, print_table

__all__ = ["health"]


@click.command()
@endpoint_options
@output_option()
def health(*, endpoints: Endpoints, output: Output) -> None:
    """Ask every --endpoint for its readiness checks.

    Exit codes: 0 all are ready, 1 one is not, 5 none can be reached.
    """
    rows = call(endpoints, _ask_all)
    if output is Output.TABLE:
        print_table(
            ("URL", "STATUS", "CHECKS THAT FAIL"),
            [(row["url"], row["status"], _failures(row)) for row in rows],
            none="",
        )
    elif output is Output.JSONL:
        for row in rows:
            emit(row, output)
    else:
        emit({"nodes": rows}, output)
    if all(row["status"] == "unreachable" for row in rows):
        raise SystemExit(Exit.UNREACHABLE)
    if any(row["status"] != "ok" for row in rows):
        raise SystemExit(Exit.FAILURE)


async def _ask_all(client: CoordinatorClient) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_ask(client, url) for url in client.urls)))


async def _ask(client: CoordinatorClient, url: str) -> dict[str, Any]:
    try:
        answer: ReadyAnswer = await client.ready(url)
    except CoordinatorError as exc:
        return {"url": url, "status": "unreachable", "detail": exc.message, "checks": []}
    checks = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in answer.checks]
    return {"url": url, "status": answer.status, "checks": checks}


def _failures(row: dict[str, Any]) -> str:
    if row["status"] == "unreachable":
        return str(row["detail"])
    failed = [check for check in row["checks"] if not check["ok"]]
    return ", ".join(f"{check['name']} ({check['detail']})" for check in failed)
