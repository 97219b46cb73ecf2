"""The command `seamfill-chaos sim`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click

from seamfill_chaos.ledger import append_section
from seamfill_chaos.provenance import current_commit
from seamfill_chaos.sim.batch import Batch, RunSettings, run_seeds
from seamfill_chaos.sim.canaries import CANARIES
from seamfill_chaos.sim.report import replay_command
from seamfill_chaos.sim.run import RunResult

__all__ = ["fix_hash_seed", "sim"]

PROGRESS_EVERY_S = 5.0


class SeedRange(click.ParamType[range]):
    """``7`` or ``1..1000``, both ends included."""

    name = "A..B"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        first, _, last = value.partition("..")
        try:
            seeds = range(int(first), int(last or first) + 1)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor two with '..' between", param, ctx)
        if not seeds:
            self.fail(f"{value!r} is empty", param, ctx)
        return seeds


@click.command()
@click.option("--seed", type=int, help="Run this one seed.")
@click.option("--seeds", type=SeedRange(), help="Run all of these, both ends included.")
@click.option(
    "--seconds",
    default=120.0,
    show_default=True,
    type=click.FloatRange(16, 86_400),
    help="Virtual seconds of a run. The last 15 are without faults.",
)
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1, 256), help="Runs at a time."
)
@click.option(
    "--canary",
    type=click.Choice(sorted(CANARIES)),
    help="Put this bug in; exit 0 if it is found, 1 if not.",
)
@click.option(
    "--keep",
    default=Path("sim-failures"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where a failed run leaves history, journals and timeline.",
)
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the account to this Markdown file.",
)
@click.option(
    "-o", "--output", default="text", show_default=True, type=click.Choice(["text", "json"])
)
def sim(
    seed: int | None,
    seeds: range | None,
    seconds: float,
    jobs: int,
    canary: str | None,
    keep: Path,
    ledger: Path | None,
    output: str,
) -> None:
    """Run the whole coordinator cluster in virtual time, with faults, and check what it promises.

    One seed is one run: which faults happen when, how long each message takes, what callers ask.
    The same seed gives the same run, event by event, on the same code. The cluster is the real
    one: its Raft core, journal, snapshots, links and lease machine; only network, disk, clocks and
    callers are simulated.

    A run fails when nodes disagree, when something acknowledged is lost, when callers were told
    what can not be true, or when the cluster does not recover once the faults are over. Then it
    says which, leaves everything that is known in a directory, and names the command that shows
    the same run again. Three hundred runs and more also fail when they did not meet everything that
    is interesting: a test that never met its fault proved nothing.

    Exit code 0: all promises were kept. 1: not, or something interesting never happened.
    """
    if (seed is None) == (seeds is None):
        raise click.UsageError("give --seed or --seeds")
    fix_hash_seed()
    chosen = seeds if seeds is not None else range(seed or 0, (seed or 0) + 1)
    settings = RunSettings(seconds=seconds, canary=canary, output=None if canary else keep)
    began_s = time.monotonic()
    batch = Batch()
    told_s = began_s
    for result in run_seeds(chosen, settings, jobs=min(jobs, len(chosen))):
        batch.add(result)
        if result.violation is not None and canary is None:
            _tell_failure(result, settings)
        if len(chosen) > 1 and time.monotonic() - told_s >= PROGRESS_EVERY_S:
            told_s = time.monotonic()
            click.echo(_progress(batch, len(chosen)), err=True)
        if canary is not None and batch.failed:
            break
    took_s = time.monotonic() - began_s
    click.echo(_json(batch, chosen, result) if output == "json" else _text(batch, chosen, result))
    speed = f"{batch.speed:.0f} × real time per processor, {batch.virtual_s / took_s:.0f} × in all"
    click.echo(speed, err=True)
    if ledger is not None:
        told = f"{_text(batch, chosen, result)}\nspeed     {speed}"
        append_section(
            ledger,
            title="Simulated runs",
            command="seamfill-chaos sim",
            text=f"{seconds:g} virtual seconds a seed.\n\n```text\n{told}\n```\n",
        )
    sys.exit(_exit_code(batch, canary))


def _exit_code(batch: Batch, canary: str | None) -> int:
    if canary is not None:
        return 0 if batch.failed else 1
    return 1 if batch.failed or batch.missing else 0


def fix_hash_seed() -> None:
    """Start this command again with a fixed order of sets, unless it has one."""
    if os.environ.get("PYTHONHASHSEED") == "0":
        return
    os.execve(  # this very command line
        sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"}
    )


def _progress(batch: Batch, total: int) -> str:
    return (
        f"{batch.runs} of {total} seeds, {len(batch.failed)} failed, "
        f"{batch.operations.total():,} operations, {batch.speed:.0f} × real time"
    )


def _tell_failure(result: RunResult, settings: RunSettings) -> None:
    lines = (result.violation or "").strip().splitlines()
    click.echo(f"seed {result.seed} FAILED at {result.virtual_s:.3f} s: {lines[0]}", err=True)
    for line in lines[1:]:
        click.echo(f"    {line}", err=True)
    again = replay_command(result.seed, settings.seconds, settings.canary)
    click.echo(f"    commit {current_commit()}", err=True)
    click.echo(f"    again  {again}", err=True)
    if settings.output is not None:
        click.echo(f"    files  {settings.output}/seed-{result.seed}", err=True)


def _text(batch: Batch, seeds: range, last: RunResult) -> str:
    asked = ", ".join(f"{number:,} {name}" for name, number in sorted(batch.operations.items()))
    lines = [
        f"seeds     {seeds[0]}..{seeds[-1]}, {batch.runs} run, {len(batch.failed)} failed",
        f"asked     {batch.operations.total():,} operations: {asked}",
        "met       " + ", ".join(f"{n} {name}" for name, n in sorted(batch.moments.items())),
    ]
    if batch.recovered_s:
        lines.append(f"recovered {max(batch.recovered_s):.3f} s after the last fault at most")
    lines += [f"never met {missing}" for missing in batch.missing]
    if len(seeds) == 1:
        lines.append(f"trace     {last.trace_digest}")
    return "\n".join(lines)


def _json(batch: Batch, seeds: range, last: RunResult) -> str:
    """Return one document, in which nothing depends on the machine or the time of day."""
    document: dict[str, object] = {
        "seeds": [seeds[0], seeds[-1]],
        "runs": batch.runs,
        "virtual_s": round(batch.virtual_s, 6),
        "operations": dict(sorted(batch.operations.items())),
        "violations": [
            {"seed": result.seed, "violation": result.violation} for result in batch.failed
        ],
        "moments": dict(sorted(batch.moments.items())),
        "never_met": batch.missing,
    }
    if len(seeds) == 1:
        document = {"seed": seeds[0], "trace_digest": last.trace_digest, **document}
    return json.dumps(document, indent=2)
