"""Sample people: listed, shipped, usable as an identity."""

from __future__ import annotations

import base64

import pytest

from pipelines.serving.errors import ServiceError
from pipelines.serving.keys import RateLimit
from pipelines.serving.page import sample_names
from pipelines.serving.words import Blocklist


@pytest.mark.parametrize("name", sample_names())
def test_every_sample_can_be_embedded(client, name):
    answer = client.post("/v1/identities", data={"sample": name})
    assert answer.status_code == 201, answer.text
    assert len(answer.json()["faces"]) == 1


def test_samples_are_png_files(client):
    rows = client.get("/v1/samples").json()
    assert len(rows) == 6
    assert all(base64.b64decode(row["png"]).startswith(b"\x89PNG") for row in rows)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"sample": "../README"}, "unknown_sample"),
        ({"sample": "nobody"}, "unknown_sample"),
        ({}, "who"),
    ],
)
def test_wrong_samples_are_refused(client, data, code):
    answer = client.post("/v1/identities", data=data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)


def test_a_key_gets_its_requests_a_minute_and_then_a_time_to_wait():
    now = [0.0]
    limit = RateLimit(2, clock=lambda: now[0])
    limit.take("a")
    limit.take("a")
    with pytest.raises(ServiceError) as refused:
        limit.take("a")
    assert (refused.value.status, refused.value.retry_after) == (429, 31)
    limit.take("b")
    now[0] = 31.0
    limit.take("a")


def test_a_blocked_word_in_the_class_word_is_refused(client, monkeypatch):
    service = client.app.state.service
    config = service.config.model_copy(update={"blocked_words": ("villain",)})
    monkeypatch.setattr(service, "config", config)
    monkeypatch.setattr(service, "_blocked", Blocklist(config.blocked_words))
    answer = client.post("/v1/identities", data={"sample": "person-1", "class_word": "Villain"})
    body = {"prompt": "a {subject}", "identity_id": answer.json()["identity_id"]}
    refused = client.post("/v1/generate", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "blocked_prompt")
