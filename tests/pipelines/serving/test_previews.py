"""Unfinished pictures and failures amid the events of a stream."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infinite_id.client import Client, Preview
from infinite_id.types import AI_GENERATED
from pipelines.serve import local_app
from pipelines.serving.config import ServiceConfig
from pipelines.serving.safety import load_safety_check
from tests.pipelines.serving.conftest import portrait, upload

BODY = {"prompt": "a {subject} on the beach", "steps": 6, "seed": 7}


def events(client, **body: Any) -> list[tuple[str, dict]]:
    with client.stream("POST", "/v1/generate", json={**BODY, "stream": True, **body}) as answer:
        text = "".join(answer.iter_text())
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name[len("event: ") :], json.loads(data[len("data: ") :])) for name, data in blocks]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_previews_come_closer_to_the_picture(client, live_url):
    seen: list[Preview] = []
    with Client(live_url) as api:
        made = api.generate(
            "a {subject} on the beach",
            identity=upload(client),
            steps=6,
            n=2,
            previews=2,
            on_event=lambda event: seen.append(event) if isinstance(event, Preview) else None,
        )
    assert [(event.step, event.index) for event in seen] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert all(AI_GENERATED.encode() in event.image for event in seen)
    finals = [pixels(picture.data) for picture in made.pictures]
    errors = [np.abs(pixels(event.image) - finals[event.index]).mean() for event in seen]
    assert errors[2] < errors[0]
    assert errors[3] < errors[1]
    # Each is of its own picture.
    assert errors[2] < np.abs(pixels(seen[2].image) - finals[1]).mean()


def test_batch_mates_who_do_not_ask_see_none(client):
    keys = [upload(client, person) for person in (0, 1)]
    batches = client.app.state.service.backend.batcher.batches
    batches.clear()
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(events, client, identity_id=keys[0], previews=1)
        silent = pool.submit(events, client, identity_id=keys[1])
        names = [[name for name, _ in one.result()] for one in (asking, silent)]
    assert list(batches) == [2]
    assert names[0].count("preview") == 1
    assert "preview" not in names[1]


def test_too_many_previews_are_refused(client):
    body = {**BODY, "identity_id": upload(client), "previews": 99, "stream": True}
    answer = client.post("/v1/generate", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "out_of_range")


def nothing_is_safe(picture: np.ndarray) -> bool:
    assert picture.shape == (64, 64, 3)
    return False


def broken(picture: np.ndarray) -> bool:
    raise KeyError("a prompt that nobody should read")


@pytest.mark.parametrize(
    ("check", "status", "code"),
    [("nothing_is_safe", 422, "unsafe_picture"), ("broken", 500, "internal")],
)
def test_a_check_that_refuses_or_fails_keeps_pictures_back(
    client, monkeypatch, caplog, check, status, code
):
    service = client.app.state.service
    config = ServiceConfig(safety_check=f"{__name__}:{check}")
    monkeypatch.setattr(service, "_safety", load_safety_check(config))
    key = upload(client)
    answer = client.post("/v1/generate", json={**BODY, "identity_id": key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "Retry-After" not in answer.headers
    streamed = events(client, identity_id=key, previews=2)
    # The stream ends in good order, and an unsafe picture is not shown on the way either.
    assert "preview" not in [name for name, _ in streamed]
    assert [streamed[n][0] for n in (0, -1)] == ["queued", "error"]
    assert (streamed[-1][1]["status"], streamed[-1][1]["code"]) == (status, code)
    assert "nobody should read" not in caplog.text


@pytest.mark.parametrize("path", ["no_such_module:x", "json:no_such_function"])
def test_a_check_that_does_not_exist_is_found_before_a_model_is_loaded(path):
    with pytest.raises(ValueError, match=f"safety_check is '{path}'"):
        local_app(ServiceConfig(safety_check=path))


def test_unsafe_pictures_are_blurred_and_marked_where_that_is_set(client, monkeypatch):
    service = client.app.state.service
    body = {**BODY, "identity_id": upload(client), "steps": 2}
    sharp = pixels(
        base64.b64decode(client.post("/v1/generate", json=body).json()["images"][0]["data"])
    )
    check = load_safety_check(ServiceConfig(safety_check=f"{__name__}:nothing_is_safe"))
    monkeypatch.setattr(service, "_safety", check)
    monkeypatch.setattr(
        service, "config", service.config.model_copy(update={"unsafe_pictures": "blur"})
    )
    made = client.post("/v1/generate", json=body).json()["images"][0]
    assert made["blurred"] is True
    file = base64.b64decode(made["data"])
    assert AI_GENERATED.encode() in file
    assert np.abs(np.diff(pixels(file), axis=1)).max() < np.abs(np.diff(sharp, axis=1)).max() / 4
    answer = client.post("/v1/generate", json={**body, "response": "image"})
    assert answer.headers["x-blurred"] == "true"


def test_open_nsfw_is_the_check_unless_another_is_named():
    picture = np.asarray(Image.open(io.BytesIO(portrait(0))).convert("RGB"))
    assert load_safety_check(ServiceConfig())(picture) is True
    assert load_safety_check(ServiceConfig(safety_threshold=1e-6))(picture) is False
    assert load_safety_check(ServiceConfig(safety_check=None)) is None
