"""One application with the real pocket generators, in this process."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.serve import local_app
from pipelines.serving.config import ServiceConfig

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
    with TestClient(local_app(config)) as client:
        yield client


def upload(client: TestClient, person: int = 0) -> str:
    """The id of an uploaded person."""
    answer = client.post("/v1/identities", files={"photos": ("p.png", portrait(person))})
    assert answer.status_code == 201, answer.text
    return answer.json()["identity_id"]
