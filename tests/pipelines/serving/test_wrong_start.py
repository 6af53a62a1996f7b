"""`infinite-id serve` refuses what it cannot do in a sentence, before anything heavy is loaded."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from pipelines.serving.config import ServiceConfig
from pipelines.serving.keys import hash_key, new_key
from pipelines.settings import load_settings

# What each takes a good part of a second, or seconds, to load.
HEAVY = (
    *("torch", "diffusers", "transformers", "ray", "cv2", "onnx", "onnxruntime"),
    *("pyarrow", "pandas", "fastapi", "httpx"),
)
FIRST = "port is {port} on 127.0.0.1, which cannot be used: Address already in use"
# Options, and how the sentence begins.
WRONG = {
    "used port": (["--port", "{port}"], FIRST),
    "used port, other weights": (["--port", "{port}", "--preset", "sdxl"], FIRST),
    "no port": (["--port", "70000"], "port is 70000, allowed: 0 to 65535"),
    "other machines": (["--host", "192.0.2.1"], "host is 192.0.2.1, allowed without key_hashes"),
    "no file": (["--config", "none.yaml"], "config file none.yaml does not exist"),
    "no key of the settings": (["--set", "nonsense=1"], "the command line: unknown key 'nonsense'"),
    "out of range": (["--set", "max_batch=0"], "the command line: max_batch is 0"),
    "no method": (["--set", "methods=[x]"], "the command line: method is 'x', allowed: dreambooth"),
    "no words": (["--set", "blocked_words=['-']"], "the command line: blocked_words has '-'"),
    "no hash": (["--set", "key_hashes=[x]"], "the command line: key hash number 1 is malformed"),
    "no keys": (["--set", "key_file=/none"], "key_file is '/none', which cannot be read"),
    "no origin": (
        ["--set", "cors_origins=['https://a.example/']"],
        "the command line: cors_origins has 'https://a.example/', allowed: a scheme, a host in",
    ),
    "no folder": (
        ["--set", "audit_path=/none/a.db"],
        "audit_path is '/none/a.db', which cannot be used: unable to open database file",
    ),
    "no check": (["--set", "safety_check='none:x'"], "safety_check is 'none:x', its module does"),
}
CODE = """
import contextlib, io, json, sys
from jobs.cli import main

told = {}
for name, options in json.loads(sys.argv[1]).items():
    sys.argv = ["infinite-id", "serve", *options]
    code = None
    try:
        main()
    except SystemExit as left:
        code = left.code
    told[name] = [code, [one for one in json.loads(HEAVY) if one in sys.modules]]
    print("end of a case", file=sys.stderr)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def refusals():
    """Of each wrong start: exit code, heavy modules, what was said."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {
            name: [option.replace("{port}", port) for option in options]
            for name, (options, _) in WRONG.items()
        }
        code = CODE.replace("HEAVY", repr(json.dumps(HEAVY)))
        command = [sys.executable, "-c", code, json.dumps(given)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = [part.strip() for part in done.stderr.split("end of a case")[:-1]]
    told = json.loads(done.stdout.splitlines()[-1])
    return {
        name: (*told[name], text.replace(port, "{port}"))
        for name, text in zip(WRONG, said, strict=True)
    }


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_start_is_a_sentence_before_anything_heavy_is_loaded(refusals, name):
    code, heavy, said = refusals[name]
    assert (code, heavy) == (2, [])
    assert said.startswith(f"error: {WRONG[name][1]}"), said
    assert "\n" not in said


def test_right_settings_pass():
    origins = ["https://a.example", "http://[::1]:8080", "chrome-extension://x", "*"]
    given = {"cors_origins": origins, "blocked_words": ["naked"]}
    checked = load_settings(ServiceConfig, **given, key_hashes=[hash_key(new_key())])
    assert checked.cors_origins == tuple(given["cors_origins"])


@pytest.mark.parametrize(
    "origin",
    ["*", "https://A.example", "https://a.example:443", "http://a.example:80", "a.example"],
)
def test_origins_that_no_browser_sends_are_refused(origin):
    with pytest.raises(
        ValueError, match=r"cors_origins has .*, allowed: a scheme, a host in small"
    ):
        load_settings(ServiceConfig, cors_origins=[origin])
