"""What happened in a run, one line an event, the same bytes whenever the seed is repeated.

Owns the order and the text of events, their digest, and the capture of the program's own logs. Must
not know what is right. An event is kept as a tuple and becomes text only when somebody reads it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seamfill_chaos.sim.process import current_process

__all__ = ["Trace", "captured_logs"]

_FACTS = "seamfill_facts"
"""Where ``seamfill.logs.log_event`` keeps a line's facts."""


class Trace:
    """The events of one run."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._events: list[tuple[float, str, str, dict[str, Any]]] = []

    def __len__(self) -> int:
        return len(self._events)

    def add(self, who: str, event: str, **facts: object) -> None:
        """Note that something happened to ``who`` now. Facts must not change afterwards."""
        self._events.append((self._now_s(), who, event, facts))

    def lines(self) -> Iterator[str]:
        """Yield a line per event: virtual seconds, node, event, facts in the order given."""
        for time_s, who, event, facts in self._events:
            told = " ".join(f"{name}={_text(value)}" for name, value in facts.items())
            yield f"{time_s:12.6f} {who:<6} {event} {told}".rstrip()

    def digest(self) -> str:
        """Return the digest of the whole text: two runs of a seed have the same."""
        digest = hashlib.blake2b(digest_size=16)
        for line in self.lines():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        with path.open("w") as file:
            file.writelines(f"{line}\n" for line in self.lines())


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    text = str(value)
    return repr(text) if " " in text else text


class _Capture(logging.Handler):
    def __init__(self, on_log: Callable[[str, str, dict[str, Any]], None]) -> None:
        super().__init__(level=logging.INFO)
        self._on_log = on_log

    def handle(self, record: logging.LogRecord) -> bool:
        # Not ``emit``: there is one thread, and the lock around it would cost more than the event.
        process = current_process()
        facts = dict(getattr(record, _FACTS, {}))
        if record.exc_info is not None and record.exc_info[1] is not None:
            facts["exc"] = record.exc_info[1]
        self._on_log(process.name if process else "-", record.getMessage(), facts)
        return True


@contextmanager
def captured_logs(on_log: Callable[[str, str, dict[str, Any]], None]) -> Iterator[None]:
    """Hand every log event to ``on_log`` (who, event, facts), and to nobody else."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = [_Capture(on_log)]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
