"""Deadlines, full queues, and callers who leave."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from infinite_id.types import CancelledError
from pipelines.serving.worker import Deadline, Worker
from tests.pipelines.serving.conftest import another, portrait, upload

BODY = {"prompt": "a {subject} on the beach", "steps": 2, "seed": 7}


class Watched:
    """A generator that tells when it begins and writes down when it is stopped."""

    def __init__(self, inner) -> None:
        self.inner, self.revision = inner, inner.revision
        self.stops: list[str] = []
        self.begun, self.stopped = threading.Event(), threading.Event()

    def generate(self, requests, identities, **hooks):
        self.begun.set()
        try:
            return self.inner.generate(requests, identities, **hooks)
        except CancelledError as error:
            self.stops.append(str(error))
            self.stopped.set()
            raise


@pytest.fixture
def watched(client, monkeypatch):
    generators = client.app.state.service.backend.batcher._generators
    made = Watched(generators["infinite_id"])
    monkeypatch.setitem(generators, "infinite_id", made)
    return made


@contextmanager
def busy(worker: Worker):
    """The worker held by something slow."""
    end = threading.Event()
    holding = threading.Thread(
        target=lambda: asyncio.run(worker.run(Deadline(60), lambda: end.wait(60)))
    )
    holding.start()
    while worker._held == 0:
        time.sleep(0.01)
    yield
    end.set()
    holding.join()


def test_a_deadline_stops_the_work_between_steps(client, watched):
    body = {**BODY, "identity_id": upload(client), "steps": 100}
    # On a busy machine the first deadlines may pass before the generator begins.
    for seconds in (0.5, 1.0, 2.0):
        impatient = another(client, request_timeout_seconds=seconds)
        answer = impatient.post("/v1/generate", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
        if watched.begun.is_set():
            break
    assert watched.stopped.wait(60)


def test_a_deadline_counts_the_time_before_the_generator(client, watched):
    impatient = another(client, request_timeout_seconds=0.3)
    with busy(client.app.state.service.worker):
        answer = impatient.post("/v1/identities", files={"photos": ("p.png", portrait(0))})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


def test_a_deadline_counts_the_time_after_the_generator(client):
    impatient = another(client, request_timeout_seconds=3)
    key = upload(client)
    with busy(client.app.state.service.worker):
        answer = impatient.post("/v1/generate", json={**BODY, "identity_id": key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


@pytest.mark.parametrize("path", ["/v1/identities", "/v1/score", "/v1/generate"])
def test_a_full_face_queue_answers_503_at_once(client, monkeypatch, path):
    service = client.app.state.service
    key = upload(client)
    monkeypatch.setattr(service, "worker", Worker(1))
    with busy(service.worker):
        if path == "/v1/generate":
            answer = client.post(path, json={**BODY, "identity_id": key})
        else:
            name = "image" if path == "/v1/score" else "photos"
            answer = client.post(path, files={name: ("p.png", portrait(0))})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "2"
    service.worker.close()


@pytest.mark.parametrize("stream", [False, True])
def test_work_ends_between_steps_when_the_caller_leaves(client, live_url, watched, stream):
    body = {**BODY, "identity_id": upload(client), "steps": 100, "stream": stream}

    async def leave() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            url = f"{live_url}/v1/generate"
            if not stream:
                asked = asyncio.create_task(http.post(url, json=body))
                assert await asyncio.to_thread(watched.begun.wait, 60)
                asked.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asked
                return
            async with http.stream("POST", url, json=body) as answer:
                async for line in answer.aiter_lines():
                    if line == "event: step":
                        return

    asyncio.run(leave())
    assert watched.stopped.wait(60)
    assert "of 100 steps" in watched.stops[0]
