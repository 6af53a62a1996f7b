"""The service puts a person into a picture: JSON, OpenAI's form, our client."""

from __future__ import annotations

import asyncio
import base64
import io

import numpy as np
import openai
import pytest
from PIL import Image

from infinite_id.client import Client
from infinite_id.faces.keypoints import draw_kps
from pipelines.serving.bodies import GenerateBody
from pipelines.serving.errors import ServiceError
from pipelines.serving.pictures import Pictures
from pipelines.serving.worker import Deadline
from tests.pipelines.serving.conftest import portrait, upload

FACE = [[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]]
BODY = {"prompt": "a {subject} on the beach", "steps": 4, "seed": 7}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def left_white(size: int = 256) -> Image.Image:
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (0, 0, size // 2, size))
    return mask


def test_a_person_in_an_uploaded_picture(client, live_url):
    """What is outside the mask stays; the client and OpenAI's form make the same picture."""
    scene, mask, key = portrait(3), left_white(), upload(client)
    asked = {"image": text(scene), "mask_image": text(png(mask)), "strength": 1.0}
    body = {**BODY, **asked, "identity_id": key}
    made = client.post("/v1/generate", json=body).json()["images"][0]
    picture, given = pixels(base64.b64decode(made["data"])), pixels(scene).reshape(64, 4, 64, 4, 3)
    apart = np.abs(picture - given.mean(axis=(1, 3))).mean(axis=(0, 2))
    assert apart[40:].mean() < 0.5 * apart[:24].mean()
    plain = client.post("/v1/generate", json={**BODY, "identity_id": key}).json()["images"][0]
    assert plain["sample_id"] != made["sample_id"]

    with Client(live_url) as api:
        same = api.generate(
            BODY["prompt"], identity=key, steps=4, seed=7, image=scene, mask_image=png(mask),
            strength=1.0,
        )  # fmt: skip
    assert (same.pictures[0].sample_id, text(same.pictures[0].data)) == (
        made["sample_id"],
        made["data"],
    )
    assert set(same.request) & {"image", "mask_image"} == set()

    clear = Image.new("RGBA", (256, 256), (0, 0, 0, 255))
    clear.putalpha(Image.eval(mask, lambda value: 255 - value))
    with openai.OpenAI(base_url=f"{live_url}/v1", api_key="any", max_retries=0) as api:
        edited = api.images.edit(
            image=("scene.png", scene, "image/png"),
            mask=("mask.png", png(clear), "image/png"),
            prompt=BODY["prompt"],
            extra_body={"identity_id": key, "seed": "7", "steps": "4", "strength": "1"},
        )
    assert edited.data[0].b64_json == made["data"]

    cut = Image.open(io.BytesIO(scene)).convert("RGBA")
    cut.putalpha(clear.getchannel("A"))
    form = {"prompt": BODY["prompt"], "identity_id": key, "seed": 7, "steps": 4, "strength": 1}
    answer = client.post("/v1/images/edits", data=form, files={"image": png(cut)}).json()
    own, given = pixels(base64.b64decode(answer["data"][0]["b64_json"])), given.mean(axis=(1, 3))
    apart = np.abs(own - given).mean(axis=(0, 2))
    assert apart[40:].mean() < 0.5 * apart[:24].mean()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"image": "nothing"}, "not_base64", "A photo is not valid base64."),
        ({"image": text(b"words")}, "not_an_image", "image cannot be used: the 5 bytes are no"),
        ({"mask_image": text(png(left_white(64)))}, "out_of_range",
         "mask_image is 64 x 64 px and image 256 x 256 px, allowed: two of one size."),
        ({"mask_image": text(png(Image.new("L", (256, 256))))}, "out_of_range",
         "mask_image is black everywhere, allowed"),
        ({"strength": 0.2}, "out_of_range", "strength is 0.2, which leaves none of 4 steps, allow"),
        ({"strength": 1.5}, "invalid_request", "strength"),
        ({"width": 128}, "out_of_range", "image is 256 x 256 px for a picture of 128 x 64 px, whi"),
        ({"image": None, "strength": 0.5}, "invalid_request", "strength is 0.5 without image"),
        ({"image": None, "mask_image": "x"}, "invalid_request", "mask_image is given without imag"),
        ({"control_image": text(portrait(3))}, "no_controlnet", "This service has no ControlNet"),
        ({"control_streams": "text"}, "invalid_request", "control_streams is text without"),
        ({"control_image": "x", "control_keypoints": FACE}, "invalid_request", "are both given"),
        ({"control_keypoints": FACE[:4]}, "invalid_request", "control_keypoints"),
    ],
)  # fmt: skip
def test_what_is_refused(client, change, code, message):
    body = {**BODY, "image": text(portrait(3)), "identity_id": upload(client), **change}
    answer = client.post("/v1/generate", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, code)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("data", "files", "message"),
    [
        ({}, {"mask": portrait(0)}, "mask is given without identity_id, allowed: with identity_id"),
        ({"strength": "0.5"}, {}, "strength is given without identity_id, allowed"),
        (
            {"identity_id": "KEY"},
            {"mask": portrait(0)},
            "mask cannot be used: the picture has no t",
        ),
        ({"identity_id": "KEY", "face": "largest"}, {}, "face is given with identity_id, allowed"),
    ],
)
def test_what_openais_form_is_refused(client, data, files, message):
    known = {name: upload(client) if one == "KEY" else one for name, one in data.items()}
    answer = client.post(
        "/v1/images/edits",
        data={"prompt": "a person", **known},
        files={"image": portrait(3), **files},
    )
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("infinite_id", {}, None),
        ("photomaker", {}, "control_image is given to method 'photomaker', allowed with it: none"),
        ("timed", {"image": "x"}, "image is given to method 'timed', allowed with it: none"),
        ("ip_adapter", {"control_streams": "text"}, "method 'ip_adapter' has no text stream"),
        (
            "infinite_id",
            {"control_guidance_start": 0.8, "control_guidance_end": 0.2},
            "control_guidance_start is 0.8",
        ),
        (
            "infinite_id",
            {"control_keypoints": None, "control_image": text(b"words")},
            "control_image cannot be used",
        ),
    ],
)
def test_control_pictures_are_made_of_a_body(client, method, values, message):
    service = client.app.state.service
    body = GenerateBody(**{**BODY, "control_keypoints": FACE, **values})
    pictures = Pictures(service.worker, service.limits, True, "mixed")
    work = pictures.of(Deadline(10.0), body, method, (64, 96), 4)
    if message is None:
        begun, held = asyncio.run(work)
        assert begun is None
        assert held is not None
        expected = draw_kps(np.array(FACE) * (96, 64), 64, 96)
        np.testing.assert_array_equal(held.image, expected)
        return
    with pytest.raises(ServiceError, match=message):
        asyncio.run(work)
