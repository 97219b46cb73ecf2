"""``coordinator journal``: what an operator sees of a journal, whole or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from contract.journal_rig import Script, journal_on
from seamfill_coordinator.cli import main
from seamfill_coordinator.raft.journal_files import OsFiles


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory whose journal has a few segments and was trimmed."""
    script, journal = Script(4), journal_on(OsFiles(), directory=tmp_path / "journal")
    script.start(journal)
    for turn in range(60):
        script.turn(journal)
        if turn == 20:
            script.compact(journal)
        journal.sync()
    journal.setCurrentTerm(40, "n3")
    journal.close()
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["journal", *map(str, arguments)])


def document(result: Result) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def newest_segment(data_dir: Path) -> Path:
    return sorted((data_dir / "journal").glob("*.segment"))[-1]


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def everything(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data_dir / "journal").iterdir()}


@pytest.mark.parametrize("below", ["", "journal"])
def test_inspect_tells_whose_it_is_and_what_it_holds(data_dir: Path, below: str) -> None:
    before = everything(data_dir)
    shown = document(run("inspect", data_dir / below, "-o", "json"))
    assert (shown["cluster_id"], shown["incarnation"], shown["format"]) == ("c1", "life-1", 1)
    assert (shown["term"], shown["vote"], shown["torn"]) == (40, "n3", None)
    assert sum(shown["entries"].values()) == shown["last"] - shown["first"] + 1
    assert set(shown["entries"]) == {"command", "membership", "noop"}
    assert len(shown["segments"]) == len(before) - 1
    assert shown["mark"] == {
        "segment": shown["segments"][-1]["segment"],
        "offset": shown["segments"][-1]["bytes"],
    }
    assert everything(data_dir) == before, "and changes nothing"


def test_a_table_says_the_same_to_a_person(data_dir: Path) -> None:
    lines = run("inspect", data_dir).stdout.splitlines()
    assert "cluster id   c1" in lines
    assert "vote         n3" in lines
    assert lines[-1].split()[0] == str(int(newest_segment(data_dir).stem))


def test_verify_says_ok_and_exits_with_zero(data_dir: Path) -> None:
    result = run("verify", data_dir)
    assert result.exit_code == 0
    shown = document(run("inspect", data_dir, "-o", "json"))
    groups = sum(segment["groups"] for segment in shown["segments"])
    assert result.stdout.startswith(
        f"ok: {groups} groups, entries {shown['first']} to {shown['last']}, term 40"
    )
    assert document(run("verify", data_dir, "-o", "json"))["ok"] is True


def test_verify_names_file_and_offset_of_a_damage(data_dir: Path) -> None:
    damage(newest_segment(data_dir), 150)
    result = run("verify", data_dir, "-o", "json")
    assert result.exit_code == 8
    found = document(result)
    assert (found["ok"], found["code"]) == (False, "journal_corrupt")
    assert found["file"] == str(newest_segment(data_dir))
    assert 0 < found["offset"] <= 150
    assert f"{found['file']}, offset {found['offset']}" in result.stderr


def test_a_torn_group_is_shown_but_no_damage(data_dir: Path) -> None:
    end = document(run("inspect", data_dir, "-o", "json"))["segments"][-1]["bytes"]
    damage(newest_segment(data_dir), end + 3)
    result = run("verify", data_dir)
    assert result.exit_code == 0
    assert "torn group" in result.stdout
    torn = document(run("verify", data_dir, "-o", "json"))["torn"]
    assert (torn["file"], torn["offset"]) == (str(newest_segment(data_dir)), end)


def test_a_newer_format_is_refused_by_its_number(data_dir: Path) -> None:
    oldest = min((data_dir / "journal").glob("*.segment"))
    content = bytearray(oldest.read_bytes())
    content[8] = 2
    oldest.write_bytes(content)
    result = run("verify", data_dir)
    assert result.exit_code == 8
    assert "format version 2" in result.stderr


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_journal_is_not_found(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path)
    assert result.exit_code == 3
    assert "no journal" in result.stderr
