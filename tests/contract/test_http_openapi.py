"""The OpenAPI document is valid, complete, and junk made from it never breaks the server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from contract.http_rig import HttpRig, http_rig
from seamfill_coordinator.http.routes import ENDPOINTS

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["native:a|b|0|60000", "a:60:0:59::", ":", "\x00", "bf-1", "\U0001f600"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


async def test_the_document_is_valid_openapi(tmp_path: Path) -> None:
    async with http_rig(tmp_path) as rig:
        validate(rig.document)
        names = [
            operation["operationId"]
            for item in rig.document["paths"].values()
            for operation in item.values()
        ]
    assert sorted(names) == sorted(endpoint.name for endpoint in ENDPOINTS)
    assert len(set(names)) == len(names)


async def test_two_shapes_of_one_body_are_told_apart_in_the_document(tmp_path: Path) -> None:
    async with http_rig(tmp_path) as rig:
        body = rig.document["paths"]["/v1/leases/complete"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert [option["$ref"].rsplit("/", 1)[1] for option in schema["oneOf"]] == [
        "CompleteRequest",
        "FinishRequest",
    ]


class Fuzz:
    """A server that outlives the examples, driven from the synchronous test."""

    def __init__(self, data_dir: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.statuses: Counter[int] = Counter()
        self._running = http_rig(data_dir)
        self.rig: HttpRig = self.loop.run_until_complete(self._running.__aenter__())

    def call(self, method: str, target: str, body: object, headers: Mapping[str, str]) -> int:
        data = None if method == "GET" else json.dumps(body).encode()
        call = self.rig.call(method, target, raw=data, headers=headers)
        return self.loop.run_until_complete(asyncio.wait_for(call, 60)).status

    def close(self) -> None:
        self.loop.run_until_complete(self._running.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    running = Fuzz(tmp_path_factory.mktemp("fuzz"))
    yield running
    running.close()


def test_junk_made_from_the_document_is_never_a_server_error(fuzz: Fuzz) -> None:
    """Not all of it is refused, or nothing behind the door was tried."""
    send_something(fuzz)
    assert {200, 400, 404} <= set(fuzz.statuses), fuzz.statuses


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def send_something(fuzz: Fuzz, data: Any) -> None:
    """``call`` checks each answer against the document, so a wrong shape fails here as well."""
    document = fuzz.rig.document
    endpoint = data.draw(st.sampled_from([e for e in ENDPOINTS if "watch" not in e.path]))
    operation = document["paths"][endpoint.path][endpoint.method.lower()]
    target = endpoint.path.replace("{id}", data.draw(st.sampled_from(["bf-1", "x", "%2F", "%00"])))
    query = {
        parameter["name"]: data.draw(values(document, parameter["schema"]))
        for parameter in operation["parameters"]
        if parameter["in"] == "query" and data.draw(st.booleans())
    }
    if query:
        target += "?" + "&".join(f"{name}={_escaped(value)}" for name, value in query.items())
    body = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = data.draw(values(document, schema))
        if isinstance(body, dict) and "wait_ms" in body:
            body["wait_ms"] = 0
    key = data.draw(st.sampled_from([None, None, "1:1:1", "1:300:0", "x"]))
    headers = {} if key is None else {"Idempotency-Key": key}
    status = fuzz.call(endpoint.method, target, body, headers)
    fuzz.statuses[status] += 1
    assert status < 500


def values(document: Mapping[str, Any], schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that mostly fit the schema, with junk in some places."""
    return st.one_of(_fitting(document, schema), _fitting(document, schema), JUNK)


def _fitting(document: Mapping[str, Any], schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return st.deferred(lambda: _fitting(document, document["components"]["schemas"][name]))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return st.one_of([_fitting(document, option) for option in schema[choice]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object":
            return _objects(document, schema)
        case "array":
            return st.lists(values(document, schema.get("items", {})), max_size=3)
        case "integer":
            low = schema.get("minimum", -(2**62))
            high = schema.get("maximum", schema.get("exclusiveMaximum", 2**62) - 1)
            return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"])
        case "string":
            low = schema.get("minLength", 0)
            return st.text(min_size=low, max_size=min(schema.get("maxLength", 40), low + 40))
        case _:
            return JUNK


def _objects(document: Mapping[str, Any], schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    required = set(schema.get("required", ()))
    fields = {name: values(document, member) for name, member in schema["properties"].items()}
    exact = st.fixed_dictionaries(
        {name: strategy for name, strategy in fields.items() if name in required},
        optional={name: strategy for name, strategy in fields.items() if name not in required},
    )
    return st.one_of(exact, exact, exact, st.builds(lambda good: {**good, "extra": 1}, exact))


def _escaped(value: object) -> str:
    from urllib.parse import quote

    return quote(str(value).lower() if isinstance(value, bool) else str(value), safe="")
