"""One local Ray Serve with the real pocket generator."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from pipelines.session import ray_session
from tests.pipelines.serving.conftest import portrait

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def address():
    from ray import serve

    from pipelines.serve import build

    with ray_session("local", num_cpus=4):
        serve.start(http_options={"host": "127.0.0.1", "port": 8765})
        serve.run(build({"max_queue": 8, "key_hashes": []}))
        yield "http://127.0.0.1:8765"
        serve.shutdown()


def test_pictures_by_ray_serve_are_those_of_one_process(address, client):
    body = {
        "prompt": "a {subject} on the beach",
        "photos": [base64.b64encode(portrait(0)).decode()],
        "steps": 2,
        "response": "image",
    }
    assert httpx.get(f"{address}/readyz").status_code == 200
    answers = [
        httpx.post(f"{address}/v1/generate", json=body, timeout=60),
        client.post("/v1/generate", json=body),
    ]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    images = [np.asarray(Image.open(io.BytesIO(answer.content))) for answer in answers]
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1


def test_errors_of_replicas_keep_their_code(address):
    photo = base64.b64encode(portrait(0)).decode()
    body = {"prompt": "word " * 190, "photos": [photo], "steps": 2}
    answer = httpx.post(f"{address}/v1/generate", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "refused")


def test_the_page_is_served(address):
    assert "page/page.js" in httpx.get(address).text
    assert httpx.get(f"{address}/page/page.js").status_code == 200


def test_progress_streams_through(address):
    photo = base64.b64encode(portrait(0)).decode()
    body = {"prompt": "a", "photos": [photo], "steps": 2, "stream": True}
    with httpx.stream("POST", f"{address}/v1/generate", json=body, timeout=60) as answer:
        names = [line[7:] for line in answer.iter_lines() if line.startswith("event: ")]
    assert names == ["queued", "step", "step", "result"]
