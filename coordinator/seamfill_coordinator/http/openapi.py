"""The OpenAPI 3.1 document, made from the route table.

Owns how a row becomes a description. Pure. The schemas come from the very types that decode the
requests and encode the answers, so the document can not say something else than the server does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from seamfill import __version__
from seamfill.protocol.headers import IDEMPOTENCY_KEY, LEADER, RECOVERY, REV, TERM
from seamfill.protocol.problem import PROBLEM_TYPE, ClaimProblem, Problem
from seamfill_coordinator.calls import Mutation, Read
from seamfill_coordinator.http.endpoints import Endpoint, Nothing, Streamed

__all__ = ["openapi_document"]

Json = dict[str, object]
_REF: Final = "#/components/schemas/{name}"


def openapi_document(endpoints: Iterable[Endpoint]) -> Json:
    """Return the document as plain JSON values."""
    endpoints = tuple(endpoints)
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    _, schemas = msgspec.json.schema_components(_types(endpoints), ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "seamfill coordinator",
            "version": __version__,
            "description": "Leases on backfill work, and what is known of every bar. "
            "The lease addresses are also served under /v1/v1/leases.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in sorted({endpoint.tag for endpoint in endpoints})],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _types(endpoints: tuple[Endpoint, ...]) -> list[type[Struct]]:
    types: dict[type[Struct], None] = {Problem: None, ClaimProblem: None}
    for endpoint in endpoints:
        for alternative in endpoint.alternatives:
            for kind in (alternative.body, alternative.answer):
                if kind is not None and kind is not Nothing:
                    types[kind] = None
    return list(types)


def _operation(endpoint: Endpoint) -> Json:
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": [
            *_path_parameters(endpoint),
            *_query_parameters(endpoint),
            *_headers(endpoint),
        ],
        "responses": _responses(endpoint),
    }
    bodies = [a.body for a in endpoint.alternatives if a.body is not Nothing]
    if bodies:
        needs_one = any(_has_required(body) for body in bodies)
        operation["requestBody"] = {
            "required": needs_one,
            "content": {"application/json": {"schema": _one_of(bodies)}},
        }
    return operation


def _path_parameters(endpoint: Endpoint) -> list[Json]:
    names = [part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in names
    ]


def _query_parameters(endpoint: Endpoint) -> list[Json]:
    (_,), schemas = msgspec.json.schema_components([endpoint.query], ref_template=_REF)
    schema = schemas[endpoint.query.__name__]
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": _without_null(member),
        }
        for name, member in schema["properties"].items()
    ]


def _without_null(member: Json) -> Json:
    """A parameter is there or not; that its absence is None inside is not the client's business."""
    options = member.get("anyOf")
    if not isinstance(options, list):
        return member
    kept = [option for option in options if option.get("type") != "null"]
    return dict(kept[0]) if len(kept) == 1 else {"anyOf": kept}


def _headers(endpoint: Endpoint) -> list[Json]:
    kinds = {type(alternative.call) for alternative in endpoint.alternatives}
    parameters: list[Json] = []
    if Mutation in kinds:
        parameters.append(
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "required": False,
                "description": "<client>:<sequence>:<low>, see POST /v1/sessions. Repeating a "
                "request under the same key has no second effect and gets the first answer.",
                "schema": {"type": "string", "pattern": r"^\d+:\d+:\d+$"},
            }
        )
    if Read in kinds:
        parameters.append(
            {
                "name": REV,
                "in": "header",
                "required": False,
                "description": "The highest rev seen so far: never answer from an older state.",
                "schema": {"type": "string", "pattern": r"^\d+$"},
            }
        )
        parameters.append(
            {
                "name": RECOVERY,
                "in": "header",
                "required": False,
                "description": "The recovery number under which that rev was seen.",
                "schema": {"type": "string", "pattern": r"^\d+$"},
            }
        )
    return parameters


def _responses(endpoint: Endpoint) -> Json:
    answers = [a.answer for a in endpoint.alternatives if a.answer is not None]
    media = "application/json"
    schema: Json = _one_of(answers) if answers else {"type": "string"}
    streamed = endpoint.alternatives[0].call
    if isinstance(streamed, Streamed):
        media = streamed.content_type
    good: Json = {
        "description": "What was asked for.",
        "headers": _answer_headers(),
        "content": {media: {"schema": schema}},
    }
    responses: Json = {"200": good, "default": _problem(endpoint)}
    if endpoint.is_probe:
        responses["503"] = {**good, "description": "Not ready; the same body says why."}
    if endpoint.name == "getCoverage":
        responses["304"] = {"description": "Nothing changed since the ETag in If-None-Match."}
    return responses


def _problem(endpoint: Endpoint) -> Json:
    kind = ClaimProblem if endpoint.has_ratio else Problem
    return {
        "description": "A problem (RFC 9457); `code` is stable.",
        "headers": _answer_headers(),
        "content": {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(name=kind.__name__)}}},
    }


def _answer_headers() -> Json:
    integer: Json = {"schema": {"type": "integer", "minimum": 0}}
    return {
        REV: {"description": "The state that the answer speaks of.", **integer},
        TERM: {"description": "The Raft term.", **integer},
        RECOVERY: {"description": "Grows when a lost quorum was recovered.", **integer},
        LEADER: {
            "description": "The leader's URL, when it is known.",
            "schema": {"type": "string"},
        },
    }


def _one_of(types: list[type[Struct]]) -> Json:
    references: list[Json] = [
        {"$ref": _REF.format(name=kind.__name__)} for kind in dict.fromkeys(types)
    ]
    return references[0] if len(references) == 1 else {"oneOf": references}


def _has_required(body: type[Struct]) -> bool:
    return any(field.required for field in msgspec.structs.fields(body))
