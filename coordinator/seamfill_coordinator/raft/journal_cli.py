"""``coordinator journal``: read a journal offline, without changing a byte of it.

Owns the two commands and their documents. Must not open a journal for writing: a node may be
running on it, and what is damaged is evidence. On a running node's journal a group that is just
being written can show as a torn one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from seamfill.terminal import Exit, Output, emit, output_option, plain_table, say
from seamfill_coordinator.raft.journal_files import OsFiles
from seamfill_coordinator.raft.journal_format import FORMAT_VERSION, EntryKind
from seamfill_coordinator.raft.journal_replay import (
    Contents,
    JournalCorrupt,
    JournalVersionUnknown,
    replay,
)

__all__ = ["journal"]

_path = click.argument("path", type=click.Path(file_okay=False, path_type=Path))
_output = output_option(Output.TABLE, Output.JSON)


@click.group()
def journal() -> None:
    """Read a node's journal offline. Nothing is changed or repaired.

    PATH is a node's data directory, or the journal directory in it.
    """


@journal.command()
@_path
@_output
def inspect(path: Path, output: Output) -> None:
    """Show whose journal it is and what it holds: log, term, vote, segments."""
    contents = _read(path, output)
    _print(_description(contents), output)


@journal.command()
@_path
@_output
def verify(path: Path, output: Output) -> None:
    """Check every byte below the mark; exit 0 if a node would start on it.

    Exit codes: 3 no journal there, 8 damaged (file and offset are named) or of a newer version.
    A torn group at the end is no damage: it was never acknowledged, and a start cuts it off.
    """
    contents = _read(path, output)
    document = {
        "ok": True,
        "groups": sum(segment.groups for segment in contents.segments),
        "first": contents.first,
        "last": contents.last,
        "torn": None if contents.torn is None else asdict(contents.torn),
    }
    if output is Output.JSON:
        emit(document, output)
        return
    click.echo(
        f"ok: {document['groups']} groups, entries {contents.first} to {contents.last}, "
        f"term {contents.term}"
    )
    if contents.torn is not None:
        click.echo(f"a torn group at the end, never acknowledged: {_torn_text(contents)}")


def _read(path: Path, output: Output) -> Contents:
    """Return what lies at ``path``, or say why not and exit."""
    directory = path / "journal" if (path / "journal").is_dir() else path
    files = OsFiles()
    try:
        contents = replay(
            files.names(directory), lambda name: files.read(directory / name), where=f"{directory}/"
        )
    except JournalCorrupt as exc:
        _fail(
            output,
            Exit.INVALID,
            {"code": exc.code, "file": exc.file, "offset": exc.offset, "reason": exc.reason},
            f"corrupt: {exc.message}",
        )
    except JournalVersionUnknown as exc:
        _fail(output, Exit.INVALID, {"code": exc.code, "reason": exc.message}, exc.message)
    except OSError as exc:
        text = f"{exc.filename}: {exc.strerror}"
        _fail(output, Exit.NOT_FOUND, {"code": "journal_unusable", "reason": text}, text)
    if contents is None:
        text = f"{directory}: no journal"
        _fail(output, Exit.NOT_FOUND, {"code": "journal_not_found", "reason": text}, text)
    return contents


def _fail(output: Output, exit_code: Exit, document: dict[str, Any], text: str) -> NoReturn:
    if output is Output.JSON:
        emit({"ok": False, **document}, output)
    say(f"coordinator: {text}")
    raise SystemExit(exit_code)


def _description(contents: Contents) -> dict[str, Any]:
    kinds = Counter(EntryKind(command[0]).name.lower() for command, _, _ in contents.entries)
    return {
        "cluster_id": contents.header.cluster_id,
        "incarnation": contents.header.incarnation,
        "format": FORMAT_VERSION,
        "term": contents.term,
        "vote": contents.vote,
        "commit": contents.commit,
        "first": contents.first,
        "last": contents.last,
        "last_term": contents.entries[-1][2] if contents.entries else None,
        "entries": dict(sorted(kinds.items())),
        "mark": {"segment": contents.mark.segment, "offset": contents.mark.end},
        "torn": None if contents.torn is None else asdict(contents.torn),
        "segments": [
            {
                "segment": segment.segment,
                "groups": segment.groups,
                "entries": segment.entries,
                "bytes": segment.end,
                "reserved": segment.size,
            }
            for segment in contents.segments
        ],
    }


def _print(document: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        emit(document, output)
        return
    segments = document.pop("segments")
    for name, value in document.items():
        click.echo(f"{name.replace('_', ' '):<12} {_cell(value)}")
    click.echo()
    header = list(segments[0])
    click.echo(plain_table(header, [list(segment.values()) for segment in segments]))


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items()) or "none"
    return "none" if value is None else str(value)


def _torn_text(contents: Contents) -> str:
    torn = contents.torn
    assert torn is not None
    return f"{torn.file}, offset {torn.offset}: {torn.reason}"
