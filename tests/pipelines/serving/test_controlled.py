"""A service that was started with a ControlNet and with small faces made again."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from infinite_id.client.calls import GenerateOptions, generate_body
from infinite_id.client.results import Generation, Picture, Settings
from pipelines.serve import local_app
from pipelines.serving.config import ServiceConfig
from tests.pipelines.serving.conftest import LOOPBACK, portrait, upload

FACE = [[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]]
BODY: dict[str, Any] = {"prompt": "a {subject} on the beach", "steps": 4, "seed": 7}


@pytest.fixture(scope="module")
def held(controlnet_folder: str):
    config = ServiceConfig(
        controlnet=controlnet_folder,
        details={"share": 1.0, "margin": 0.2},
        methods=("infinite_id", "ip_adapter", "photomaker"),
        metrics=("face_found",),
        safety_check=None,
    )
    with TestClient(local_app(config), base_url=LOOPBACK) as client:
        yield client


@pytest.fixture(scope="module")
def person(held) -> str:
    return upload(held)


def text(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def made(client: TestClient, **values: Any) -> tuple[dict[str, Any], np.ndarray]:
    answer = client.post("/v1/generate", json={**BODY, **values})
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["images"]
    data = base64.b64decode(one["data"])
    return one, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_it_says_what_it_can(held, client) -> None:
    told = held.get("/v1/settings").json()
    assert (told["controlnet"], told["details"]) == (True, True)
    told = client.get("/v1/settings").json()
    assert (told["controlnet"], told["details"]) == (False, False)


def test_keypoints_and_a_control_picture_hold_its_pictures(held, person) -> None:
    plain, free = made(held, identity_id=person, details=False)
    points, by_points = made(held, identity_id=person, details=False, control_keypoints=FACE)
    lines = Image.new("RGB", (128, 128))
    lines.paste((255, 255, 255), (40, 20, 60, 100))
    shown, by_picture = made(
        held, identity_id=person, details=False, control_image=text(lines), control_streams="text"
    )
    for one, other in ((free, by_points), (by_points, by_picture), (free, by_picture)):
        assert np.abs(one - other).max() > 3
    assert len({one["sample_id"] for one in (plain, points, shown)}) == 3
    _, off = made(
        held,
        identity_id=person,
        details=False,
        control_keypoints=FACE,
        controlnet_conditioning_scale=0.0,
    )
    assert np.abs(off - free).max() <= 2


def test_small_faces_are_made_again_unless_a_request_says_no(held, person, client) -> None:
    usual, again = made(held, identity_id=person)
    said, same = made(held, identity_id=person, details=True)
    never, plain = made(held, identity_id=person, details=False)
    assert (usual["details"], said["details"], never["details"]) == (1, 1, None)
    assert np.array_equal(again, same)
    assert np.abs(again - plain).max() > 5
    assert usual["sample_id"] == said["sample_id"] != never["sample_id"]
    assert Picture.model_validate(usual).details == 1
    one, _ = made(client, identity_id=upload(client))
    assert one["details"] is None


def test_with_progress_and_a_picture_to_begin_with(held, person) -> None:
    scene = Image.open(io.BytesIO(portrait(3)))
    body = {**BODY, "identity_id": person, "image": text(scene), "control_keypoints": FACE}
    with held.stream("POST", "/v1/generate", json={**body, "stream": True}) as answer:
        names = [line[7:] for line in answer.iter_lines() if line.startswith("event: ")]
    assert names[0] == "queued"
    assert names[-1] == "result"
    assert set(names[1:-1]) == {"step"}


def test_the_client_sends_and_reads_both(held, person) -> None:
    options = GenerateOptions(steps=4, seed=7, control_keypoints=FACE, details=False)
    body = generate_body(BODY["prompt"], person, None, None, None, options)
    same, _ = made(held, identity_id=person, details=False, control_keypoints=FACE)
    read = Generation.of(held.post("/v1/generate", json=body).json(), body, LOOPBACK)
    assert read.pictures[0].sample_id == same["sample_id"]
    assert (read.pictures[0].details, read.request["details"]) == (None, False)
    told = Settings.model_validate(held.get("/v1/settings").json())
    assert (told.controlnet, told.details) == (True, True)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            {"control_image": text(Image.new("RGB", (128, 64)))},
            "out_of_range",
            "control_image is 128 x 64 px for a picture of 64 x 64 px, which would stretch",
        ),
        (
            {"control_keypoints": FACE, "method": "photomaker"},
            "not_taken",
            "control_image is given to method 'photomaker', allowed with it: none",
        ),
        (
            {"control_keypoints": FACE, "method": "ip_adapter", "control_streams": "text"},
            "not_taken",
            "method 'ip_adapter' has no text stream, allowed: both",
        ),
        (
            {"control_keypoints": [[1.5, 0.4], *FACE[1:]]},
            "invalid_request",
            "control_keypoints",
        ),
        ({"details": "some"}, "invalid_request", "details"),
    ],
)  # fmt: skip
def test_what_it_refuses(held, person, change, code, message) -> None:
    answer = held.post("/v1/generate", json={**BODY, "identity_id": person, **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, code)
    assert message in error["message"]


def test_details_need_a_service_that_makes_them(client) -> None:
    body = {**BODY, "identity_id": upload(client), "details": True}
    answer = client.post("/v1/generate", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_details")
    expected = "This service makes no small face again, allowed: no details."
    assert answer.json()["error"]["message"] == expected
