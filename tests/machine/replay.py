"""Replay golden logs and print the state digest after each: run under different hash seeds.

Owns the format of ``golden/*.log``: one command a line, as hex, a space, and the state digest after
it. A log that was recorded by a released version is never rewritten: it is the promise that this
version's state, from the same log, is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from seamfill_coordinator.machine import codec
from seamfill_coordinator.machine.machine import LeaseMachine

GOLDEN = Path(__file__).parent / "golden"


def read(path: Path) -> list[tuple[bytes, str]]:
    """Return the commands of a log with the digests that were recorded after them."""
    lines = path.read_text(encoding="ascii").splitlines()
    pairs = [line.split(" ") for line in lines if not line.startswith("#")]
    return [(bytes.fromhex(data), digest) for data, digest in pairs]


def digests(commands: list[bytes]) -> list[str]:
    """Apply the commands to an empty machine; return the digest after each."""
    machine = LeaseMachine()
    found = []
    for data in commands:
        codec.apply_encoded(machine, data)
        found.append(machine.state_digest())
    return found


def main() -> None:
    for path in sorted(GOLDEN.glob("*.log")):
        commands = [data for data, _ in read(path)]
        sys.stdout.write(f"{path.name} {' '.join(digests(commands))}\n")


if __name__ == "__main__":
    main()
