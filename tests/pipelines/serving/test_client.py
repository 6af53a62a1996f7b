"""The Python client against the real service, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from infinite_id.client import (
    AsyncClient,
    Client,
    Generation,
    Picture,
    Queued,
    Retry,
    ServiceError,
    Step,
)
from infinite_id.types import AI_GENERATED
from tests.pipelines.serving.conftest import portrait

ROOT = Path(__file__).parents[3]
ONCE = Retry(attempts=1)


@pytest.fixture
def api(live_url):
    with Client(live_url) as api:
        api.wait_until_ready()
        yield api


def test_pictures_are_saved_as_delivered_beside_what_made_them(api, tmp_path):
    person = api.add_identity(portrait(0))
    assert person.faces[0].crop_png.startswith(b"\x89PNG")
    made = api.generate("a {subject}", identity=person, seed=7, n=2, steps=2, scores=True)
    paths = made.save(tmp_path)
    assert [picture.seed for picture in made.pictures] == [7, 8]
    assert [path.read_bytes() for path in paths] == [picture.data for picture in made.pictures]
    assert AI_GENERATED.encode() in paths[0].read_bytes()
    text = paths[0].with_suffix(".json").read_text()
    about = json.loads(text)
    assert about["request"] == {"prompt": "a {subject}", "seed": 7, "n": 2, "steps": 2, "scores": 1}
    assert about["sha256"] == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert about["scores"] == made.pictures[0].scores
    assert person.identity_id not in text + repr(person) + repr(made)


def test_photos_are_kept_where_that_is_asked(api):
    person = api.add_identity(portrait(0), portrait(0), keep_photos=True)
    assert person.photos_kept == 2
    assert api.photo(person, 1).startswith(b"\xff\xd8")
    api.remove_identity(person)
    with pytest.raises(ServiceError, match="unknown or has expired"):
        api.photo(person)

    async def ask() -> bytes:
        async with AsyncClient(api.server) as other:
            kept = await other.add_identity(portrait(0), keep_photos=True)
            return await other.photo(kept)

    assert asyncio.run(ask()).startswith(b"\xff\xd8")


def test_events_of_a_mix_end_with_the_pictures(api):
    mix = {api.add_identity(sample="person-1"): 0.25, api.add_identity(sample="person-2"): 0.75}
    seen: list = []
    made = api.generate("a person", mix=mix, steps=2, on_event=seen.append)
    assert [event for event in seen if isinstance(event, Queued | Step)] == [
        Queued(pictures=1),
        Step(step=1, steps=2),
        Step(step=2, steps=2),
    ]
    assert seen[-1] is made
    assert made.request["mix_weights"] == [0.25, 0.75]


def test_people_of_a_stack_have_no_weights(api):
    people = [api.add_identity(sample=f"person-{n}") for n in (1, 2)]
    made = api.generate("a person", mix=people, mix_mode="stack", identity_scale=0.5, steps=2)
    assert made.request["mix_weights"] == [None, None]
    with pytest.raises(ServiceError, match="a stack with weights"):
        api.generate("a person", mix=dict.fromkeys(people, 0.5), mix_mode="stack", steps=2)


def test_asyncio_makes_the_same_picture(api, live_url):
    async def alone() -> Generation:
        async with AsyncClient(live_url) as other:
            person = await other.add_identity(sample="person-1")
            events = other.stream("a person", identity=person, steps=2)
            last = [event async for event in events][-1]
            again = await other.generate("a person", identity=person, steps=2)
            await other.remove_identity(person)
            assert again.pictures[0].data == last.pictures[0].data
            return last

    made = api.generate("a person", identity=api.add_identity(sample="person-1"), steps=2)
    assert asyncio.run(alone()).pictures[0].data == made.pictures[0].data


def test_small_answers_are_typed(api):
    assert api.methods()[0].name == "infinite_id"
    assert {style.style for style in api.styles()} >= {"anime", "sketch"}
    assert api.samples()[0].png.startswith(b"\x89PNG")
    settings = api.settings()
    assert (settings.preset, settings.height) == ("pocket", 64)
    assert {score.name for score in settings.scores} >= {"identity_facenet", "text_score"}
    assert "text_score" in api.score(portrait(0), prompt="a person")


@pytest.mark.parametrize("events", [False, True])
def test_errors_have_the_code_and_sentence_of_the_service(api, events):
    person = api.add_identity(portrait(0))
    on_event = [].append if events else None
    with pytest.raises(ServiceError) as refused:
        api.generate("a person", identity=person, style="no such", on_event=on_event)
    assert (refused.value.status, refused.value.code) == (422, "unknown_style")
    assert str(refused.value).startswith("The style is unknown, allowed: raw_photo")


def test_a_full_service_is_asked_again(api, live_url):
    person = api.add_identity(portrait(0))

    def patient(seed: int) -> Generation:
        with Client(live_url, retry=Retry(attempts=100, longest_wait=2)) as other:
            return other.generate("a person", identity=person, seed=seed, n=5, steps=6)

    codes = set()
    with Client(live_url, retry=ONCE) as hasty, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(patient, seed) for seed in range(0, 20, 5)]
        while not codes and not all(work.done() for work in waiting):
            try:
                hasty.generate("a person", identity=person, n=8, steps=1)
            except ServiceError as error:
                codes.add(error.code)
        assert [len(work.result().pictures) for work in waiting] == [5] * 4
    assert codes == {"overloaded"}


@contextlib.contextmanager
def answering(*answers: tuple[int, dict[str, str], bytes]):
    """A server that gives these answers one after the other: (its address, times of requests)."""
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[min(len(times), len(answers) - 1)]
            times.append(time.monotonic())
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            """Not on standard error."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", times
    server.shutdown()
    server.server_close()
    thread.join()


FULL = (
    503,
    {"Retry-After": "1"},
    b'{"error": {"code": "overloaded", "message": "Too many pictures wait already."}}',
)


def test_retry_after_is_waited_for():
    with answering(FULL, (200, {}, b"[]")) as (url, times), Client(url) as api:
        assert api.styles() == []
    assert times[1] - times[0] >= 1


def test_asyncio_waits_too():
    async def ask(url: str) -> list:
        async with AsyncClient(url) as api:
            return await api.styles()

    with answering(FULL, (200, {}, b"[]")) as (url, times):
        assert asyncio.run(ask(url)) == []
    assert times[1] - times[0] >= 1


def test_an_error_amid_the_events_is_asked_again():
    lost = b'event: error\ndata: {"code": "replica_lost", "message": "Lost.", "status": 503}\n\n'
    retry = Retry(attempts=3, first_wait=0.01)
    with (
        answering((200, {}, lost)) as (url, times),
        Client(url, retry=retry) as api,
        pytest.raises(ServiceError) as refused,
    ):
        list(api.stream("a person", identity="x"))
    assert (refused.value.code, len(times)) == ("replica_lost", 3)


def test_events_that_end_early_are_a_connection_error():
    queued = b'event: queued\ndata: {"pictures": 1}\n\n'
    with (
        answering((200, {}, queued)) as (url, _),
        Client(url) as api,
        pytest.raises(ConnectionError, match="ended without pictures"),
    ):
        list(api.stream("a person", identity="x"))


def test_a_page_of_a_proxy_is_an_error_with_a_sentence():
    with (
        answering((502, {}, b"<html>")) as (url, times),
        Client(url) as api,
        pytest.raises(ServiceError, match="The server answered 502 Bad Gateway") as refused,
    ):
        api.styles()
    assert (refused.value.code, len(times)) == ("http_502", 1)


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (
        Client(url, retry=Retry(attempts=2, first_wait=0.01)) as api,
        pytest.raises(ConnectionError, match=f"{url} cannot be reached"),
    ):
        api.styles()


def overloaded(retry_after: int | None, status: int = 503) -> ServiceError:
    return ServiceError(status, "overloaded", "Wait.", retry_after)


def test_waiting_times():
    retry = Retry(attempts=4, first_wait=1, longest_wait=10)
    assert 0.5 <= retry.wait(1, overloaded(None)) <= 1
    assert 2 <= retry.wait(3, overloaded(None)) <= 4
    assert retry.wait(1, overloaded(7)) == 7
    assert retry.wait(1, overloaded(7, status=429)) == 7
    assert retry.wait(4, overloaded(7)) is None
    assert retry.wait(1, overloaded(11)) is None
    assert retry.wait(1, overloaded(1, status=500)) is None


def test_a_server_cannot_choose_where_files_go():
    with pytest.raises(ValidationError):
        Picture(sample_id="../x", seed=0, method="m", seconds=0, format="png", data=b"", scores={})


def test_an_address_without_scheme_is_refused():
    with pytest.raises(ValueError, match="server is 'localhost:8000', allowed: http"):
        Client("localhost:8000")


def test_the_example_of_the_page_runs(live_url, tmp_path):
    blocks = re.findall(
        r"```python(?: notest)?\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL
    )
    (example,) = [block for block in blocks if "infinite_id.client" in block]
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={**os.environ, "INFINITE_ID_SERVER": live_url},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    named = [Path(line) for line in done.stdout.splitlines() if line.endswith(".png")]
    assert named
    assert all((tmp_path / path).with_suffix(".json").is_file() for path in named)
