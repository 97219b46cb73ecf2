"""``coordinator lease``: who holds what, and ending a lease by hand."""

from __future__ import annotations

import click

from seamfill.client import CoordinatorClient
from seamfill.errors import InvalidInput, RequestRefused
from seamfill.lease_key import NATIVE_PREFIX, NativeKey, parse_native
from seamfill.protocol.compat import FailClaimRequest, InspectAnswer
from seamfill.protocol.leases import LeaseView, RevokeRequest
from seamfill.protocol.values import LeaseRef, SeriesId
from seamfill.terminal import TIME, Output, emit, output_option
from seamfill.times import format_ms
from seamfill_coordinator.console.connecting import (
    Endpoints,
    call,
    confirm,
    emit_rows,
    endpoint_options,
    print_table,
)

__all__ = ["lease"]


@click.group()
def lease() -> None:
    """Look at leases: who holds which window, for how long, and why a bar stands still."""


@lease.command("list")
@click.option("--dataset", help="Only of this dataset.")
@click.option("--symbol", help="Only of this symbol.")
@click.option("--worker", help="Only held by this worker.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@endpoint_options
@output_option()
def list_leases(
    *,
    dataset: str | None,
    symbol: str | None,
    worker: str | None,
    limit: int,
    endpoints: Endpoints,
    output: Output,
) -> None:
    """List live leases, and those in their lock-delay, native and compatibility ones."""
    answer = call(
        endpoints,
        lambda client: client.leases(dataset=dataset, symbol=symbol, worker=worker, limit=limit),
    )
    if output is not Output.TABLE:
        emit_rows(answer.leases, answer, output)
        return
    print_table(
        ("HOLDER", "FENCE", "STATE", "LEFT", "FROM", "TO", "GEN", "TRY", "KEY"),
        [_row(each) for each in answer.leases],
        none="Nothing is leased.",
    )


def _row(view: LeaseView) -> tuple[object, ...]:
    return (
        view.holder,
        view.fence,
        view.state,
        f"{view.remaining_ms / 1000:.1f} s",
        "" if view.start_ms is None else format_ms(view.start_ms),
        "" if view.end_ms is None else format_ms(view.end_ms),
        "" if view.gen is None else view.gen,
        view.attempts + 1,
        view.key,
    )


@lease.command()
@click.argument("key")
@endpoint_options
@output_option()
def show(*, key: str, endpoints: Endpoints, output: Output) -> None:
    """Tell what is known of a lease KEY, native:… or a compatibility key.

    Exit codes: 0 it is held, was completed, or something overlaps it, 2 a native key that can not
    be read, 3 nothing is known of it.
    """
    answer = call(endpoints, lambda client: _inspect(client, key))
    if output is not Output.TABLE:
        emit(answer, output)
        return
    if answer.held:
        left_s = (answer.remaining_ms or 0) / 1000
        click.echo(f"held by {answer.holder or '?'}  token {answer.token}  {left_s:.1f} s left")
    else:
        click.echo("not held")
    if answer.completion_ratio is not None:
        click.echo(f"{answer.completion_ratio:.2%} of its range is done")
    for other in answer.overlaps:
        click.echo(f"overlaps {other}")


async def _inspect(client: CoordinatorClient, key: str) -> InspectAnswer:
    if key.startswith(NATIVE_PREFIX) and parse_native(key) is None:
        raise InvalidInput("key", f"{key!r} is not like native:DATASET|SYMBOL|START_MS|END_MS")
    answer = await client.inspect(key)
    if not (answer.held or answer.overlaps or answer.completion_ratio):
        # The API answers any question about a key; who typed one wants to hear of a slip.
        raise RequestRefused(
            f"nothing is known of {key!r}; see `coordinator lease list`",
            status=404,
            reason="not_found",
        )
    return answer


@lease.command()
@click.argument("key")
@click.option("--token", required=True, help="The fence, as `lease list` and `lease show` tell it.")
@click.option("--reason", default="released by an operator", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@endpoint_options
@output_option()
def release(
    *, key: str, token: str, reason: str, yes: bool, endpoints: Endpoints, output: Output
) -> None:
    """End a lease now, so that its range is granted again; its holder's completion is refused.

    KEY is a native lease (native:DATASET|SYMBOL|START_MS|END_MS) or a compatibility key. The token
    must be the present one, so that a newer holder is never hit. Exit codes: 0 released, 3 no such
    lease, 4 the token is not the present one.

    \b
    Example:
      coordinator lease release --token 42 \\
        'native:ohlcv.binance.spot.1m|BTC/USDT|1618963200000|1619071200000'
    """
    confirm(f"End lease {key}?", yes=yes)
    native = parse_native(key)

    async def end(client: CoordinatorClient) -> dict[str, object]:
        if native is None:
            return await _end_claim(client, key, token, reason)
        return await _end_native(client, native, token, reason)

    answer = call(endpoints, end)
    if output is Output.TABLE:
        click.echo(f"released {key}")
    else:
        emit({"key": key, "token": token, **answer}, output)


async def _end_native(
    client: CoordinatorClient, key: NativeKey, token: str, reason: str
) -> dict[str, object]:
    if not (token.isascii() and token.isdecimal() and int(token) > 0):
        raise InvalidInput("--token", f"{token!r} is not a fence; see `coordinator lease list`")
    ref = LeaseRef(
        series=SeriesId(dataset=key.dataset, symbol=key.symbol),
        start_ms=key.start_ms,
        end_ms=key.end_ms,
        fence=int(token),
    )
    answer = await client.revoke(RevokeRequest(leases=(ref,), reason=reason[:200]))
    (result,) = answer.results
    if result.status == "refused":
        is_unknown = result.reason == "not_found"
        raise RequestRefused(
            result.detail or f"refused: {result.reason}; see `coordinator lease list`",
            status=404 if is_unknown else 409,
            reason=result.reason or "refused",
            field=result.field,
        )
    return {"status": result.status}


async def _end_claim(
    client: CoordinatorClient, key: str, token: str, reason: str
) -> dict[str, object]:
    answer = await client.fail_claim(FailClaimRequest(key=key, token=token, reason=reason))
    return {"status": "released", "completion_ratio": answer.completion_ratio}


@lease.command()
@click.option("--dataset", required=True)
@click.option("--symbol", required=True)
@click.option("--at", type=TIME, required=True, metavar="TIME", help="The bar in question.")
@endpoint_options
@output_option()
def explain(*, dataset: str, symbol: str, at: int, endpoints: Endpoints, output: Output) -> None:
    """Say in a sentence who works on a bar, or why nobody does."""
    series = SeriesId(dataset=dataset, symbol=symbol)
    answer = call(endpoints, lambda client: client.explain(series, at))
    if output is Output.TABLE:
        click.echo(f"{format_ms(answer.ts_ms)}  {answer.state}: {answer.sentence}")
    else:
        emit(answer, output)
