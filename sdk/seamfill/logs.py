"""Structured logging: an event's name first, its facts as fields.

Owns ``log_event`` and the two ways a log line is rendered. Must not decide *that* anything is
logged, nor where: only a process's ``cli.py`` calls ``configure_logging``.

Invariants: one line per event; a fact that can not be rendered never raises; facts never shadow the
line's own fields (``ts``, ``level``, ``event``, ``logger``).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

__all__ = ["JsonFormatter", "TextFormatter", "configure_logging", "log_event"]

_FACTS: Final = "seamfill_facts"
_OWN_FIELDS: Final = frozenset({"ts", "level", "event", "logger", "exception"})


def log_event(
    log: logging.Logger,
    event: str,
    /,
    *,
    level: int = logging.INFO,
    exc: BaseException | None = None,
    **facts: object,
) -> None:
    """Log ``event`` (``noun.what_happened``) with its facts, and the exception behind it."""
    if log.isEnabledFor(level):
        log.log(level, event, exc_info=exc, extra={_FACTS: facts})


def configure_logging(
    *, level: int = logging.INFO, stream: TextIO | None = None, **context: object
) -> None:
    """Render all logs of this process on ``stream`` (stderr): text on a terminal, else JSON.

    ``context`` is added to every line: who this process is.
    """
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter(context) if target.isatty() else JsonFormatter(context))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _FactsFormatter(logging.Formatter):
    def __init__(self, context: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._context = dict(context or {})

    def facts(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the process's own facts and the line's."""
        facts = getattr(record, _FACTS, None)
        return {**self._context, **(facts if isinstance(facts, dict) else {})}


class JsonFormatter(_FactsFormatter):
    """One JSON object per line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _iso(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        for name, value in self.facts(record).items():
            line[f"{name}_" if name in _OWN_FIELDS else name] = value
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(_FactsFormatter):
    """``12:34:56.789 info lease.granted key=… fence=7``, for people."""

    def format(self, record: logging.LogRecord) -> str:
        when = _iso(record.created)[11:23]
        facts = "".join(f" {name}={value}" for name, value in self.facts(record).items())
        line = f"{when} {record.levelname.lower():7} {record.getMessage()}{facts}"
        if record.exc_info and record.exc_info[0] is not None:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


def _iso(created_s: float) -> str:
    text = datetime.fromtimestamp(created_s, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
