"""What operators and SDKs may look at: leases, coverage, violations, workers, sources.

Owns the query parameters and the translation to the machine's views, and the small commands on
workers and sources. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta

from seamfill.errors import InvalidInput
from seamfill.protocol.cluster import SourceAnswer, WorkerAnswer
from seamfill.protocol.values import Body, Name, SeriesId
from seamfill_coordinator.calls import Answer, Incoming, Mutation, Read
from seamfill_coordinator.http.times import TimeText, parse_range, parse_time
from seamfill_coordinator.machine import views
from seamfill_coordinator.machine.commands import (
    DrainWorker,
    Operation,
    PauseSource,
    ResumeSource,
)
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Done, RejectReason, Reply
from seamfill_coordinator.problems import Refused, problem, unexpected

__all__ = [
    "COVERAGE",
    "DRAIN_WORKER",
    "EXPLAIN",
    "LIST_LEASES",
    "LIST_SOURCES",
    "LIST_VIOLATIONS",
    "LIST_WORKERS",
    "PAUSE_SOURCE",
    "RESUME_SOURCE",
    "CoverageQuery",
    "ExplainQuery",
    "LeasesQuery",
    "ViolationsQuery",
]

Limit = Annotated[int, Meta(ge=1, le=10_000)]


class LeasesQuery(Body, frozen=True):
    dataset: Name | None = None
    symbol: Name | None = None
    worker: Name | None = None
    limit: Limit = 1_000


class ExplainQuery(Body, frozen=True):
    dataset: Name
    symbol: Name
    ts: TimeText


class CoverageQuery(Body, frozen=True):
    """``as_of``: a rev (an integer), or the newest rev at a time (ISO 8601 with a zone)."""

    dataset: Name
    symbol: Name
    start: TimeText | None = None
    end: TimeText | None = None
    as_of: TimeText | None = None
    in_flight: bool = True


class ViolationsQuery(Body, frozen=True):
    limit: Limit = 1_000


def _list_leases(incoming: Incoming, machine: LeaseMachine) -> Answer:
    query = incoming.query_as(LeasesQuery)
    body = views.leases(
        machine,
        dataset=query.dataset,
        symbol=query.symbol,
        worker=query.worker,
        limit=query.limit,
    )
    return Answer(status=200, body=body)


def _explain(incoming: Incoming, machine: LeaseMachine) -> Answer:
    query = incoming.query_as(ExplainQuery)
    series = SeriesId(dataset=query.dataset, symbol=query.symbol)
    ts_ms = parse_time("ts", query.ts)
    return Answer(status=200, body=views.explain(machine, series, ts_ms))


def _coverage(incoming: Incoming, machine: LeaseMachine) -> Answer:
    query = incoming.query_as(CoverageQuery)
    start_ms, end_ms = parse_range(query.start, query.end)
    body = views.coverage(
        machine,
        SeriesId(dataset=query.dataset, symbol=query.symbol),
        start_ms,
        end_ms,
        as_of=None if query.as_of is None else _as_of_rev(machine, query.as_of),
        in_flight=query.in_flight,
    )
    if query.in_flight:
        return Answer(status=200, body=body)
    # Only facts are shown, and those change with coverage_rev alone, so it can be the tag. The
    # recovery number belongs to it: after a recovery, revs are counted again.
    etag = f'"{body.coverage_rev}"'
    if incoming.if_none_match is not None and etag in _tags(incoming.if_none_match):
        return Answer(status=304, etag=etag)
    return Answer(status=200, body=body, etag=etag)


def _tags(if_none_match: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}


def _as_of_rev(machine: LeaseMachine, text: str) -> int:
    if text.isascii() and text.isdigit():
        rev = int(text)
        if rev > machine.rev:
            raise InvalidInput("as_of", f"rev {rev} is newer than the newest, {machine.rev}")
        return rev
    rev_then = views.rev_at_wall(machine, parse_time("as_of", text))
    if rev_then is None:
        raise InvalidInput("as_of", "is before everything that is remembered")
    return rev_then


def _list_violations(incoming: Incoming, machine: LeaseMachine) -> Answer:
    limit = incoming.query_as(ViolationsQuery).limit
    return Answer(status=200, body=views.violations(machine, limit=limit))


def _list_workers(incoming: Incoming, machine: LeaseMachine) -> Answer:
    return Answer(status=200, body=views.workers(machine))


def _list_sources(incoming: Incoming, machine: LeaseMachine) -> Answer:
    return Answer(status=200, body=views.sources(machine))


def _by_id(
    operation: Callable[[str], Operation], found: Callable[[Incoming, LeaseMachine], Answer]
) -> Mutation:
    def operations(incoming: Incoming, machine: LeaseMachine) -> tuple[Operation, ...]:
        return (operation(incoming.path["id"]),)

    def answer(incoming: Incoming, reply: Reply, machine: LeaseMachine) -> Answer:
        match reply.outcomes[0]:
            case Done():
                return found(incoming, machine)
            case other:
                return unexpected(other)

    return Mutation(operations=operations, answer=answer)


def _found_worker(incoming: Incoming, machine: LeaseMachine) -> Answer:
    worker_id = incoming.path["id"]
    for worker in views.workers(machine).workers:
        if worker.id == worker_id:
            return Answer(status=200, body=WorkerAnswer(worker=worker))
    raise Refused(problem(RejectReason.NOT_FOUND, f"no worker {worker_id!r} is known"))


def _found_source(incoming: Incoming, machine: LeaseMachine) -> Answer:
    name = incoming.path["id"]
    for source in views.sources(machine).sources:
        if source.source == name:
            return Answer(status=200, body=SourceAnswer(source=source))
    raise Refused(problem(RejectReason.NOT_FOUND, f"no source {name!r} is known"))


LIST_LEASES: Final = Read(view=_list_leases)
EXPLAIN: Final = Read(view=_explain)
COVERAGE: Final = Read(view=_coverage)
LIST_VIOLATIONS: Final = Read(view=_list_violations)
LIST_WORKERS: Final = Read(view=_list_workers)
LIST_SOURCES: Final = Read(view=_list_sources)
DRAIN_WORKER: Final = _by_id(lambda worker: DrainWorker(worker_id=worker), _found_worker)
PAUSE_SOURCE: Final = _by_id(lambda source: PauseSource(source=source), _found_source)
RESUME_SOURCE: Final = _by_id(lambda source: ResumeSource(source=source), _found_source)
