"""What `import seamfill` offers, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import seamfill


def test_every_public_name_is_there() -> None:
    for name in seamfill.__all__:
        assert getattr(seamfill, name) is not None
    assert set(seamfill._HOMES) == set(seamfill.__all__)


def test_a_cluster_is_looked_at_without_pandas_ccxt_or_a_consensus_library() -> None:
    program = (
        "import sys, seamfill, seamfill.cli, seamfill_coordinator.console;"
        "heavy = {'pandas', 'pyarrow', 'ccxt', 'pysyncobj', 'questdb'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
