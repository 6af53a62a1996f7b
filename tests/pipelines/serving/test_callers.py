"""What is settled from a request's headers alone, and what strangers cost."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from infinite_id.types import Identity, IdentityEmbedding
from pipelines.serve import check_address
from pipelines.serving.app import create_app
from pipelines.serving.callers import Callers, is_loopback, network
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError
from pipelines.serving.guard import Guard
from pipelines.serving.keys import KeyRing, hash_key, new_key
from pipelines.serving.measures import Measures
from pipelines.serving.people import People, Person
from pipelines.serving.words import Blocklist

KEY = new_key()


def scope(path: str = "/v1/styles", client: str = "192.0.2.1", **headers: str) -> dict:
    rows = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": path, "method": "POST", "headers": rows, "client": [client, 1]}


def code(callers: Callers, **asked) -> str | None:
    try:
        return callers.owner(scope(**asked))
    except ServiceError as error:
        return error.code


def ask(guard: Guard, asked: dict, messages: list[dict]) -> tuple[int, int]:
    """(status, messages of the body that were read)."""
    told, read = [], 0

    async def receive() -> dict:
        nonlocal read
        if read == len(messages):
            await asyncio.sleep(60)
        read += 1
        return messages[read - 1]

    async def send(message: dict) -> None:
        told.append(message)

    asyncio.run(asyncio.wait_for(guard(asked, receive, send), 20))
    return told[0]["status"], read


def guarded(**settings) -> Guard:
    async def reading(scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def take(deadline, owner) -> None:
        pass

    callers = Callers(KeyRing([hash_key(KEY)]), (), 5)
    return Guard(reading, ServiceConfig(**settings), Measures(), callers, take)


PART = {"type": "http.request", "body": b"x" * 1000, "more_body": True}


@pytest.mark.parametrize("length", ["31457280", "99999999999"])
def test_without_a_key_nothing_of_a_body_is_read(length):
    asked = scope("/v1/generate", **{"content-length": length})
    assert ask(guarded(), asked, [PART] * 9) == (401, 0)


def test_bytes_count_as_they_come_and_silence_ends_an_upload():
    guard = guarded(upload_idle_seconds=0.2, max_inflight_bytes=32 << 20)
    begin = time.monotonic()
    asked = scope("/v1/generate", authorization=f"Bearer {KEY}", **{"content-length": "30000000"})
    seen = []

    async def receive() -> dict:
        seen.append(guard.held)
        if len(seen) > 1:
            await asyncio.sleep(60)
        return PART

    told = []

    async def send(message: dict) -> None:
        told.append(message)

    asyncio.run(guard(asked, receive, send))
    assert told[0]["status"] == 408
    assert seen == [0, 1000]
    assert guard.held == 0
    assert time.monotonic() - begin < 5


def test_twenty_keys_cost_a_stranger_no_more_than_one():
    ring = KeyRing([hash_key(new_key()) for _ in range(200)])
    begin = time.monotonic()
    for _ in range(1000):
        with pytest.raises(ServiceError):
            ring.owner(f"Bearer {KEY}")
    # scrypt took 50 ms a hash: three hours for these.
    assert time.monotonic() - begin < 5


def test_wrong_keys_of_one_address_are_limited_and_right_ones_pass():
    callers = Callers(KeyRing([hash_key(KEY)]), (), failures_per_minute=3)
    wrong = [code(callers, authorization="Bearer x") for _ in range(5)]
    assert wrong == ["wrong_key"] * 3 + ["too_many_failures"] * 2
    assert code(callers, authorization=f"Bearer {KEY}") == f"key-{KEY[4:12]}"
    assert code(callers, client="192.0.2.2", authorization="Bearer x") == "wrong_key"
    assert code(callers, client="192.0.2.2") == "no_key"
    assert [code(callers, client="192.0.2.2") for _ in range(2)] == ["no_key", "too_many_failures"]


def test_who_tries_keys_waits_for_each_answer_and_takes_no_place_of_others():
    guard = guarded(max_connections=20)
    wrong, right = (scope(authorization=f"Bearer {key}") for key in ("x", KEY))
    for _ in range(5):
        assert ask(guard, dict(wrong), [])[0] == 401

    async def one(asked: dict, done: list) -> None:
        async def receive() -> dict:
            return {"type": "http.request", "body": b""}

        async def send(message: dict) -> None:
            if message["type"] == "http.response.start":
                done.append((message["status"], time.monotonic() - begin))

        await guard(dict(asked), receive, send)

    async def crowd() -> None:
        trying = [asyncio.create_task(one(wrong, refused)) for _ in range(15)]
        await asyncio.sleep(0.1)
        await asyncio.gather(*(one(right, served) for _ in range(8)))
        await asyncio.gather(*trying)

    refused: list[tuple[int, float]] = []
    served: list[tuple[int, float]] = []
    begin = time.monotonic()
    asyncio.run(crowd())
    assert {status for status, _ in refused} == {429}
    assert {status for status, _ in served} == {200}
    # A tenth of the places wait; more are told at once.
    assert sum(seconds >= 1 for _, seconds in refused) == 2
    assert max(seconds for _, seconds in served) < 1
    assert guard.active == 0


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"host": "127.0.0.1:8000"}, "anonymous"),
        ({"host": "localhost"}, "anonymous"),
        ({"host": "[::1]:8000"}, "anonymous"),
        ({"host": "evil.example"}, "wrong_host"),
        ({"host": "localhost.evil.example:8000"}, "wrong_host"),
        ({}, "wrong_host"),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, "anonymous"),
        ({"host": "localhost:8000", "origin": "https://page.example"}, "anonymous"),
        ({"host": "localhost:8000", "origin": "http://evil.example"}, "wrong_origin"),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, "wrong_origin"),
        ({"host": "localhost:8000", "origin": "null"}, "wrong_origin"),
    ],
)
def test_a_service_without_keys_answers_its_own_machine_alone(headers, told):
    callers = Callers(KeyRing(()), ("https://page.example",), 9)
    assert code(callers, **headers) == told


def test_probes_need_neither_a_host_nor_a_key():
    assert Callers(KeyRing(()), (), 9).owner(scope("/healthz", host="10.0.0.7")) is None
    assert Callers(KeyRing([hash_key(KEY)]), (), 9).owner(scope("/metrics")) is None


def test_keys_of_a_file_count_and_a_wrong_file_is_told(tmp_path):
    path = tmp_path / "hashes"
    path.write_text(f"# of the page\n\n{hash_key(KEY)}\n")
    app = create_app(ServiceConfig(key_file=str(path)), lambda: None)
    assert code(app.state.callers, authorization=f"Bearer {KEY}") == f"key-{KEY[4:12]}"
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="which holds no key hash"):
        create_app(ServiceConfig(key_file=str(path)), lambda: None)
    with pytest.raises(ValueError, match="which cannot be read"):
        create_app(ServiceConfig(key_file=str(tmp_path / "no")), lambda: None)


class Client:
    """Serve's, as far as `check_address` reads it."""

    def __init__(self, host: str) -> None:
        self.http_config = type("Options", (), {"host": host})


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "::"])
def test_ray_serve_is_not_open_to_other_machines(monkeypatch, host):
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda **_: Client(host))
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with pytest.raises(ValueError, match=f"host is {host}, allowed without key_hashes"):
        check_address(ServiceConfig())
    check_address(ServiceConfig(key_hashes=(hash_key(KEY),)))


def person(name: str, owner: str, photos: int) -> Person:
    embedding = IdentityEmbedding(np.zeros(128, np.float32), np.zeros((4, 8), np.float16), "x")
    return Person(Identity(name, (), embedding), (), "", owner, (bytes(photos),))


def test_large_uploads_of_one_key_push_out_their_own():
    people = People(60, 100, 10_000)
    for number in range(3):
        people.add(person(f"quiet{number}", "b", 100))
    for number in range(20):
        people.add(person(f"loud{number}", "a", 3000))
    for number in range(3):
        assert people.get(f"quiet{number}", "b")
    with pytest.raises(ServiceError) as refused:
        people.add(person("huge", "a", 20_000))
    assert (refused.value.status, refused.value.code) == (413, "person_too_large")
    assert people.get("quiet0", "b")


@pytest.mark.parametrize(
    "prompt",
    [
        "a naked man",
        "naked_man",
        "na\u200bked",
        "na\u00adked",
        "ｎａｋｅｄ",
        "n.a.k.e.d",
        "n a k e d woman",
        "NAKED!",
        "na-ked",
        "nákèd",
        "under a red_light",
        "a n\u0430ked man",
        "n_\u0430_k_\u0435_d",
        "\u039d\u0391\u039a\u0395D",
        "red l\u0456ght",
        "RED L\u0406GHT",
        "r\u01ddd light",
        "n\u1d00ked",
        "\U0001f17d\U0001f170\U0001f17a\U0001f174\U0001f173",
    ],
)
def test_words_of_the_blocklist_are_found_however_they_are_written(prompt):
    assert Blocklist(["naked", "red light"]).finds(prompt)


@pytest.mark.parametrize("prompt", ["a snake", "nakedness", "red lights", "a man", "p\u043e\u0442"])
def test_other_words_pass(prompt):
    assert not Blocklist(["naked", "red light"]).finds(prompt)


def test_an_accent_elsewhere_makes_no_i_of_an_l():
    ali = Blocklist(["Ali"])
    assert not ali.finds("a café where all people smile")
    assert ali.finds("a café with Аlі")  # a Cyrillic A and i
    assert Blocklist(["villain"]).finds("a viⅼⅼain")  # Roman numeral fifty


def test_a_word_without_letters_is_refused():
    with pytest.raises(ValueError, match="blocked_words has '__'"):
        Blocklist(["__"])


def test_an_ipv4_caller_of_a_socket_of_both_families_is_one_of_ipv4():
    assert network("::ffff:192.0.2.1") == "192.0.2.1"
    assert network("::ffff:192.0.2.2") != network("::ffff:192.0.2.1")
    assert network("2001:db8::1") == network("2001:db8::2")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:192.0.2.1")
