"""What the service says of itself is what it does."""

from __future__ import annotations

import json

import pytest

from tests.pipelines.serving.conftest import portrait, upload

BODY = {"prompt": "a {subject} on the beach", "steps": 2}


def told(answer) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert error["message"].endswith(".")
    return answer.status_code, error["code"], error["message"]


def test_the_openapi_names_errors_keys_streams_and_pictures(client):
    document = client.get("/openapi.json").json()
    made = document["paths"]["/v1/generate"]["post"]["responses"]
    kinds = {"application/json", "text/event-stream", "image/png", "image/webp", "image/jpeg"}
    assert set(made["200"]["content"]) == kinds
    for path, operations in document["paths"].items():
        for operation in operations.values():
            wanted = {"400", "413", "503"}
            if path.startswith("/v1/"):
                wanted |= {"401", "404", "408", "422", "429", "504"}
                assert {"key": []} in operation["security"]
            assert wanted <= set(operation["responses"]), path
            for status, response in operation["responses"].items():
                if status >= "400":
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    assert "text/plain" in document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    ids = [o["operationId"] for p in document["paths"].values() for o in p.values()]
    assert len(set(ids)) == len(ids)


def test_settings_hold_every_limit_of_a_request(client):
    settings = client.get("/v1/settings").json()
    assert settings["max_prompt_tokens"] == 64
    assert (settings["min_side"], settings["side_step"]) == (32, 8)
    for name in ("max_images", "max_steps", "max_guidance", "max_identity_scale", "max_photos"):
        assert settings[name] > 0


def test_tokens_of_a_prompt_are_counted_with_its_style_and_checked(client):
    key = upload(client)
    bare = client.post("/v1/tokens", json={"prompt": BODY["prompt"]}).json()
    styled = client.post("/v1/tokens", json={"prompt": BODY["prompt"], "style": "anime"}).json()
    assert 2 < bare["tokens"] < styled["tokens"] < styled["max_tokens"] == 64
    long = {"prompt": "word " * 100, "identity_id": key}
    status, code, message = told(client.post("/v1/generate", json=long))
    assert (status, code) == (422, "out_of_range")
    assert "at most 64 with begin and end" in message
    files = {"image": ("p.png", portrait(0))}
    assert told(client.post("/v1/score", files=files, data={"prompt": "word " * 1900}))[:2] == (
        422,
        "out_of_range",
    )


@pytest.mark.parametrize(
    ("mode", "weights", "status"),
    [
        ("stack", (None, None), 200),
        ("stack", (0.5, 0.5), 422),
        ("interpolate", (0.3, 0.7), 200),
        ("interpolate", (None, None), 422),
        ("interpolate", (0.3, None), 422),
        ("interpolate", (1.5, -0.5), 422),
        ("interpolate", (0.3, 0.3), 422),
    ],
)
def test_weights_mean_one_thing(client, mode, weights, status):
    mix = [{"identity_id": upload(client, n)} for n in (0, 1)]
    for part, weight in zip(mix, weights, strict=True):
        if weight is not None:
            part["weight"] = weight
    answer = client.post("/v1/generate", json={**BODY, "mix": mix, "mix_mode": mode})
    assert answer.status_code == status


def test_an_identity_scale_changes_the_picture_and_its_name(client):
    key = upload(client)
    answers = [
        client.post("/v1/generate", json={**BODY, "identity_id": key, **more}).json()["images"][0]
        for more in ({}, {"identity_scale": 0.0}, {"identity_scale": 0.5})
    ]
    assert len({one["data"] for one in answers}) == 3
    assert len({one["sample_id"] for one in answers}) == 3


def test_what_is_no_json_is_a_sentence(client):
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/generate", content=b'{"prompt": }', headers=headers)
    assert told(answer) == (
        422,
        "invalid_request",
        "The body is no JSON: Expecting value at character 11.",
    )


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/styles", "/page/page.js", "/metrics"])
def test_head_is_answered_as_get(client, live_url, path):
    import httpx

    answer = httpx.head(live_url + path)
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize("path", ["/v1/models/none", "/v1/images/none"])
def test_openais_routes_have_openais_errors(client, path):
    error = client.get(path).json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "param" in error
    assert client.get("/v1/models/infinite_id").json()["object"] == "model"


def test_a_photo_with_several_faces_comes_back_with_them(client):
    import io

    from PIL import Image

    sheet = Image.new("RGB", (512, 256), "grey")
    for number in (0, 1):
        sheet.paste(Image.open(io.BytesIO(portrait(number))), (number * 256, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    answer = client.post("/v1/identities", files={"photos": ("p.png", buffer.getvalue())})
    status, code, message = told(answer)
    assert (status, code) == (422, "several_faces")
    assert message.startswith("The photo cannot be used: 2 faces found")
    faces = answer.json()["error"]["faces"]
    assert faces[0]["bbox"][2] < 256 < faces[1]["bbox"][0]
    assert json.loads(answer.text)["error"]["photo"] == 0


def test_metrics_tell_routes_latencies_batches_and_refusals(client):
    key = upload(client)
    client.post("/v1/generate", json={**BODY, "identity_id": key})
    client.post("/v1/generate", json={**BODY, "identity_id": "none"})
    text = client.get("/metrics").text
    for wanted in (
        'requests_total{method="POST",route="/v1/generate",status="200"}',
        'requests_total{method="POST",route="/v1/generate",status="404"}',
        'request_seconds_bucket{le="0.005",route="/v1/generate"}',
        'rejected_total{code="unknown_identity"}',
        'batch_seconds_count{method="infinite_id"}',
        "batch_pictures_count ",
        "queue_pictures 0.0",
        "people_bytes ",
    ):
        assert f"infinite_id_service_{wanted}" in text, wanted
