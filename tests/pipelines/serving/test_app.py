"""The endpoints over the real pocket generator."""

from __future__ import annotations

import base64
import gc
import io
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from infinite_id.config import preset
from infinite_id.faces.detection import find_faces
from infinite_id.faces.photos import decode_photo
from infinite_id.identity.encoders import load_identity_encoder
from infinite_id.methods import load_generator
from infinite_id.types import AI_GENERATED, GenerationRequest, Identity
from pipelines.serving import faces
from tests.pipelines.serving.conftest import portrait, upload

BODY = {"prompt": "a {subject} on the beach", "steps": 2, "seed": 7}


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def offline(person: int, seed: int) -> np.ndarray:
    family = preset("pocket")
    encoder = load_identity_encoder(family.encoders)
    aligned = find_faces(decode_photo(portrait(person)), encoder.faces, select="single")[0][1]
    identity = Identity("someone", (aligned,), encoder.embed([aligned]))
    request = GenerationRequest(
        sample_id="x",
        identity_id="someone",
        method="infinite_id",
        prompt="a person on the beach",
        negative_prompt="",
        style="",
        seed=seed,
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=family.sampler.guidance_scale,
    )
    generator = load_generator("infinite_id", family)
    return generator.generate([request], {"someone": identity})[0].image


def test_batched_pictures_of_several_people_are_those_of_the_offline_pipeline(client):
    ids = [upload(client, person) for person in (0, 1)]
    batches = client.app.state.service.backend.batcher.batches
    batches.clear()

    def one(key: str) -> np.ndarray:
        answer = client.post("/v1/generate", json={**BODY, "identity_id": key, "response": "image"})
        return pixels(answer.content)

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(one, ids))
    assert list(batches) == [2]
    expected = [offline(person, 7) for person in (0, 1)]
    # Another batch size may round a pixel differently.
    difference = np.abs(np.stack(made).astype(int) - np.stack(expected))
    assert difference.max() <= 1
    assert np.abs(expected[0].astype(int) - expected[1]).max() > 1


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_files_are_marked_as_generated_and_carry_no_exif(client, kind):
    body = {**BODY, "identity_id": upload(client), "format": kind, "response": "image"}
    answer = client.post("/v1/generate", json=body)
    assert answer.headers["content-type"] == f"image/{kind}"
    assert AI_GENERATED.encode() in answer.content
    with Image.open(io.BytesIO(answer.content)) as image:
        assert not dict(image.getexif())


def test_several_pictures_of_a_mix_with_scores(client):
    mix = [{"identity_id": upload(client, i), "weight": 0.5} for i in (0, 1)]
    body = {**BODY, "mix": mix, "n": 2, "scores": True, "style": "anime"}
    made = client.post("/v1/generate", json=body).json()["images"]
    assert [image["seed"] for image in made] == [7, 8]
    assert len({image["data"] for image in made}) == 2
    assert "text_score" in made[0]["scores"]


def test_progress_comes_as_events(client):
    body = {**BODY, "photos": [base64.b64encode(portrait(0)).decode()], "stream": True}
    with client.stream("POST", "/v1/generate", json=body) as answer:
        names = [line[7:] for line in answer.iter_lines() if line.startswith("event: ")]
    assert names == ["queued", "step", "step", "result"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"style": "no such"}, "unknown_style"),
        ({"method": "no such"}, "unknown_method"),
        ({"prompt": "x" * 1001}, "out_of_range"),
        ({"prompt": "word " * 190}, "out_of_range"),
        ({"prompt": "  "}, "invalid_request"),
        ({"prompt": "a\0b"}, "invalid_request"),
        ({"negative_prompt": "a\0b"}, "invalid_request"),
        ({"identity_scale": 9}, "out_of_range"),
        ({"height": 100}, "out_of_range"),
        ({"width": 4096}, "out_of_range"),
        ({"steps": 0}, "invalid_request"),
        ({"steps": 1000}, "out_of_range"),
        ({"n": 9}, "out_of_range"),
        ({"seed": 2**63 - 1, "n": 2}, "out_of_range"),
        ({"photos": ["?"]}, "not_base64"),
        ({"mix": [{"identity_id": "a"}, {"identity_id": "b"}]}, "who"),
        ({"surprise": 1}, "invalid_request"),
    ],
)
def test_wrong_requests_are_refused_with_a_code_and_a_sentence(client, change, code):
    answer = client.post("/v1/generate", json={**BODY, "identity_id": upload(client), **change})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"].endswith(".")


def test_nan_guidance_is_refused(client):
    data = '{"prompt": "a", "identity_id": "x", "guidance_scale": NaN}'
    answer = client.post("/v1/generate", content=data, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


def grey(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("photo", "code"),
    [
        (b"words", "not_an_image"),
        (portrait(0)[:2000], "truncated"),
        (grey(16), "too_small"),
        (grey(128), "no_face"),
        (grey(7200), "too_large"),
    ],
    ids=["words", "truncated", "small", "no face", "52 megapixels"],
)
def test_photos_that_cannot_be_used(client, photo, code):
    answer = client.post("/v1/identities", files={"photos": ("p.png", photo)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)


def test_a_photo_that_cannot_be_used_is_let_go_at_once(client, monkeypatch):
    held = []

    def decode(*given):
        held.append(weakref.ref(image := decode_photo(*given)))
        return image

    monkeypatch.setattr(faces, "decode_photo", decode)
    gc.collect()
    # By itself Python finds what is kept in circles when there are many, however large.
    gc.disable()
    try:
        answer = client.post("/v1/identities", files={"photos": ("p.png", grey(1000))})
        assert answer.json()["error"]["code"] == "no_face"
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_full_queue_answers_503_at_once(client):
    body = {**BODY, "identity_id": upload(client), "n": 5, "steps": 8}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/generate", json=body), range(4)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert refused[0].headers["retry-after"]
    assert refused[0].json()["error"]["code"] == "overloaded"


def test_a_removed_person_is_unknown(client):
    key = upload(client)
    assert client.delete(f"/v1/identities/{key}").status_code == 204
    answer = client.post("/v1/generate", json={**BODY, "identity_id": key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_identity")


def test_a_picture_is_scored_against_a_person(client):
    files = {"image": ("p.png", portrait(0))}
    near = client.post("/v1/score", files=files, data={"identity_id": upload(client, 0)}).json()
    far = client.post("/v1/score", files=files, data={"identity_id": upload(client, 1)}).json()
    assert near["identity_facenet"] > far["identity_facenet"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/styles", "/v1/methods"])
def test_small_answers(client, path):
    assert client.get(path).status_code == 200


def test_large_bodies_are_refused_before_they_are_parsed(client):
    answer = client.post("/v1/generate", content=b"x" * (33 << 20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_mix_is_judged_by_its_weights(client):
    """All of one person and nothing of the other is judged as the one alone is."""
    ids = [upload(client, person) for person in (0, 1)]
    mix = [{"identity_id": key, "weight": weight} for key, weight in zip(ids, (1, 0), strict=True)]
    asked = {"prompt": "a {subject}", "mix": mix, "scores": True, "steps": 20}
    made = client.post("/v1/generate", json=asked).json()["images"][0]
    files = {"image": ("made.png", base64.b64decode(made["data"]))}
    alone = client.post("/v1/score", files=files, data={"identity_id": ids[0]}).json()
    for name in ("identity_facenet", "image_score"):
        assert made["scores"][name] == pytest.approx(alone[name], abs=1e-6), name
