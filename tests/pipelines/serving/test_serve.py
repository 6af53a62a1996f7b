"""One local Ray Serve with the real pocket generator."""

from __future__ import annotations

import base64
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from pipelines.client import Client, Generation, Retry, Step
from pipelines.session import ray_session
from tests.pipelines.serving.conftest import portrait

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


SETTINGS = {"max_queue": 8, "key_hashes": []}


@pytest.fixture(scope="module")
def address():
    from ray import serve

    from pipelines.serve import build

    with ray_session("local", num_cpus=4):
        serve.start(http_options={"host": "127.0.0.1", "port": 8765})
        serve.run(build(SETTINGS))
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


def kill_generation() -> None:
    """Ends every generation replica without a word."""
    import ray

    names = [
        entry["name"]
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if entry["namespace"] == "serve" and "#Generation#" in entry["name"]
    ]
    assert names
    for name in names:
        ray.kill(ray.get_actor(name, namespace="serve"))


def test_a_picture_survives_the_death_of_its_replica(address):
    killed = False
    last = None
    # The client does not ask again: the service does.
    with Client(address, retry=Retry(attempts=1)) as api:
        for event in api.stream("a person", photos=[portrait(0)], steps=30):
            last = event
            if isinstance(event, Step) and not killed:
                killed = True
                kill_generation()
    assert killed
    assert isinstance(last, Generation)


@pytest.mark.slow
def test_no_request_is_lost_while_a_new_version_is_rolled_out(address):
    from ray import serve

    from pipelines.serve import build

    photo = base64.b64encode(portrait(0)).decode()
    body = {"prompt": "a person", "photos": [photo], "steps": 2, "response": "image"}
    rolled_out = threading.Event()

    def ask() -> list[int]:
        codes = []
        with httpx.Client(timeout=120) as http:
            # And one more, of the new version only.
            last = False
            while not last:
                last = rolled_out.is_set()
                codes.append(http.post(f"{address}/v1/generate", json=body).status_code)
        return codes

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(ask) for _ in range(2)]
        try:
            serve.run(build({**SETTINGS, "max_prompt_chars": 77}))
        finally:
            rolled_out.set()
        answers = [code for caller in callers for code in caller.result()]
    assert answers == [200] * len(answers)
    assert len(answers) >= 4
    assert httpx.get(f"{address}/v1/settings").json()["max_prompt_chars"] == 77
