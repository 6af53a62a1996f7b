"""A client that openapi-python-client makes of the service's OpenAPI, against the service."""

from __future__ import annotations

import base64
import importlib
import io
import json
import sys

import pytest
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType
from openapi_python_client.parser.errors import ErrorLevel

from tests.pipelines.serving.conftest import portrait


@pytest.fixture(scope="module")
def made(client, tmp_path_factory):
    """The generated package; nothing of the OpenAPI may be left out of it."""
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_text(json.dumps(client.get("/openapi.json").json()))
    # It knows pictures only as bytes.
    told = ConfigFile(
        post_hooks=[], content_type_overrides={"image/jpeg": "application/octet-stream"}
    )
    config = Config.from_sources(
        told,
        MetaType.NONE,
        document_source=document,
        file_encoding="utf-8",
        overwrite=True,
        output_path=folder / "generated_client",
    )
    errors = [error for error in generate(config=config) if error.level in list(ErrorLevel)]
    assert errors == []
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"generated_client.{name}")
    sys.path.remove(str(folder))


def test_a_generated_client_makes_a_picture_and_reads_errors(made, live_url):
    models, files = made("models"), made("types").File
    api = made("client").Client(base_url=live_url, timeout=60)
    photo = files(io.BytesIO(portrait(0)), "photo.png", "image/png")
    person = made("api.default.add_identity").sync(
        client=api, body=models.BodyAddIdentity(photos=[photo])
    )
    assert len(person.faces) == 1
    body = models.GenerateBody("a {subject}", identity_id=person.identity_id, steps=2)
    (picture,) = made("api.default.generate").sync(client=api, body=body).images
    assert base64.b64decode(picture.data).startswith(b"\x89PNG")
    assert made("api.default.settings").sync(client=api).max_prompt_tokens == 64
    assert "infinite_id" in {one.name for one in made("api.default.methods").sync(client=api)}
    edit = models.EditForm("a {subject}", image=[photo], steps=2)
    assert len(made("api.default.edits").sync(client=api, body=edit).data) == 1
    refused = made("api.default.generate").sync(
        client=api, body=models.GenerateBody("a", identity_id="nobody")
    )
    assert refused.error.code == "unknown_identity"
    assert made("api.default.metrics").sync_detailed(client=api).status_code == 200
