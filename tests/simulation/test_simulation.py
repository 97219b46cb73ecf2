"""The coordinator cluster in virtual time: many seeds, repeated seeds, seeds that once failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamfill_chaos.sim.batch import RunSettings, run_one
from simulation.sim_command import simulate

REGRESSIONS = {
    "a_heartbeat_that_is_due_in_this_very_millisecond": (24, 20),
    "a_learner_made_a_voter_by_an_entry_that_it_had_not_got": (2192, 60),
    "an_operator_who_believed_a_change_of_members_that_was_not_committed": (11060, 60),
    "an_operator_who_believed_a_deposed_leader": (21092, 45),
    "an_operator_who_believed_a_member_back_before_its_removal_was_committed": (682500000987, 60),
    "a_link_that_stayed_slow_after_it_was_mended": (11703, 60),
    "a_wipe_that_struck_after_the_node_was_taken_for_whole": (5000407, 60),
    "a_member_taken_out_and_back_while_entries_were_on_their_way": (902438000342, 60),
}
"""What once went wrong → seed, seconds. Each failed before it was mended."""


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_no_seed_breaks_a_promise(seeds: str, seconds: str, jobs: int, tmp_path: Path) -> None:
    """And together they met everything that is interesting."""
    told = simulate(
        *("--seeds", seeds, "--seconds", seconds, "--jobs", jobs), cwd=tmp_path, timeout_s=3_600
    )
    assert told.document["violations"] == [], told.stderr
    assert told.document["never_met"] == []
    assert told.exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_a_seed_gives_the_same_run_byte_for_byte(seed: int, tmp_path: Path) -> None:
    """In two interpreters, whatever order of sets they were given."""
    once, again = (
        simulate("--seed", seed, "--seconds", 40, cwd=tmp_path, timeout_s=240, hash_seed=hash_seed)
        for hash_seed in (None, "77")
    )
    assert once.document == again.document
    assert once.document["trace_digest"]


def test_different_seeds_give_different_runs(tmp_path: Path) -> None:
    one, other = (
        simulate("--seed", seed, "--seconds", 16, cwd=tmp_path, timeout_s=120) for seed in (6, 7)
    )
    assert one.document["trace_digest"] != other.document["trace_digest"]


@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_once_failed_holds(name: str, tmp_path: Path) -> None:
    seed, seconds = REGRESSIONS[name]
    told = simulate("--seed", seed, "--seconds", seconds, cwd=tmp_path, timeout_s=240)
    assert told.document["violations"] == [], told.stderr
    assert told.exit_code == 0


def test_a_failure_says_how_to_see_it_again(tmp_path: Path) -> None:
    """And leaves everything that is known of it behind."""
    settings = RunSettings(seconds=20, canary="repetitions-take-effect", output=tmp_path)
    seed = next(seed for seed in range(1, 20) if run_one(seed, settings).violation is not None)
    left = tmp_path / f"seed-{seed}"
    assert f"seamfill-chaos sim --seed {seed} --seconds 20" in (left / "verdict.txt").read_text()
    assert (left / "timeline.txt").stat().st_size > 0
    assert (left / "history.jsonl").stat().st_size > 0
    assert list((left / "n1" / "journal").iterdir())
