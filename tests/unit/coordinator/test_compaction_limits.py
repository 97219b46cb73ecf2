"""How much of the log stays."""

from __future__ import annotations

import pytest

from seamfill_coordinator.raft.compaction import CompactionLimits, compaction_every


@pytest.mark.parametrize(("entries", "kept"), [(50, 50), (2_000, 2_000), (20_000, 2_000)])
def test_not_more_stays_before_a_snapshot_than_comes_between_two(entries: int, kept: int) -> None:
    """Else a log that is compacted often would hardly ever be trimmed."""
    limits = compaction_every(entries)
    assert (limits.every_entries, limits.keep_entries) == (entries, kept)
    assert limits.keep_bytes == CompactionLimits().keep_bytes
