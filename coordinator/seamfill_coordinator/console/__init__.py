"""What operators see in a terminal."""

from __future__ import annotations

import click

__all__ = ["attach"]

COMMANDS: tuple[click.Command, ...] = ()


def attach(main: click.Group) -> None:
    """Add the operators' commands to ``coordinator``."""
    for command in COMMANDS:
        main.add_command(command)
