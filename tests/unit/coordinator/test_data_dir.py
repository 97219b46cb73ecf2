"""One node, one directory, one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seamfill_coordinator.data_dir import (
    DataDirInUse,
    DataDirUnusable,
    DirectoryLock,
    open_data_dir,
)


def test_a_directory_remembers_whose_it_is(tmp_path: Path) -> None:
    incarnations = set()
    for _ in range(2):
        data_dir = open_data_dir(tmp_path / "n1", cluster_id="c1", node_id="n1")
        incarnations.add(data_dir.incarnation)
        data_dir.release()
    identity = json.loads((tmp_path / "n1" / "node.json").read_text())
    assert identity == {
        "format": 2,
        "cluster_id": "c1",
        "node_id": "n1",
        "incarnation": incarnations.pop(),
        "has_journal": False,
    }
    assert not incarnations, "it was drawn once"


def test_a_wiped_directory_is_another_incarnation(tmp_path: Path) -> None:
    """It has forgotten its votes, and must not count as the one that cast them."""
    lives = [
        open_data_dir(tmp_path / str(n), cluster_id="c1", node_id="n1").incarnation
        for n in range(2)
    ]
    assert lives[0] != lives[1]


def test_a_directory_remembers_that_it_had_a_journal(tmp_path: Path) -> None:
    data_dir = open_data_dir(tmp_path, cluster_id="c1", node_id="n1")
    assert not data_dir.has_journal
    data_dir.journal_was_begun()
    data_dir.release()
    again = open_data_dir(tmp_path, cluster_id="c1", node_id="n1")
    assert again.has_journal
    assert again.incarnation == data_dir.incarnation


@pytest.mark.parametrize(("cluster_id", "node_id"), [("c2", "n1"), ("c1", "n2")])
def test_another_owner_is_refused_and_the_lock_given_back(
    tmp_path: Path, cluster_id: str, node_id: str
) -> None:
    open_data_dir(tmp_path, cluster_id="c1", node_id="n1").release()
    with pytest.raises(DataDirUnusable, match="belongs to"):
        open_data_dir(tmp_path, cluster_id=cluster_id, node_id=node_id)
    open_data_dir(tmp_path, cluster_id="c1", node_id="n1").release()


def test_a_directory_in_use_names_the_process(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(DataDirInUse, match=r"pid \d+"):
        DirectoryLock(tmp_path)
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        '{"format": 3, "cluster_id": "c1"}',
        '{"format": 2, "cluster_id": "c1", "node_id": "n1"}',
    ],
)
def test_an_identity_that_can_not_be_read_is_never_overwritten(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "node.json").write_text(content)
    with pytest.raises(DataDirUnusable, match=r"node\.json"):
        open_data_dir(tmp_path, cluster_id="c1", node_id="n1")
    assert (tmp_path / "node.json").read_text() == content


def test_a_journal_of_nobody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"")
    with pytest.raises(DataDirUnusable, match="journal but no"):
        open_data_dir(tmp_path, cluster_id="c1", node_id="n1")


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(DataDirUnusable, match="file"):
        open_data_dir(path, cluster_id="c1", node_id="n1")
