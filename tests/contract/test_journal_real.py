"""The journal on the real file system: a disk that is full, a process that is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.journal_rig import journal_on
from seamfill_coordinator.raft.journal_files import OsFiles

KILLS = 12
EXIT_FATAL = 71

WRITER = """
import os, sys
from pathlib import Path
from seamfill_coordinator.raft.journal import open_journal

def fatal(what, exc):
    print(f"{what}: {exc}", file=sys.stderr, flush=True)
    os._exit(int(sys.argv[2]))

journal = open_journal(
    Path(sys.argv[1]), cluster_id="c1", incarnation="life-1", fatal=fatal,
    snapshot_index=1 << 60, segment_bytes=64 << 10,
)
index = journal[-1][1] if len(journal) else 0
term = journal.getCurrentTerm()
while True:
    for _ in range(5):
        index += 1
        journal.add(b"\\0%d" % index, index, term)
    if sys.argv[3] == "trim" and len(journal) > 500:
        journal.deleteEntriesTo(len(journal) - 50)
    if index % 100 == 0:
        term += 1
        journal.setCurrentTerm(term, f"n{term}")
    journal.sync()
    print(index, term, flush=True)
"""
"""Writes for ever, and acknowledges each group on stdout."""


@contextmanager
def writer(directory: Path, *, trim: bool = False) -> Iterator[subprocess.Popen[str]]:
    arguments = [str(directory), str(EXIT_FATAL), "trim" if trim else "grow"]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def last_acknowledged(out: str) -> tuple[int, int]:
    """Return index and term of the last whole line."""
    index, term = out[: out.rindex("\n") + 1].splitlines()[-1].split()
    return int(index), int(term)


@pytest.mark.real
def test_a_full_disk_ends_the_process_with_its_code_and_loses_nothing(small_disk: Path) -> None:
    with writer(small_disk / "journal") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_FATAL, "not a SIGBUS"
    *_, acknowledgement, reason = out.splitlines()
    assert "No space left" in reason
    index, term = last_acknowledged(acknowledgement + "\n")
    assert index > 1000
    journal = journal_on(OsFiles(), directory=small_disk / "journal")
    assert journal[-1][1] == index, "what failed is not there, what was acknowledged is"
    assert journal.getCurrentTerm() == term
    journal.close()
    with writer(small_disk / "journal") as again:
        again.communicate(timeout=60)
    assert again.returncode == EXIT_FATAL, "it can start, and meets the full disk again"


def test_its_size_is_that_of_its_files(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journal = journal_on(OsFiles(), directory=directory)
    sizes = []
    for first in range(1, 3_000, 100):
        for index in range(first, first + 100):
            journal.add(b"\0" + b"x" * 50, index, 1)
        if first > 1_000:
            journal.deleteEntriesTo(len(journal) - 200)
        journal.sync()
        sizes.append(sum(file.stat().st_size for file in directory.iterdir()))
        assert journal.size == sizes[-1]
    assert max(sizes) > sizes[-1] > sizes[0], "it grew, and was trimmed"
    journal.close()
    journal = journal_on(OsFiles(), directory=directory)
    assert journal.size == sizes[-1]
    journal.close()


def test_a_process_killed_while_writing_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(8)
    acknowledged, groups = 0, 0
    for kill in range(KILLS):
        with writer(tmp_path / "journal", trim=kill % 2 == 0) as process:
            assert process.stdout is not None
            out = "".join(process.stdout.readline() for _ in range(rng.randrange(2, 120)))
            process.send_signal(signal.SIGKILL)
            out += process.stdout.read()  # not communicate: it forgets what readline read ahead
            assert process.wait(timeout=30) == -signal.SIGKILL
        index, term = last_acknowledged(out)
        assert index > acknowledged, "each life went on where the last one ended"
        acknowledged, groups = index, groups + out.count("\n")
        journal = journal_on(OsFiles(), directory=tmp_path / "journal", segment_bytes=64 << 10)
        assert journal[-1][1] in (index, index + 5), "all acknowledged groups, or one more"
        assert journal.getCurrentTerm() in (term, term + 1)
        vote = journal.getVotedForNodeId()
        assert vote == (f"n{journal.getCurrentTerm()}" if journal.getCurrentTerm() else None)
        assert [i for _, i, _ in journal[:]] == list(range(journal[0][1], journal[-1][1] + 1))
        assert all(command == b"\0%d" % i for command, i, _ in journal[:])
        journal.close()
    assert groups > KILLS * 10
