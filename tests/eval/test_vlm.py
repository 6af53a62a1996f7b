"""The vision-language judge against a real HTTP server that answers as an OpenAI endpoint does."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

import eval.judges.vlm as vlm
from eval.judges.control import control_people
from eval.judges.given import GivenJudges
from eval.judges.vlm import VlmJudge
from eval.suite import load_suite
from pipelines.settings import BenchmarkConfig

KEY = "sk-secret-of-the-test"
PICTURE = control_people()[0][0]
REFERENCE = control_people()[0][1]
PROMPT = "a person at {the beach}"


class Endpoint:
    """What was asked, and what is answered: (status, content of the message) in turn."""

    def __init__(self):
        self.asked, self.answers = [], []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append((self.path, self.headers["Authorization"], body))
                status, content = (
                    endpoint.answers.pop(0) if endpoint.answers else (200, '{"score": 8}')
                )
                data = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(vlm, "_FIRST_WAIT", 0.0)
    found = Endpoint()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def judge(endpoint, tmp_path):
    return VlmJudge(endpoint.address, "judge-7b", KEY, folder=tmp_path / "answers")


def _pictures(body):
    parts = [
        p["image_url"]["url"] for p in body["messages"][0]["content"] if p["type"] == "image_url"
    ]
    raw = [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in parts]
    return [np.asarray(Image.open(io.BytesIO(data))) for data in raw]


def test_the_prompt_is_asked_of_the_picture_alone(endpoint, judge):
    endpoint.answers = [(200, 'Here:\n```json\n{"reason": "a beach", "score": 7}\n```')]
    assert judge.score("prompt", PICTURE, PROMPT, [REFERENCE]) == 7
    ((path, authorization, body),) = endpoint.asked
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (body["model"], body["temperature"]) == ("judge-7b", 0)
    assert PROMPT in body["messages"][0]["content"][0]["text"]
    (shown,) = _pictures(body)
    assert np.array_equal(shown, PICTURE)


def test_the_person_is_asked_of_the_picture_and_the_references(endpoint, judge):
    endpoint.answers = [(200, '{"score": [3], "reason": "another nose"}')]
    assert judge.score("subject", PICTURE, PROMPT, [REFERENCE]) == 3
    body = endpoint.asked[0][2]
    first, second = _pictures(body)
    assert np.array_equal(first, PICTURE)
    assert np.array_equal(second, REFERENCE)
    assert PROMPT not in json.dumps(body)


def test_nothing_is_asked_twice_and_what_differs_is_asked(endpoint, judge, tmp_path):
    for _ in range(2):
        assert judge.score("prompt", PICTURE, PROMPT, []) == 8
    assert len(endpoint.asked) == 1
    again = VlmJudge(endpoint.address, "judge-7b", KEY, folder=tmp_path / "answers")
    assert again.score("prompt", PICTURE, PROMPT, []) == 8
    assert len(endpoint.asked) == 1
    again.score("prompt", PICTURE, "another prompt", [])
    again.score("prompt", REFERENCE, PROMPT, [])
    VlmJudge(endpoint.address, "judge-72b", KEY, folder=tmp_path / "answers").score(
        "prompt", PICTURE, PROMPT, []
    )
    assert len(endpoint.asked) == 4


@pytest.mark.parametrize("first", [(429, ""), (500, ""), (200, "no idea"), (200, '{"score": 11}')])
def test_it_asks_again_after_a_passing_fault(endpoint, judge, first):
    endpoint.answers = [first]
    assert judge.score("prompt", PICTURE, PROMPT, []) == 8
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    ("answer", "times", "reason"),
    [
        ((401, ""), 1, "the endpoint answered 401"),
        ((200, "I cannot judge people."), 4, "it holds no JSON object"),
        ((200, '{"score": true}'), 4, "its score is no number from 0 to 10"),
    ],
)
def test_without_an_answer_there_is_no_number_and_a_line_says_why(
    endpoint, judge, caplog, answer, times, reason
):
    endpoint.answers = [answer] * 4
    with caplog.at_level(logging.WARNING, "eval.judges.vlm"):
        assert np.isnan(judge.score("prompt", PICTURE, PROMPT, []))
    assert len(endpoint.asked) == times
    assert reason in caplog.text
    assert PROMPT not in caplog.text
    assert KEY not in caplog.text
    # It is asked again the next time.
    endpoint.answers = []
    assert judge.score("prompt", PICTURE, PROMPT, []) == 8


def test_nobody_there_is_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(vlm, "_FIRST_WAIT", 0.0)
    judge = VlmJudge("http://127.0.0.1:9/v1", "m", folder=tmp_path)
    assert np.isnan(judge.score("prompt", PICTURE, PROMPT, []))


def test_the_columns_of_a_suite(endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path))
    given = GivenJudges({"vlm": endpoint.address}, vlm_model="judge-7b", vlm_key=KEY)
    assert KEY not in repr(given)
    suite = load_suite(["vlm"], judges=given)
    endpoint.answers = [(200, '{"score": 4}'), (200, '{"score": 9}')]
    found = suite.score([PICTURE], ["x"], [[REFERENCE]])
    assert {name: values.tolist() for name, values in found.items()} == {
        "vlm_prompt": [4.0], "vlm_subject": [9.0], "vlm_overall": [6.0],
    }  # fmt: skip
    assert len(endpoint.asked) == 2
    assert suite.metrics["vlm_overall"].revision == "judge-7b, questions 1"
    alone = suite.score([PICTURE], ["x"], [[]])
    assert np.isnan(alone["vlm_subject"][0])
    assert alone["vlm_prompt"][0] == 4


def test_the_key_is_in_no_record_and_may_come_from_the_environment(monkeypatch):
    judges = {"vlm": "http://127.0.0.1:9/v1"}
    config = BenchmarkConfig(metrics=["vlm"], judges=judges, vlm_model="m", vlm_key=KEY)
    assert KEY not in json.dumps(config.record())
    assert KEY not in repr(config)
    assert config.given_judges().vlm_key == KEY
    monkeypatch.setenv("INFINITE_ID_VLM_KEY", "from-outside")
    assert BenchmarkConfig(judges=judges).given_judges().vlm_key == "from-outside"


@pytest.mark.parametrize(
    ("address", "model", "message"),
    [
        ("127.0.0.1:8000", "m", "judge vlm is '127.0.0.1:8000', allowed: an http or https address"),
        ("http://127.0.0.1:8000", "", "judge vlm has no model, allowed: vlm_model with its name"),
    ],
)
def test_a_wrong_endpoint_is_refused_before_any_picture(address, model, message):
    given = GivenJudges({"vlm": address}, vlm_model=model)
    with pytest.raises(ValueError, match=message):
        given.check({"vlm_prompt": ("vlm",)})
    with pytest.raises(ValueError, match=message):
        VlmJudge(address, model)


def test_nobody_is_asked_by_default():
    from eval.metrics import DEFAULT_METRICS, metric_names

    assert not [name for name in DEFAULT_METRICS if name.startswith("vlm")]
    assert "vlm_prompt" not in metric_names(None, ["vlm"])
