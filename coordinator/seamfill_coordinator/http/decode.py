"""From an HTTP request to an ``Incoming``, strictly: whatever is wrong is named.

Owns the decoding of bodies, query parameters and headers. Knows aiohttp's request; must not know
what is done with the result.

Invariants: unknown members and parameters are refused; every refusal of a value names its field;
nothing that a client sends can raise anything but ``Refused``, ``InvalidInput`` or aiohttp's own
HTTP exceptions.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from seamfill.errors import InvalidInput
from seamfill.protocol.headers import IDEMPOTENCY_KEY, RECOVERY, REV
from seamfill_coordinator.calls import Identity, Incoming
from seamfill_coordinator.http.endpoints import Alternative, Endpoint
from seamfill_coordinator.http.headers import ABANDONED, CLUSTER, PROXIED_BY, PROXIED_FOR
from seamfill_coordinator.problems import Refused, problem

__all__ = ["MAX_BODY_BYTES", "decode_body", "read_incoming"]

T = TypeVar("T")

MAX_BODY_BYTES: Final = 4 << 20
BODY_TIMEOUT_S: Final = 10.0

_MAX_WORD: Final = (1 << 62) - 1
_AT: Final = re.compile(r"^(?P<message>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_MEMBER: Final = re.compile(
    r"^Object (?:missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL
)


async def read_incoming(
    request: web.Request, endpoint: Endpoint, *, cluster_id: str, wall_ms: int
) -> tuple[Incoming, Alternative]:
    """Decode and validate everything that the route table promises to its handlers."""
    cluster = request.headers.get(CLUSTER)
    if cluster is not None and cluster != cluster_id:
        raise Refused(problem("misdirected", f"this is cluster {cluster_id!r}"))
    query = _decode_query(request, endpoint.query)
    raw = await _read_body(request, endpoint)
    alternative = _choose(endpoint, raw)
    proxied_by = request.headers.get(PROXIED_BY)
    remote = request.headers.get(PROXIED_FOR) if proxied_by else request.remote
    incoming = Incoming(
        method=request.method,
        target=request.raw_path,
        raw=raw,
        body=decode_body(raw, alternative.body),
        query=query,
        path=dict(request.match_info),
        identity=_identity(request.headers.get(IDEMPOTENCY_KEY)),
        rev_floor=_number(REV, request.headers.get(REV)) or 0,
        recovery=_number(RECOVERY, request.headers.get(RECOVERY)),
        if_none_match=request.headers.get("If-None-Match"),
        proxied_by=proxied_by,
        is_abandoned=proxied_by is not None and ABANDONED in request.headers,
        remote=(remote or "")[:64],
        arrived_wall_ms=wall_ms,
        is_client_gone=lambda: request.transport is None or request.transport.is_closing(),
    )
    return incoming, alternative


# ── Bodies ───────────────────────────────────────────────────────────────────────────────────────


async def _read_body(request: web.Request, endpoint: Endpoint) -> bytes:
    if not request.body_exists:
        return b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.read()
    except TimeoutError as exc:
        raise Refused(problem("request_timeout", f"waited {BODY_TIMEOUT_S:g} s")) from exc
    if raw and request.method != "GET" and request.content_type != "application/json":
        # Strict on purpose: a web page in a browser can post a form anywhere, but not this type.
        detail = f"Content-Type is {request.content_type!r}; send application/json"
        raise Refused(problem("unsupported_media_type", detail))
    return raw


def _choose(endpoint: Endpoint, raw: bytes) -> Alternative:
    first, *others = endpoint.alternatives
    if not others:
        return first
    given = set(_decode_json(raw, dict[str, msgspec.Raw]))
    matching = [
        alternative
        for alternative in endpoint.alternatives
        if given & set(alternative.body.__struct_fields__)
    ]
    if len(matching) == 1:
        return matching[0]
    shapes = " or ".join(
        "{" + ", ".join(alternative.body.__struct_fields__) + "}"
        for alternative in endpoint.alternatives
    )
    raise InvalidInput("body", f"must be one of {shapes}")


def decode_body(raw: bytes, kind: type[Struct]) -> Struct:
    """Return the body. An absent one counts as ``{}``."""
    return _decode_json(raw or b"{}", kind)


def _decode_json(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as exc:
        raise _named(exc) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Refused(problem("malformed_json", str(exc))) from exc
    except RecursionError as exc:
        raise Refused(problem("malformed_json", "it is nested too deeply")) from exc


def _named(error: msgspec.ValidationError) -> InvalidInput:
    """Turn msgspec's ``… - at `$.a.b` `` into an error that names the field ``a.b``."""
    found = _AT.match(str(error))
    assert found is not None  # The pattern matches any text.
    message, path = found["message"], (found["path"] or "").removeprefix(".")
    member = _MEMBER.match(message)
    if member is None:
        return InvalidInput(path or "body", message)
    field = f"{path}.{member['name']}" if path else member["name"]
    kind = "is required" if "missing" in message else "is not known here"
    return InvalidInput(field, kind)


# ── Query and headers ────────────────────────────────────────────────────────────────────────────


def _decode_query(request: web.Request, kind: type[Struct]) -> Struct:
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise InvalidInput(name, "is given twice")
        given[name] = value
    try:
        return msgspec.convert(given, type=kind, strict=False)
    except msgspec.ValidationError as exc:
        raise _named(exc) from exc


def _identity(header: str | None) -> Identity | None:
    if header is None:
        return None
    client, sequence, low = _words(IDEMPOTENCY_KEY, header, "<client>:<sequence>:<low>")
    if client == 0:
        raise InvalidInput(IDEMPOTENCY_KEY, "client 0 does not exist; POST /v1/sessions opens one")
    if low > sequence:
        raise InvalidInput(IDEMPOTENCY_KEY, "low is above the sequence")
    return Identity(client=client, sequence=sequence, low=low)


def _number(name: str, header: str | None) -> int | None:
    return None if header is None else _words(name, header, "<integer>")[0]


def _words(name: str, header: str, shape: str) -> list[int]:
    parts = header.split(":")
    wanted = shape.count(":") + 1
    if len(parts) != wanted or not all(part.isascii() and part.isdigit() for part in parts):
        raise InvalidInput(name, f"must be {shape}, all integers")
    words = [int(part) for part in parts if len(part) < 20]
    if len(words) != wanted or max(words) > _MAX_WORD:
        raise InvalidInput(name, "an integer is too large")
    return words
