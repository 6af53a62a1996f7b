"""Requests drawn from the service's own OpenAPI: whatever comes in, the answer is never a 5xx, and
its status, kind and fields are some that the OpenAPI names."""

from __future__ import annotations

from collections import Counter

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.pipelines.serving.conftest import upload

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# What a body drawn at random nearly never has right.
NAMES = {"mix", "photos", "method", "model", "style", "height", "width", "size", "guidance_scale"}


def closer(body: object, person: str) -> object:
    """The body, at little cost where it is accepted; every other one names a real person."""
    if not isinstance(body, dict) or "prompt" not in body:
        return body
    body = {**body, "steps": 2 if body.get("steps") is None else body["steps"]}
    if len(str(body["prompt"])) % 2 == 0:
        return body
    known = {name: value for name, value in body.items() if name not in NAMES}
    return {**known, "identity_id": person, "steps": 1, "n": 1}


def test_every_answer_is_one_that_the_openapi_names(client, live_url):
    schema = schemathesis.openapi.from_url(f"{live_url}/openapi.json")
    person = upload(client)
    asked = Counter()

    def probe(case):
        case.body = closer(case.body, person)
        answer = case.call(timeout=60)
        asked[case.operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    for found in schema.get_all_operations():
        drawn = given(case=found.ok().as_strategy())
        settings(max_examples=8, suppress_health_check=list(HealthCheck))(drawn(probe))()
    assert len({label for label, _ in asked}) == len(client.app.openapi()["paths"])
    # Requests that go all the way are among them.
    assert asked["POST /v1/generate", 200]
