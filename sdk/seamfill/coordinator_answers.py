"""What a coordinator's answer means: done, a definite no, certainly not done, or in doubt.

Owns the reading of answers that are not 2xx, of bodies up to a cap, and of server-sent events. Must
not send anything or decide about repetition: ``coordinator_link`` does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import msgspec

from seamfill.errors import RequestRefused
from seamfill.protocol.problem import Problem

__all__ = ["InDoubt", "NotDone", "SessionLost", "event_data", "read_capped", "refusal"]

MAX_ANSWER_BYTES: Final = 256 << 20


class NotDone(Exception):
    """An attempt that was certainly not carried out, and how long to wait before the next one."""

    def __init__(self, why: str, retry_after_ms: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_ms = retry_after_ms


class InDoubt(Exception):
    """An attempt that may have been carried out."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class SessionLost(Exception):
    """The cluster does not know this session (any more)."""


def refusal(status: int, content_type: str, body: bytes, was_in_doubt: bool) -> Exception:
    """Turn an answer that is not 2xx into what it means for the caller."""
    problem = _problem(status, content_type, body)
    if problem.code == "session_unknown":
        # Nothing of ours is known to have been tried before: it is safe to start a new session.
        return InDoubt("the session ended in between") if was_in_doubt else SessionLost()
    text = problem.detail or problem.title
    if problem.code == "recovered":
        # The floor was of a state that a recovery took back; the answer's headers have reset it.
        return NotDone(f"{status} {problem.code}: {text}")
    if problem.in_doubt:
        return InDoubt(f"{status} {problem.code}: {text}")
    if status == 503:
        return NotDone(f"{status} {problem.code}: {text}", problem.retry_after_ms)
    if status >= 500 and problem.code == _FOREIGN:
        # A 500 or 502 from something that is not a coordinator says nothing about what happened.
        return InDoubt(f"HTTP {status}")
    return RequestRefused(
        text
        if problem.field is None or text.startswith(problem.field)
        else f"{problem.field}: {text}",
        status=status,
        reason=problem.code,
        field=problem.field,
        retry_after_ms=problem.retry_after_ms,
    )


_FOREIGN: Final = "not_a_problem"


def _problem(status: int, content_type: str, body: bytes) -> Problem:
    try:
        return msgspec.json.decode(body, type=Problem)
    except msgspec.DecodeError:
        excerpt = body[:120].decode("utf-8", "replace").strip()
        return Problem(
            title=f"HTTP {status}",
            status=status,
            code=_FOREIGN,
            detail=f"HTTP {status} ({content_type}) that is no coordinator's: {excerpt!r}",
        )


async def read_capped(response: aiohttp.ClientResponse) -> bytes:
    """Read the whole body, but never more than the cap."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


async def event_data(lines: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the ``data`` of each event; comments, names and ids are skipped (WHATWG, 9.2.6)."""
    data: list[bytes] = []
    async for raw in lines:
        line = raw.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
