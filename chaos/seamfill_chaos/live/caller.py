"""Ask a node over HTTP in the machine's own words: a ``Request`` out, a ``Reply`` back.

Owns the translation for the operations that live traffic uses, and what each failure of a call
means. Must not know sessions, retries or what is asked for. So a history of real processes has the
same form as one of the simulator, and the same checkers read both.

The two kinds of "no" stay apart: ``NotDone`` means that nothing happened and nothing will,
``InDoubt`` that the operation may have taken effect or still will. A refusal by the machine is an
answer. What HTTP does not carry back (``Completed.coverage_rev``, a refusal's ratio) is left at
nothing.
"""

from __future__ import annotations

from typing import Final

import aiohttp
import msgspec

from seamfill.errors import SeamfillError
from seamfill.protocol import compat, headers, leases
from seamfill.protocol.backfills import BackfillRequest
from seamfill.protocol.cluster import SessionAnswer
from seamfill.protocol.problem import Problem
from seamfill.protocol.values import WorkerIdentity
from seamfill_chaos.history import Read, Seen
from seamfill_coordinator.machine.commands import (
    NO_CLIENT,
    Acquire,
    Claim,
    Complete,
    CompleteClaim,
    FailClaim,
    OpenSession,
    Operation,
    Renew,
    Request,
)
from seamfill_coordinator.machine.outcomes import (
    Already,
    Claimed,
    ClaimFinished,
    Completed,
    Grant,
    Granted,
    Nothing,
    Opened,
    Outcome,
    Rejected,
    RejectReason,
    Renewed,
    Reply,
)

__all__ = ["InDoubt", "NotDone", "ask", "read", "submit"]


CONNECT_TIMEOUT_S: Final = 1.0


class NotDone(SeamfillError):
    """The call had no effect and will have none; it is safe to make it again."""

    code = "not_done"
    retryable = True


class InDoubt(SeamfillError):
    """The call may have taken effect; make it again under the same identity to find out."""

    code = "in_doubt"
    retryable = True


class AnswerUnexpected(SeamfillError):
    """A node answered what it never should: a bug, of the node or of these tools."""

    code = "answer_unexpected"


async def ask(
    http: aiohttp.ClientSession,
    url: str,
    request: Request,
    *,
    worker: WorkerIdentity,
    timeout_s: float,
) -> Reply:
    """Have a request of one operation carried out at a node; return what the machine said.

    ``worker`` is who renews and completes. Raises ``NotDone``, ``InDoubt``, ``AnswerUnexpected``.
    """
    (operation,) = request.operations
    target, body = _sent(operation, worker)
    sent = {"Content-Type": "application/json"}
    if request.client != NO_CLIENT:
        identity = f"{request.client}:{request.sequence}:{request.low}"
        sent[headers.IDEMPOTENCY_KEY] = identity
    status, rev, raw = await _call(http, url + target, body, sent, timeout_s=timeout_s)
    return Reply(outcomes=(_outcome(operation, status, raw),), rev=rev)


async def read(http: aiohttp.ClientSession, url: str, asked: Read, *, timeout_s: float) -> Seen:
    """Return who holds a key. Raises ``NotDone``, also for what is in doubt: a read has no
    effect."""
    body = msgspec.json.encode({"key": asked.key})
    sent = {"Content-Type": "application/json", headers.REV: str(asked.floor_rev)}
    try:
        target = "/v1/leases/inspect"
        status, rev, raw = await _call(http, url + target, body, sent, timeout_s=timeout_s)
    except InDoubt as exc:
        raise NotDone(exc.message) from exc
    if status != 200:
        raise AnswerUnexpected(f"inspect answered {status}: {raw.decode(errors='replace')}")
    return Seen(token=_INSPECTED.decode(raw).token, rev=rev)


async def submit(
    http: aiohttp.ClientSession, url: str, backfill: BackfillRequest, *, timeout_s: float
) -> bool:
    """Ask for a backfill; return whether it was accepted. It has an id and may be repeated."""
    sent = {"Content-Type": "application/json"}
    try:
        body = msgspec.json.encode(backfill)
        target = "/v1/backfills"
        status, _, raw = await _call(http, url + target, body, sent, timeout_s=timeout_s)
    except (NotDone, InDoubt):
        return False
    if status != 200:
        raise AnswerUnexpected(f"the backfill was answered {status}: {raw!r}")
    return True


async def _call(
    http: aiohttp.ClientSession, url: str, body: bytes, sent: dict[str, str], *, timeout_s: float
) -> tuple[int, int, bytes]:
    """POST; return status, rev and body of an answer that tells what became of the call."""
    limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
    try:
        async with http.post(url, data=body, headers=sent, timeout=limits) as answer:
            raw = await answer.read()
            status, rev = answer.status, int(answer.headers.get(headers.REV, -1))
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
        raise NotDone(f"no connection: {exc}") from exc
    except (TimeoutError, aiohttp.ClientError, OSError) as exc:
        raise InDoubt(f"the answer was lost: {type(exc).__name__} {exc}") from exc
    if status in (503, 504):
        problem = _PROBLEM.decode(raw)
        no = InDoubt if problem.in_doubt else NotDone
        raise no(f"{status} {problem.code}")
    return status, rev, raw


def _sent(operation: Operation, worker: WorkerIdentity) -> tuple[str, bytes]:
    """Return the address and the body that ask for an operation."""
    body: msgspec.Struct | dict[str, object]
    match operation:
        case OpenSession():
            return "/v1/sessions", b"{}"
        case Claim(key=key, lease_ms=lease_ms):
            target, body = "claim", compat.ClaimRequest(key=key, lease_ms=lease_ms)
        case CompleteClaim(key=key, token=token):
            target, body = "complete", compat.FinishRequest(key=key, token=token)
        case FailClaim(key=key, token=token, reason=reason):
            body = compat.FailClaimRequest(key=key, token=token, reason=reason)
            target = "fail"
        case Acquire():
            target = "acquire"
            body = leases.AcquireRequest(
                worker=operation.worker,
                offers=operation.offers,
                stores=operation.stores,
                max_windows=operation.max_windows,
                ttl_ms=operation.ttl_ms,
            )
        case Renew(lease=lease, ttl_ms=ttl_ms, cursor_ms=cursor_ms):
            item = leases.RenewItem(lease=lease, cursor_ms=cursor_ms)
            target = "renew"
            body = leases.RenewRequest(worker=worker, leases=(item,), ttl_ms=ttl_ms)
        case Complete(lease=lease, covered=covered):
            done = leases.CompleteItem(lease=lease, covered=covered)
            target, body = "complete", leases.CompleteRequest(worker=worker, leases=(done,))
        case _:
            raise AssertionError(f"live traffic does not use {type(operation).__name__}")
    return f"/v1/leases/{target}", msgspec.json.encode(body)


def _outcome(operation: Operation, status: int, raw: bytes) -> Outcome:
    if status != 200:
        return _refusal(status, raw)
    match operation:
        case OpenSession():
            opened = _SESSION.decode(raw)
            return Opened(client=int(opened.client), expires_after_ms=opened.expires_after_ms)
        case Claim():
            claimed = _CLAIMED.decode(raw)
            return Claimed(
                token=claimed.lease.token,
                ttl_ms=claimed.lease.ttl_ms,
                completion_ratio=claimed.completion_ratio,
            )
        case CompleteClaim() | FailClaim():
            return ClaimFinished(completion_ratio=_FINISHED.decode(raw).completion_ratio)
        case Acquire():
            return _acquired(_ACQUIRED.decode(raw))
        case _:
            return _result(_RESULTS.decode(raw).results[0])


def _refusal(status: int, raw: bytes) -> Rejected:
    problem = _PROBLEM.decode(raw)
    try:
        reason = RejectReason(problem.code)
    except ValueError:
        raise AnswerUnexpected(f"{status} {problem.code}: {problem.detail}") from None
    return Rejected(
        reason=reason,
        detail=problem.detail or "",
        field=problem.field,
        retry_after_ms=problem.retry_after_ms,
        holder=problem.holder,
    )


def _acquired(answer: leases.AcquireAnswer) -> Granted | Nothing:
    if not answer.leases:
        return Nothing(retry_after_ms=answer.retry_after_ms or 0, why=answer.why or "")
    return Granted(
        grants=tuple(
            Grant(
                dataset=lease.series.dataset,
                symbol=lease.series.symbol,
                start_ms=lease.start_ms,
                end_ms=lease.end_ms,
                gen=lease.gen,
                fence=lease.fence,
                ttl_ms=lease.ttl_ms,
                spec=lease.spec,
                cursor_ms=lease.cursor_ms,
                attempts=lease.attempts,
                budget_weight=lease.budget_weight,
            )
            for lease in answer.leases
        )
    )


def _result(item: leases.ItemResult) -> Outcome:
    match item.status:
        case "renewed":
            assert item.ttl_ms is not None
            assert item.directive is not None
            return Renewed(ttl_ms=item.ttl_ms, directive=item.directive)
        case "completed":
            return Completed(coverage_rev=0, remaining=False)
        case "already":
            return Already(coverage_rev=0)
        case "refused":
            reason = RejectReason(item.reason or "")
            return Rejected(reason=reason, detail=item.detail or "", covered=item.covered)
        case _:
            raise AnswerUnexpected(f"an item's status is {item.status!r}")


_PROBLEM: Final = msgspec.json.Decoder(Problem)
_SESSION: Final = msgspec.json.Decoder(SessionAnswer)
_CLAIMED: Final = msgspec.json.Decoder(compat.ClaimAnswer)
_FINISHED: Final = msgspec.json.Decoder(compat.FinishAnswer)
_ACQUIRED: Final = msgspec.json.Decoder(leases.AcquireAnswer)
_RESULTS: Final = msgspec.json.Decoder(leases.ResultsAnswer)
_INSPECTED: Final = msgspec.json.Decoder(compat.InspectAnswer)
