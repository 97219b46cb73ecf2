"""Fetching parts: with a Maven of our own on the PATH, that delivers what a test wants."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from seamfill_chaos.parts import maven, questdb
from seamfill_chaos.parts.maven import MavenArtifact, PartMissing, fetch, parts_directory

CONTENT = b"a jar, nearly"
PART = MavenArtifact(
    group="org.example", name="part", version="1.0", sha256=hashlib.sha256(CONTENT).hexdigest()
)


@pytest.fixture
def deliver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven that copies ``delivered`` and notes each call in ``calls``."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "mvn"
    script.write_text(
        f"""#!/bin/sh
echo call >> {tmp_path}/calls
for given in "$@"; do case "$given" in -DoutputDirectory=*) out="${{given#*=}}";; esac; done
if [ ! -f {tmp_path}/delivered ]; then echo "[ERROR] no such artifact"; exit 1; fi
cp {tmp_path}/delivered "$out/part-1.0.jar"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return tmp_path


async def test_many_who_need_a_part_at_once_fetch_it_once(deliver: Path) -> None:
    (deliver / "delivered").write_bytes(CONTENT)
    found = await asyncio.gather(*(fetch(PART, deliver / "parts") for _ in range(6)))
    assert {path.read_bytes() for path in found} == {CONTENT}
    assert (deliver / "calls").read_text() == "call\n"
    assert not [path for path in (deliver / "parts").iterdir() if "fetching" in path.name]


async def test_a_damaged_part_is_fetched_again(deliver: Path) -> None:
    (deliver / "delivered").write_bytes(CONTENT)
    path = await fetch(PART, deliver / "parts")
    path.write_bytes(b"bit rot")
    assert (await fetch(PART, deliver / "parts")).read_bytes() == CONTENT


async def test_another_content_is_thrown_away(deliver: Path) -> None:
    (deliver / "delivered").write_bytes(b"something else")
    with pytest.raises(PartMissing, match=PART.sha256):
        await fetch(PART, deliver / "parts")
    assert not list((deliver / "parts").glob("*.jar"))


async def test_mavens_refusal_is_passed_on(deliver: Path) -> None:
    with pytest.raises(PartMissing, match="no such artifact"):
        await fetch(PART, deliver / "parts")


async def test_without_maven_or_java_one_line_names_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in (
        questdb.start(tmp_path / "data"),
        questdb.fetch_questdb({"SEAMFILL_PARTS": str(tmp_path / "parts")}),
    ):
        with pytest.raises(PartMissing) as missing:
            await attempt
        assert "\n" not in missing.value.message
        for word in ("install Maven and Java 17", "QUESTDB_DSN", "QUESTDB_HTTP"):
            assert word in missing.value.message


def test_parts_lie_in_the_checkout_unless_told_otherwise(tmp_path: Path) -> None:
    assert parts_directory({"SEAMFILL_PARTS": str(tmp_path)}) == tmp_path
    default = parts_directory({})
    assert default.name == ".parts"
    assert Path(maven.__file__).is_relative_to(default.parent)
