"""``coordinator snapshot inspect|restore`` and ``coordinator replay``: work on files alone.

Owns these commands and their documents. Must not change what it reads: a node may be running on it,
and what is damaged is evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from seamfill.errors import SeamfillError
from seamfill.terminal import FILE, Exit, Output, emit, output_option, say
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.raft.applying import MachineTooOld
from seamfill_coordinator.raft.cluster_restore import RestoreRefused, restore_cluster
from seamfill_coordinator.raft.journal import JournalIncomplete
from seamfill_coordinator.raft.journal_files import OsFiles
from seamfill_coordinator.raft.journal_replay import JournalCorrupt, JournalVersionUnknown
from seamfill_coordinator.raft.membership import Configuration
from seamfill_coordinator.raft.offline_replay import (
    NothingToReplay,
    ReplayRefused,
    replay_directory,
)
from seamfill_coordinator.raft.snapshot_format import FORMAT_VERSION
from seamfill_coordinator.raft.snapshot_store import (
    SnapshotInvalid,
    SnapshotUnusable,
    describe_file,
    load_file,
    newest_file,
)

__all__ = ["inspect", "replay", "restore"]

T = TypeVar("T")
_output = output_option(Output.TABLE, Output.JSON)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@_output
def inspect(path: Path, output: Output) -> None:
    """Check a snapshot, every byte of it, and show what it holds.

    PATH is a snapshot file, or a node's data directory, whose newest one is shown. Nothing is
    changed. Exit codes: 3 no snapshot there, 8 damaged (file and offset are named) or of a newer
    version.
    """

    def look() -> dict[str, Any]:
        files = OsFiles()
        file = path
        if path.is_dir():
            found = newest_file(files, path / "snapshots") or newest_file(files, path)
            if found is None:
                raise NothingToReplay(f"{path}: no snapshot")
            file = found
        header, info = describe_file(files, file)
        _, machine = load_file(files, file)
        return {
            "ok": True,
            "file": str(file),
            "bytes": info.size,
            "format": FORMAT_VERSION,
            "cluster_id": header.cluster_id,
            "last_index": header.last_index,
            "last_term": header.last_term,
            "members": _members(header.configuration),
            "rev": machine.rev,
            "clock_ms": machine.clock_ms,
            "fence": machine.fence,
            "state_digest": machine.state_digest(),
            "rows": _counts(machine),
        }

    _print(_attempt(look, output), output)


@click.command()
@click.argument("file", type=FILE)
@click.option("--cluster-id", required=True, metavar="ID", help="Another one than it had.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    required=True,
    metavar="ID",
    help="A node of the new cluster; repeat for each.",
)
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where DIR/<node id> is made for each; must be new or empty.",
)
@_output
def restore(
    file: Path, cluster_id: str, nodes: tuple[str, ...], data_dir: Path, output: Output
) -> None:
    """Begin a new cluster from a snapshot: make the data directories of all its nodes.

    Move each to its machine and start every node on it, with the new cluster id. What the old
    cluster acknowledged after the snapshot is not in it. Restart workers and clients afterwards.

    Exit codes: 1 the disk failed, 3 no such file, 4 the directory is not empty or the cluster id
    the same, 8 the snapshot is damaged or of a newer version.
    """

    def make() -> dict[str, Any]:
        made = restore_cluster(
            file, data_dir, cluster_id=cluster_id, node_ids=nodes, files=OsFiles()
        )
        return {
            "cluster_id": made.cluster_id,
            "restored_from": made.was.cluster_id,
            "last_index": made.last_index,
            "last_term": made.last_term,
            "rev": made.rev,
            "fence": made.fence,
            "state_digest": made.state_digest,
            "nodes": [
                {
                    "id": member.node_id,
                    "incarnation": member.incarnation,
                    "data_dir": str(made.directories[member.node_id]),
                }
                for member in made.configuration.voters
            ],
        }

    _print(_attempt(make, output), output)


@click.command()
@click.argument("data_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--until", type=click.IntRange(1), metavar="INDEX", help="Stop after this entry.")
@click.option("--digests", is_flag=True, help="Show the digest at every multiple of 64, too.")
@_output
def replay(data_dir: Path, until: int | None, digests: bool, output: Output) -> None:
    """Load a node's snapshot, apply its journal, and show the state's digest.

    Stops at the last entry that the journal knows to be committed; the cluster may know more.
    State digests of two nodes at one index are equal, or one of them is broken. Nothing is changed.

    Exit codes: 3 nothing there, 4 that index is not there, 8 damaged (file and offset are named),
    incomplete, or of a newer version.
    """

    def run() -> dict[str, Any]:
        done = replay_directory(data_dir, OsFiles(), until=until)
        newest = max(done.digests, default=None)
        document: dict[str, Any] = {
            "cluster_id": done.cluster_id,
            "snapshot_index": done.snapshot_index,
            "index": done.index,
            "term": done.term,
            "committed": done.is_committed,
            "commit_index": done.commit_index,
            "last_index": done.last_index,
            "commands": done.entries,
            "rev": done.machine.rev,
            "state_digest": done.machine.state_digest(),
            "digest_index": newest,
            "digest_at_index": None if newest is None else done.digests[newest],
        }
        if digests:
            document["digests"] = {str(index): found for index, found in done.digests.items()}
        return document

    document = _attempt(run, output)
    if not document["committed"]:
        say("this node does not know whether entries up to there are committed; they may change")
    _print(document, output)


def _attempt(work: Callable[[], T], output: Output) -> T:
    """Do the work, or say why not and exit."""
    try:
        return work()
    except (SnapshotInvalid, JournalCorrupt) as exc:
        where = {"file": exc.file, "offset": exc.offset, "reason": exc.reason}
        _fail(output, Exit.INVALID, {"code": exc.code, **where}, f"damaged: {exc.message}")
    except (SnapshotUnusable, JournalVersionUnknown, JournalIncomplete, MachineTooOld) as exc:
        _refuse(output, Exit.INVALID, exc)
    except NothingToReplay as exc:
        _refuse(output, Exit.NOT_FOUND, exc)
    except (RestoreRefused, ReplayRefused) as exc:
        _refuse(output, Exit.CONFLICT, exc)
    except SeamfillError as exc:
        _refuse(output, Exit.FAILURE, exc)
    except OSError as exc:
        code = Exit.NOT_FOUND if isinstance(exc, FileNotFoundError) else Exit.FAILURE
        text = f"{exc.filename}: {exc.strerror}"
        _fail(output, code, {"code": "file_unusable", "reason": text}, text)


def _refuse(output: Output, exit_code: Exit, exc: SeamfillError) -> NoReturn:
    _fail(output, exit_code, {"code": exc.code, "reason": exc.message}, exc.message)


def _fail(output: Output, exit_code: Exit, document: dict[str, Any], text: str) -> NoReturn:
    if output is Output.JSON:
        emit({"ok": False, **document}, output)
    say(f"coordinator: {text}")
    raise SystemExit(exit_code)


def _members(configuration: Configuration | None) -> dict[str, Any] | None:
    if configuration is None:
        return None
    return {
        "voters": [msgspec.structs.asdict(member) for member in configuration.voters],
        "learners": [msgspec.structs.asdict(member) for member in configuration.learners],
    }


def _counts(machine: LeaseMachine) -> dict[str, int]:
    state = machine.state
    return {
        "datasets": len(state.datasets),
        "series": len(state.series),
        "backfills": len(state.backfills),
        "leases": len(state.leases),
        "waiting": state.waiting_count,
        "gaps": state.gap_count,
        "workers": len(state.workers),
        "sources": len(state.sources),
        "sessions": len(state.sessions),
        "claims": len(state.claims),
        "restatements": len(state.restatements),
        "completions": len(state.completions),
        "events": len(state.events),
    }


def _print(document: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        emit(document, output)
        return
    for name, value in document.items():
        if name != "ok":
            click.echo(f"{name.replace('_', ' '):<16}{_cell(value)}")


def _cell(value: object) -> str:
    match value:
        case None:
            return "none"
        case {"voters": voters, "learners": learners}:
            return f"{_cell(voters)}; learners: {_cell(learners)}"
        case dict():
            return ", ".join(f"{name} {_cell(each)}" for name, each in value.items()) or "none"
        case list():
            return "; ".join(_cell(each) for each in value) or "none"
        case _:
            return str(value)
