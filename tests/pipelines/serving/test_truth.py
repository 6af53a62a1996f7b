"""What the service says of itself is what it does."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess

import openapi_spec_validator
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.test_monitoring import EXPRESSIONS, SERVICE_NAME, labels_of
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
                # Of OpenAI's paths 422 is 400.
                if "/images/" in path or "/models" in path:
                    wanted.remove("422")
                    assert "422" not in operation["responses"]
                assert ("415" in operation["responses"]) == ("requestBody" in operation)
            assert wanted <= set(operation["responses"]), path
            for status, response in operation["responses"].items():
                if status >= "400":
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    for path in ("/v1/identities", "/v1/score", "/v1/images/edits"):
        body = document["paths"][path]["post"]["requestBody"]["content"]
        assert list(body) == ["multipart/form-data"]
    edit = document["components"]["schemas"]["EditForm"]["properties"]
    assert edit["image"]["items"]["format"] == "binary"
    assert "image[]" not in edit
    assert "text/plain" in document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    ids = [o["operationId"] for p in document["paths"].values() for o in p.values()]
    assert len(set(ids)) == len(ids)


def test_the_openapi_keeps_the_rules_that_redocly_recommends(client):
    """What a CI without npm can ask: the document is whole, and nothing in it is left unused."""
    document = client.get("/openapi.json").json()
    openapi_spec_validator.validate(document)
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert all("example.com" not in server["url"] for server in document["servers"])
    text = json.dumps(document["paths"]) + json.dumps(document["components"]["schemas"])
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is not used"
    patterns = [re.sub(r"\{\w+\}", "*", path) for path in document["paths"]]
    assert len(set(patterns)) == len(patterns)
    for path, operations in document["paths"].items():
        assert "?" not in path
        assert not path.endswith("/")
        told = set(re.findall(r"\{(\w+)\}", path))
        for operation in operations.values():
            assert operation["summary"]
            assert re.fullmatch(r"\w+", operation["operationId"])
            assert "security" in operation
            assert any(status < "300" for status in operation["responses"])
            assert any(status >= "400" for status in operation["responses"])
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == told


def test_redocly_finds_nothing_in_the_openapi(client, need, tmp_path):
    redocly = shutil.which("redocly")
    need("redocly", redocly is not None, "npm install --global @redocly/cli")
    document = tmp_path / "openapi.json"
    document.write_text(client.get("/openapi.json").text)
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    done = subprocess.run(
        [redocly, "lint", "--extends=recommended", "--format=json", document],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = json.loads(done.stdout)
    assert found["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}, found["problems"]


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


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"previews": 3}, "previews is 3 without stream, allowed: with stream."),
        ({"face": "largest"}, "face is largest without photos, allowed: with photos."),
        ({"mix_mode": "stack"}, "mix_mode is stack without mix, allowed: with mix."),
        (
            {"response": "image", "scores": True},
            "response is image, allowed: one picture without stream and scores.",
        ),
        ({"prompt": "\u200b \u2060"}, "prompt: the text is blank."),
    ],
)
def test_nothing_that_is_asked_for_is_left_out_in_silence(client, given, sentence):
    body = {**BODY, "identity_id": upload(client), **given}
    status, code, message = told(client.post("/v1/generate", json=body))
    assert (status, code, message.removeprefix("body: ")) == (422, "invalid_request", sentence)


def test_one_person_is_mixed_with_others(client):
    key = upload(client)
    body = {**BODY, "mix": [{"identity_id": key, "weight": 0.5}] * 2}
    assert told(client.post("/v1/generate", json=body))[2] == (
        "mix is of one person several times, allowed: each person once."
    )


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/v1/images/edits", {"prompt": "a person", "negative_prompt": "\0"}),
        ("/v1/images/edits", {"prompt": "a\0person"}),
        ("/v1/score", {"prompt": "\0"}),
        ("/v1/identities", {"class_word": "\0"}),
        ("/v1/identities", {"class_word": " "}),
    ],
)
def test_forms_refuse_the_character_nul_and_blank_words(client, path, data):
    names = {"/v1/identities": "photos"}
    files = {names.get(path, "image"): ("p.png", portrait(0))}
    status, code, message = told(client.post(path, files=files, data=data))
    assert (status, code) == (400 if "images" in path else 422, "invalid_request")
    assert message.partition(": ")[2] in ("the text holds the character NUL.", "the text is blank.")


@pytest.mark.parametrize(
    ("path", "kind", "allowed"),
    [
        ("/v1/generate", "text/plain", "application/json"),
        ("/v1/tokens", "application/x-www-form-urlencoded", "application/json"),
        ("/v1/images/generations", "multipart/form-data; boundary=x", "application/json"),
        ("/v1/identities", "application/json", "multipart/form-data or application/x-www-"),
        ("/v1/score", "text/xml", "multipart/form-data or application/x-www-"),
    ],
)
def test_a_body_of_another_kind_is_415(client, path, kind, allowed):
    answer = client.post(path, content=b"{}", headers={"content-type": kind})
    status, code, message = told(answer)
    assert (status, code) == (415, "wrong_content_type")
    kind = kind.partition(";")[0]
    assert message.startswith(f"Content-Type is '{kind}', allowed: {allowed}")


def test_a_body_that_is_packed_is_415_and_a_request_names_one_host(client, live_url):
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.post("/v1/tokens", content=b"{}", headers=packed)
    assert told(answer)[:2] == (415, "wrong_content_encoding")
    host, port = live_url.removeprefix("http://").split(":")
    for hosts in ("", f"Host: {host}\r\nHost: evil.example\r\n"):
        with socket.create_connection((host, int(port)), 30) as one:
            one.sendall(f"GET /v1/styles HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
            assert one.recv(4096).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection((host, int(port)), 30) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/nothing", (404, "unknown_path")),
        ("PUT", "/v1/models", (405, "wrong_method")),
        ("POST", "/v1/identities", (400, "invalid_request")),
    ],
)
def test_what_no_route_answers_is_a_sentence_too(client, method, path, wanted):
    headers = {"content-type": "multipart/form-data"} if method == "POST" else {}
    answer = client.request(method, path, headers=headers, content=b"--x")
    status, code, message = told(answer)
    assert (status, code) == wanted
    assert not message.endswith("..")


def test_a_form_has_so_many_parts(client):
    files = [("photos", (f"{n}.png", b"")) for n in range(65)]
    assert told(client.post("/v1/identities", files=files))[:2] == (400, "invalid_request")
    assert told(client.post("/v1/identities", files=files[:9]))[:2] == (422, "out_of_range")


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
    # What the board and the alerts ask for is there, with the labels that they ask for.
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    for expression in EXPRESSIONS:
        for name in SERVICE_NAME.findall(expression):
            assert labels_of(expression) <= found[name], expression


@pytest.mark.parametrize(
    ("path", "fields", "sentence"),
    [
        ("/v1/identities", {"clas_word": "man"}, "'clas_word' is no field, allowed: photos, "),
        ("/v1/identities", {"class_word": ["man", "woman"]}, "class_word is given 2 times"),
        ("/v1/score", {"promt": "a person"}, "'promt' is no field, allowed: image, prompt, "),
        ("/v1/images/edits", {"prompt": "a person", "seed": ["1", "2"]}, "seed is given 2 times"),
    ],
)
def test_no_field_of_a_form_is_passed_over(client, path, fields, sentence):
    name = "photos" if path == "/v1/identities" else "image"
    answer = client.post(path, files={name: ("p.png", portrait(0))}, data=fields)
    status, code, message = told(answer)
    assert (status, code) == (400 if "images" in path else 422, "invalid_request")
    assert sentence in message
