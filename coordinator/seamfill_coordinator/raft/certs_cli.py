"""``coordinator certs``: make the certificates by which the nodes of a cluster know each other.

Owns the command and what it prints. Must not know what is in a certificate (``certs.py``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from seamfill.errors import SeamfillError
from seamfill.terminal import exit_code, say
from seamfill_coordinator.config import valid_id

__all__ = ["certs"]


@click.group()
def certs() -> None:
    """Make certificates by which the nodes of a cluster know each other."""


@certs.command(
    epilog="""\b
Example:
  coordinator certs init --dir certs --node n1 --node n2 --node n3
  coordinator serve --node-id n1 --certs certs …

Certificates of nodes are valid for 825 days. Running this again makes those that are
missing, or have less than 30 days to go; everything else stays as it is.
Whoever can read ca.key can pose as any node: it is needed only here, by no node."""
)
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the files are, or will be: ca.crt, ca.key, and ID.crt, ID.key for each node.",
)
@click.option(
    "--node",
    "nodes",
    metavar="ID",
    multiple=True,
    required=True,
    help="A node's --node-id; repeat for each.",
)
def init(*, directory: Path, nodes: tuple[str, ...]) -> None:
    """Make a development CA in DIR, and from it a certificate for each node. Safe to repeat.

    Each node needs ca.crt and its own two files in the directory that it is given as --certs.
    The prod profile refuses this CA: there the same layout holds certificates of your own.
    Prints each file it wrote on stdout.
    """
    # Imported here: `coordinator status` should not load a cryptography library.
    from seamfill_coordinator.raft.certs import init_certificates

    try:
        written = init_certificates(
            directory, [valid_id("node", node) for node in nodes], now=datetime.now(UTC)
        )
    except SeamfillError as exc:
        say(f"coordinator: {exc.message}")
        raise SystemExit(exit_code(exc)) from None
    for path in written:
        click.echo(f"wrote {path}")
    if not written:
        say(f"all there in {directory}, nothing written")
