"""Ctrl-C, whenever it comes: exit code 130, one line, no traceback, also while we are loading."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

PATIENT_S = 60
SCRIPTS = ("seamfill", "coordinator", "seamfill-worker", "seamfill-chaos")

# Runs a console script as its wrapper does, and sends SIGINT when it begins to load a module.
HARNESS = """
import importlib.metadata, os, signal, sys
program, interrupted_at, *arguments = sys.argv[1:]

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
(script,) = [
    point
    for point in importlib.metadata.distribution("seamfill").entry_points
    if point.group == "console_scripts" and point.name == program
]
sys.argv = [program, *arguments]
sys.exit(script.load()())
"""


def run_interrupted(
    program: str, interrupted_at: str, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HARNESS, program, interrupted_at, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENT_S,
        check=False,
    )


def test_these_are_all_scripts() -> None:
    points = distribution("seamfill").entry_points.select(group="console_scripts")
    assert sorted(point.name for point in points) == sorted(SCRIPTS)


@pytest.mark.parametrize("program", SCRIPTS)
@pytest.mark.parametrize("interrupted_at", ["click", "seamfill.errors"])
def test_while_a_program_is_loaded(program: str, interrupted_at: str) -> None:
    ended = run_interrupted(program, interrupted_at, "--help")
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == f"{program}: interrupted\n"


@pytest.mark.parametrize("command", ["dev", "serve"])
def test_while_a_server_loads_what_swallows_every_exception(command: str, tmp_path: Path) -> None:
    """pysyncobj looks for ``cryptography`` under a bare ``except``: the signal was lost there."""
    ended = run_interrupted("coordinator", "cryptography", *_line(command, tmp_path))
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "coordinator: interrupted\n"


def _line(command: str, data_dir: Path) -> list[str | Path]:
    if command == "dev":
        return ["dev", "--data-dir", data_dir / "cluster"]
    return [
        *("serve", "--node-id", "n1", "--cluster-id", "c", "--listen", "127.0.0.1:0"),
        *("--peer-listen", "127.0.0.1:0", "--data-dir", data_dir / "n1"),
    ]
