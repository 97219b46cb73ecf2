"""A new cluster from a snapshot: the data directories of all its members, made in one go.

Owns what goes into them and in which order. Must not know the command line.

Why all at once, and never one node's alone: who may vote is written in the snapshot's header, by
name *and* incarnation. Here the incarnations of all members are drawn, and each directory gets the
same snapshot with this configuration. So a node that was started on an empty directory instead of a
restored one counts for nothing: it can neither vote nor found an empty cluster in the place of this
one, and is brought up by the others only once a committed configuration names it.

And why under another cluster id: should a node of the old cluster still run, it is refused at the
handshake, instead of disturbing the new one with its higher term and its newer log.

Invariants: nothing is at ``directory`` until all of it is durable there; each node's log begins at
the snapshot's last entry, in its term, so that the new cluster's terms are higher.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from seamfill.errors import SeamfillError
from seamfill_coordinator.data_dir import DataDir, open_data_dir
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.rebirth import begin_new_life
from seamfill_coordinator.raft.journal import open_journal
from seamfill_coordinator.raft.journal_files import Files
from seamfill_coordinator.raft.membership import Configuration, Member
from seamfill_coordinator.raft.snapshot_format import SnapshotHeader
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore, load_file

__all__ = ["RestoreRefused", "RestoredCluster", "restore_cluster"]

_UNFINISHED_SUFFIX = ".restoring"


class RestoreRefused(SeamfillError):
    """The snapshot can not be restored like this; the text says why. Nothing was made."""

    code: ClassVar[str] = "restore_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredCluster:
    """What was made."""

    cluster_id: str
    directories: dict[str, Path]
    """Node id → data directory."""
    configuration: Configuration
    last_index: int
    last_term: int
    rev: int
    fence: int
    state_digest: str
    was: SnapshotHeader
    """What the snapshot said of its own cluster."""


def restore_cluster(
    file: Path,
    directory: Path,
    *,
    cluster_id: str,
    node_ids: Sequence[str],
    files: Files,
) -> RestoredCluster:
    """Make ``directory``/<node id> for each node, from the snapshot in ``file``.

    Raises ``RestoreRefused``, ``SnapshotUnusable`` and ``OSError``.
    """
    header, machine = load_file(files, file)
    building = directory.with_name(directory.name + _UNFINISHED_SUFFIX)
    _check(header, directory, building, cluster_id=cluster_id, node_ids=node_ids)
    begin_new_life(machine.state, cluster_id=cluster_id)
    homes: dict[str, DataDir] = {}
    try:
        building.mkdir(parents=True)
        for node_id in sorted(node_ids):
            homes[node_id] = open_data_dir(
                building / node_id, cluster_id=cluster_id, node_id=node_id
            )
        configuration = Configuration(
            voters=tuple(Member(node_id, home.incarnation) for node_id, home in homes.items())
        )
        for node_id, home in homes.items():
            info = _write_snapshot(
                files, building / node_id, machine, header, cluster_id, configuration
            )
            _begin_journal(files, building / node_id, info, cluster_id, home)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        for home in homes.values():
            home.release()
    files.sync_directory(building)
    building.rename(directory)
    files.sync_directory(directory.parent)
    return RestoredCluster(
        cluster_id=cluster_id,
        directories={node_id: directory / node_id for node_id in homes},
        configuration=configuration,
        last_index=header.last_index,
        last_term=header.last_term,
        rev=machine.rev,
        fence=machine.fence,
        state_digest=machine.state_digest(),
        was=header,
    )


def _check(
    header: SnapshotHeader,
    directory: Path,
    building: Path,
    *,
    cluster_id: str,
    node_ids: Sequence[str],
) -> None:
    if cluster_id == header.cluster_id:
        raise RestoreRefused(
            f"the cluster id must be another one than {header.cluster_id}, the snapshot's: "
            "a node of the old cluster that still runs must not be able to join"
        )
    if len(set(node_ids)) != len(node_ids) or not node_ids:
        raise RestoreRefused("name each node of the new cluster once")
    if any(not node_id or "/" in node_id or node_id in (".", "..") for node_id in node_ids):
        raise RestoreRefused("a node id is the name of a directory, too")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RestoreRefused(f"{directory} is not empty")
    if building.exists():
        raise RestoreRefused(f"{building} is left from a restore that did not finish; remove it")


def _write_snapshot(
    files: Files,
    directory: Path,
    machine: LeaseMachine,
    header: SnapshotHeader,
    cluster_id: str,
    configuration: Configuration,
) -> SnapshotInfo:
    store = SnapshotStore(directory / "snapshots", files, cluster_id=cluster_id)
    writer = store.begin(
        machine,
        last_index=header.last_index,
        last_term=header.last_term,
        configuration=configuration,
    )
    while (info := writer.step()) is None:
        pass
    return info


def _begin_journal(
    files: Files, directory: Path, info: SnapshotInfo, cluster_id: str, home: DataDir
) -> None:
    """Begin the log with the snapshot's last entry, in its term: a new one starts below it."""
    journal = open_journal(
        directory / "journal",
        cluster_id=cluster_id,
        incarnation=home.incarnation,
        fatal=_fatal,
        files=files,
        snapshot_index=info.last_index,
    )
    journal.begin_at(info.last_index, info.last_term)
    journal.setCurrentTerm(info.last_term, None)
    journal.close()
    home.journal_was_begun()


def _fatal(what: str, exc: BaseException) -> NoReturn:
    raise RestoreRefused(f"{what}: {exc}") from exc
