"""From an ``Answer`` to an HTTP response.

Owns the headers and the encoding. Must not know what was asked.
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import Struct

from seamfill.protocol.headers import LEADER, RECOVERY, REV, TERM
from seamfill.protocol.problem import PROBLEM_TYPE, Problem
from seamfill_coordinator.calls import Answer, StateStamp
from seamfill_coordinator.http.compatibility import with_completion_ratio

__all__ = ["problem_response", "respond", "stamp_headers"]


def respond(answer: Answer, *, stamp: StateStamp, trace_id: str, has_ratio: bool) -> web.Response:
    """Return the response, with headers that say which state it speaks of."""
    if isinstance(answer.body, Problem):
        return problem_response(answer.body, stamp=stamp, trace_id=trace_id, has_ratio=has_ratio)
    headers = stamp_headers(stamp)
    if answer.etag is not None:
        headers["ETag"] = answer.etag
    if answer.status == 304:
        return web.Response(status=304, headers=headers)
    if answer.retry_after_ms is not None:
        headers["Retry-After"] = _seconds(answer.retry_after_ms)
    failed = answer.payload is not None and answer.status >= 400
    return web.Response(
        status=answer.status,
        body=_encoded(answer),
        content_type=PROBLEM_TYPE if failed else "application/json",
        headers=headers,
    )


def problem_response(
    problem: Problem, *, stamp: StateStamp, trace_id: str, has_ratio: bool
) -> web.Response:
    """Return the problem with the state it speaks of, and a trace id to look for in the logs."""
    full = msgspec.structs.replace(
        problem,
        leader=stamp.leader,
        term=stamp.term,
        rev=stamp.rev,
        trace_id=trace_id,
    )
    headers = stamp_headers(stamp)
    if problem.retry_after_ms is not None:
        headers["Retry-After"] = _seconds(problem.retry_after_ms)
    elif problem.status == 503:
        headers["Retry-After"] = "1"
    body = with_completion_ratio(full) if has_ratio else full
    return web.Response(
        status=problem.status,
        body=msgspec.json.encode(body),
        content_type=PROBLEM_TYPE,
        headers=headers,
    )


def stamp_headers(stamp: StateStamp) -> dict[str, str]:
    headers = {REV: str(stamp.rev), TERM: str(stamp.term), RECOVERY: str(stamp.recovery)}
    if stamp.leader_url is not None:
        headers[LEADER] = stamp.leader_url
    return headers


def _encoded(answer: Answer) -> bytes:
    if answer.payload is not None:
        return answer.payload
    body: Struct | None = answer.body
    return b"" if body is None else msgspec.json.encode(body)


def _seconds(delay_ms: int) -> str:
    """Round up: who comes back a moment too early only comes back again."""
    return str(max(1, -(-delay_ms // 1000)))
