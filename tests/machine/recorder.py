"""Record a long run of random commands, for golden logs.

Owns nothing that must stay the same: a recorded log is kept as a file, so another Hypothesis may
draw other commands without harm.
"""

from __future__ import annotations

from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from machine.world import World


class _Recording(World):
    logs: ClassVar[list[list[bytes]]] = []

    def teardown(self) -> None:
        super().teardown()
        self.logs.append(self.pair.log)


def record(*, commands: int) -> list[bytes]:
    """Return one random run of about this many commands, compared with the model on the way."""
    _Recording.logs.clear()
    run_state_machine_as_test(
        _Recording,
        settings=settings(
            max_examples=10,
            stateful_step_count=commands // 2,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return max(_Recording.logs, key=len)
