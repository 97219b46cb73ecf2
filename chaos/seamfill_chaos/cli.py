"""The command `seamfill-chaos`: each of its commands lives in a module of its own."""

from __future__ import annotations

import click

from seamfill.terminal import Program
from seamfill_chaos.demo.cli import demo
from seamfill_chaos.exchange.cli import exchange
from seamfill_chaos.flapping.cli import flapping
from seamfill_chaos.kills.cli import kills
from seamfill_chaos.parts.cli import parts
from seamfill_chaos.sim.cli import sim


@click.group(cls=Program)
@click.version_option(package_name="seamfill")
def main() -> None:
    """Break things on purpose: a lying exchange, simulated runs, and what checks them."""


main.add_command(demo)
main.add_command(exchange)
main.add_command(flapping)
main.add_command(kills)
main.add_command(parts)
main.add_command(sim)
