"""What a failed run leaves behind, for the person who has to find out why.

Owns the directory's layout. Must not know what failed.
"""

from __future__ import annotations

from pathlib import Path

from seamfill_chaos.history import save
from seamfill_chaos.provenance import current_commit
from seamfill_chaos.sim.node import DATA_DIR
from seamfill_chaos.sim.run import RunResult
from seamfill_chaos.sim.world import World

__all__ = ["replay_command", "save_failure"]


def save_failure(directory: Path, world: World, result: RunResult, *, canary: str | None) -> Path:
    """Write everything that is known of a run into ``directory/seed-N``, and return that."""
    target = directory / f"seed-{result.seed}"
    target.mkdir(parents=True, exist_ok=True)
    world.trace.save(target / "timeline.txt")
    save(target / "history.jsonl", world.recorder.events)
    for node in world.nodes.values():
        for folder in ("journal", "snapshots"):
            for name in node.disk.names(DATA_DIR / folder):
                path = target / node.name / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(node.disk.read(DATA_DIR / folder / name))
    (target / "verdict.txt").write_text(
        f"{result.violation}\n\n"
        f"seed      {result.seed}\n"
        f"commit    {current_commit()}\n"
        f"again     {replay_command(result.seed, world.plan.seconds, canary)}\n"
        f"trace     {result.trace_digest}\n"
        f"plan      {world.plan}\n\n"
        "timeline.txt   what happened, one line an event: virtual seconds, node, event, facts\n"
        "history.jsonl  what callers asked and heard\n"
        "nodes          their disks as the run left them: coordinator journal inspect n1\n"
    )
    return target


def replay_command(seed: int, seconds: float, canary: str | None) -> str:
    """Return the one command that shows the same run again."""
    bug = f" --canary {canary}" if canary else ""
    return f"seamfill-chaos sim --seed {seed} --seconds {seconds:g}{bug}"
