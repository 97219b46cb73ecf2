"""The operators' commands of ``coordinator``: one file per noun.

Owns their attachment to the group. They are clients of the HTTP API like anybody else; nothing here
reads a node's files or memory.
"""

from __future__ import annotations

import click

from seamfill_coordinator.console.backfill import backfill
from seamfill_coordinator.console.coverage import coverage
from seamfill_coordinator.console.health import health
from seamfill_coordinator.console.lease import lease
from seamfill_coordinator.console.snapshot import snapshot
from seamfill_coordinator.console.source import source
from seamfill_coordinator.console.status import status
from seamfill_coordinator.console.worker import worker

__all__ = ["attach", "snapshot"]

COMMANDS: tuple[click.Command, ...] = (
    status,
    health,
    backfill,
    coverage,
    lease,
    worker,
    source,
    snapshot,
)


def attach(main: click.Group) -> None:
    """Add the operators' commands to ``coordinator``."""
    for command in COMMANDS:
        main.add_command(command)
