"""Render docs/reference/command-lines.md from the commands themselves.

Renew it with: python tests/docs/command_lines.py > docs/reference/command-lines.md
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

import seamfill.cli
import seamfill_chaos.cli
import seamfill_coordinator.cli
import seamfill_worker.cli

HEAD = """\
# Command lines

Rendered from the commands themselves; `--help` says the same.
Times are ISO 8601 with a zone or epoch milliseconds, ranges are half-open `[start, end)`.
`-o json` prints one document on stdout, `-o jsonl` one line an event; messages go to stderr.
A server prints one JSON line on stdout when it is ready, and nothing else there.
SIGTERM drains, a second one stops at once.
Exit codes are in [errors](errors.md).
"""

PROGRAMS: dict[str, click.Command] = {
    "seamfill": seamfill.cli.main,
    "coordinator": seamfill_coordinator.cli.main,
    "seamfill-worker": seamfill_worker.cli.main,
    "seamfill-chaos": seamfill_chaos.cli.main,
}


def render() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for name, command in PROGRAMS.items():
        parts.append(f"\n## {name}\n")
        for path, leaf in leaves(name, command):
            parts.append(section(path, leaf))
    return "".join(parts)


def leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, in the order that help shows them."""
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from leaves(f"{path} {name}", command.commands[name])
    else:
        yield path, command


def section(path: str, command: click.Command) -> str:
    """Describe one command: what it promises, its arguments and options."""
    arguments = [
        parameter.make_metavar(click.Context(command))
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    text = inspect.cleandoc((command.help or "").split("\f")[0])
    lines = [f"\n### `{' '.join([path, *arguments])}`\n{text}\n"]
    options = [option for option in command.params if isinstance(option, click.Option)]
    shown = [option for option in options if not option.hidden]
    if shown:
        lines.append("\n| option | |\n|---|---|\n")
        for option in shown:
            names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
            lines.append(f"| {names} | {cell(option)} |\n")
    return "".join(lines)


def cell(option: click.Option) -> str:
    notes = [(option.help or "").strip().replace("|", "\\|")]
    if option.required:
        notes.append("Required.")
    if option.multiple:
        notes.append("May be repeated.")
    return " ".join(note for note in notes if note)


if __name__ == "__main__":
    sys.stdout.write(render())
