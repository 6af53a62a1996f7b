"""One application with the real pocket generators, in this process."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.serve import local_app
from pipelines.serving.app import create_app
from pipelines.serving.config import ServiceConfig

# What a browser on this machine would ask for: without keys no other host is served.
LOOPBACK = "http://127.0.0.1"
ASSETS = Path(__file__).parents[2] / "assets"


def portrait(person: int) -> bytes:
    """A 256 px photo of someone who does not exist."""
    buffer = io.BytesIO()
    with Image.open(ASSETS / f"person{person}_0.png") as image:
        image.resize((256, 256)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def client():
    config = ServiceConfig(batch_wait_seconds=0.3, max_queue=8)
    with TestClient(local_app(config), base_url=LOOPBACK) as client:
        yield client


@pytest.fixture(scope="session")
def live_url(client):
    """The same application over real HTTP on loopback."""
    # The application has started already: a second start would load the models again.
    config = uvicorn.Config(
        client.app, host="127.0.0.1", port=0, lifespan="off", log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < until
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=30)


def another(client: TestClient, **settings: Any) -> TestClient:
    """The same loaded service behind other settings of the ingress."""
    app = create_app(ServiceConfig(**settings), lambda: None)
    app.state.service = client.app.state.service
    return TestClient(app, base_url=LOOPBACK)


def upload(client: TestClient, person: int = 0, **more: Any) -> str:
    """The id of an uploaded person."""
    photos = {"photos": ("p.png", portrait(person))}
    answer = client.post("/v1/identities", files=photos, **more)
    assert answer.status_code == 201, answer.text
    return answer.json()["identity_id"]
