"""One line per event: its name first, its facts as fields."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from seamfill.logs import JsonFormatter, TextFormatter, configure_logging, log_event

_log = logging.getLogger("seamfill.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_machine_reads_json() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, node="n1")
    log_event(_log, "lease.granted", key="a|b", fence=7)
    line = json.loads(stream.getvalue())
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "event": "lease.granted",
        "logger": "seamfill.test",
        "node": "n1",
        "key": "a|b",
        "fence": 7,
    }


def test_a_person_reads_text() -> None:
    stream = Terminal()
    configure_logging(stream=stream)
    log_event(_log, "lease.granted", level=logging.WARNING, fence=7)
    assert stream.getvalue().split(" ", 1)[1] == "warning lease.granted fence=7\n"


def test_a_fact_never_shadows_the_lines_own_fields() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    log_event(_log, "node.started", ts="x", logger="y")
    line = json.loads(stream.getvalue())
    assert line["logger"] == "seamfill.test"
    assert (line["ts_"], line["logger_"]) == ("x", "y")


def test_what_has_no_json_form_is_written_as_text() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    log_event(_log, "odd", value=object)
    assert "object" in json.loads(stream.getvalue())["value"]


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_the_exception_behind_an_event_is_shown(formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    log_event(_log, "broken", exc=ValueError("the reason"))
    assert "the reason" in stream.getvalue()


def test_a_line_below_the_level_costs_nothing() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, level=logging.ERROR)
    log_event(_log, "quiet")
    assert stream.getvalue() == ""
