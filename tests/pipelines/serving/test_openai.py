"""OpenAI's own client against the local server."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from infinite_id.types import AI_GENERATED
from tests.pipelines.serving.conftest import portrait, upload

PROMPT = "a {subject} on the beach"


@pytest.fixture(scope="module")
def api(live_url):
    with openai.OpenAI(base_url=f"{live_url}/v1", api_key="any", max_retries=0) as api:
        yield api


def photo(person: int) -> tuple[str, bytes, str]:
    return (f"{person}.png", portrait(person), "image/png")


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def test_generations_are_the_pictures_of_our_own_endpoint(api, client):
    key = upload(client)
    made = api.images.generate(
        prompt=PROMPT,
        model="infinite_id",
        n=2,
        size="64x64",
        response_format="b64_json",
        user="someone",
        extra_body={"identity_id": key, "seed": 7, "steps": 2},
    )
    body = {"prompt": PROMPT, "identity_id": key, "seed": 7, "steps": 2, "n": 2}
    own = client.post("/v1/generate", json=body).json()["images"]
    assert [image.b64_json for image in made.data] == [image["data"] for image in own]
    assert (made.size, made.output_format) == ("64x64", "png")
    assert AI_GENERATED.encode() in base64.b64decode(made.data[0].b64_json)


@pytest.mark.parametrize("photos", [photo(0), [photo(0), photo(1)]], ids=["one", "several"])
def test_edits_show_the_person_in_the_photos(api, client, photos):
    made = api.images.edit(
        image=photos, prompt=PROMPT, output_format="webp", extra_body={"seed": "7", "steps": "2"}
    )
    files = [("photos", one) for one in (photos if isinstance(photos, list) else [photos])]
    key = client.post("/v1/identities", files=files).json()["identity_id"]
    body = {"prompt": PROMPT, "identity_id": key, "seed": 7, "steps": 2, "response": "image"}
    own = client.post("/v1/generate", json=body).content
    pictures = [pixels(base64.b64decode(made.data[0].b64_json)), pixels(own)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_methods_are_listed_as_models(api):
    assert [model.id for model in api.models.list()] == ["infinite_id", "text_only"]


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"response_format": "url"}, 400, "unsupported_value", "response_format"),
        ({"model": "dall-e-3"}, 404, "model_not_found", "model"),
        ({"size": "64x4096"}, 400, "out_of_range", "size"),
        ({"size": "large"}, 400, "invalid_request", "size"),
        ({"n": 9}, 400, "out_of_range", "n"),
        ({"style": "vivid"}, 400, "unknown_style", "style"),
        ({"extra_body": {}}, 400, "who", "identity_id"),
        ({"extra_body": {"identity_id": "id_nobody"}}, 404, "unknown_identity", None),
        ({"extra_body": {"identity_id": "x", "mask": "x"}}, 400, "invalid_request", "mask"),
    ],
)
def test_errors_are_exceptions_of_the_client(api, client, change, status, code, param):
    wanted = {"prompt": PROMPT, "extra_body": {"identity_id": upload(client)}, **change}
    with pytest.raises(openai.APIStatusError) as refused:
        api.images.generate(**wanted)
    error = refused.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.type == "invalid_request_error"
    assert error.body["message"].endswith(".")


def test_photos_that_cannot_be_used(api):
    with pytest.raises(openai.BadRequestError) as refused:
        api.images.edit(image=("a.png", b"words", "image/png"), prompt=PROMPT)
    assert refused.value.code == "not_an_image"


def test_edits_without_a_photo_are_refused(live_url):
    answer = httpx.post(f"{live_url}/v1/images/edits", data={"prompt": PROMPT})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "code": "who",
        "message": "image is missing, allowed: photos.",
        "type": "invalid_request_error",
        "param": "image",
    }
