"""Who may ask, how often, from where, and what is written down."""

from __future__ import annotations

import base64
import hashlib
import io
import sqlite3
import subprocess
import time
from contextlib import closing, suppress

import numpy as np
import pytest

from infinite_id.types import Identity, IdentityEmbedding
from jobs.serve import serve
from pipelines.serving.audit import AuditLog
from pipelines.serving.callers import Callers
from pipelines.serving.errors import ServiceError
from pipelines.serving.keys import KeyRing, RateLimit, hash_key, new_key
from pipelines.serving.people import People, Person
from tests.full_disk import files_of_at_most
from tests.pipelines.serving.conftest import another, portrait, upload

RIGHT, OTHER = new_key(), new_key()
BODY = {"prompt": "a {subject} beside a zeppelin", "steps": 2, "seed": 7}


@pytest.fixture
def keyed(client, monkeypatch):
    """The service with two keys, RIGHT and OTHER."""
    ring = KeyRing([hash_key(RIGHT), hash_key(OTHER)])
    callers = Callers(ring, (), failures_per_minute=1000)
    for name, value in vars(callers).items():
        monkeypatch.setattr(client.app.state.callers, name, value)
    return client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "no_key"),
        ({"Authorization": f"Basic {RIGHT}"}, "no_key"),
        (bearer("wrong"), "wrong_key"),
        (bearer(new_key()), "wrong_key"),
        (bearer(f"{RIGHT}x"), "wrong_key"),
        (bearer(RIGHT[:13] + OTHER[13:]), "wrong_key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/styles", "/v1/models"])
def test_a_request_without_the_right_key_is_401(keyed, headers, code, path):
    answer = keyed.get(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_right_key_is_let_in_and_probes_need_none(keyed):
    assert keyed.get("/v1/styles", headers=bearer(RIGHT)).status_code == 200
    # As a shell's $(cat key) and some clients write it.
    spaced = {"Authorization": f"bearer  {RIGHT} "}
    assert keyed.get("/v1/styles", headers=spaced).status_code == 200
    assert keyed.get("/readyz").status_code == 200


def test_a_person_belongs_to_the_key_that_uploaded_them(keyed):
    sent = {"photos": ("p.png", portrait(0))}
    key = keyed.post("/v1/identities", files=sent, headers=bearer(RIGHT)).json()["identity_id"]
    body = {**BODY, "identity_id": key}
    other = keyed.post("/v1/generate", json=body, headers=bearer(OTHER))
    assert (other.status_code, other.json()["error"]["code"]) == (404, "unknown_identity")
    assert keyed.post("/v1/generate", json=body, headers=bearer(RIGHT)).status_code == 200


def test_a_photo_is_shown_to_its_uploader_and_only_where_it_was_kept(keyed):
    sent = {"photos": ("p.png", portrait(0))}
    keys = [
        keyed.post("/v1/identities", files=sent, data=data, headers=bearer(RIGHT)).json()
        for data in ({"keep_photos": "true"}, {})
    ]
    kept, not_kept = (f"/v1/identities/{key['identity_id']}/photos/" for key in keys)
    for path, who, wanted in (
        (kept + "0", RIGHT, (200, None)),
        (kept + "0", OTHER, (404, "unknown_identity")),
        (kept + "1", RIGHT, (404, "no_photo")),
        (not_kept + "0", RIGHT, (404, "no_photo")),
    ):
        answer = keyed.get(path, headers=bearer(who))
        code = answer.json()["error"]["code"] if answer.is_error else None
        assert (answer.status_code, code) == wanted


@pytest.mark.parametrize("host", ["192.0.2.1", "::", "example.org"])
def test_only_loopback_is_served_without_keys(capsys, host):
    with pytest.raises(SystemExit) as left:
        serve(host=host)
    assert left.value.code == 2
    sentence = (
        f"error: host is {host}, allowed without key_hashes and key_file: 127.0.0.1, ::1, localhost"
    )
    assert capsys.readouterr().err.strip() == sentence


def test_hashes_are_salted_and_hold_no_key():
    first, second = hash_key(RIGHT), hash_key(RIGHT)
    assert first != second
    ring = KeyRing([first])
    assert ring.owner(f"Bearer {RIGHT}") == f"key-{RIGHT[4:12]}"
    assert RIGHT[13:] not in first + repr(vars(ring))


def test_a_hash_of_an_earlier_version_says_how_to_renew_it():
    sentence = "hash number 1 is an scrypt hash of an earlier version, .* serve --new-key"
    with pytest.raises(ValueError, match=sentence):
        KeyRing([f"{'0' * 32}${'0' * 128}"])
    with pytest.raises(ValueError, match="number 2 has the ID"):
        KeyRing([hash_key(RIGHT), hash_key(RIGHT)])


def test_the_rate_of_a_key_is_limited(keyed, monkeypatch):
    monkeypatch.setattr(keyed.app.state.service.state, "rates", RateLimit(2))
    codes = [keyed.get("/v1/styles", headers=bearer(RIGHT)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    refused = keyed.get("/v1/styles", headers=bearer(RIGHT))
    assert 1 <= int(refused.headers["retry-after"]) <= 31
    assert refused.json()["error"]["code"] == "rate_limited"
    assert keyed.get("/v1/styles", headers=bearer(OTHER)).status_code == 200


def test_every_picture_has_a_row_without_prompt_or_photo(keyed, monkeypatch, tmp_path):
    service = keyed.app.state.service
    path = tmp_path / "audit.sqlite"
    monkeypatch.setattr(service, "audit", AuditLog(str(path)))
    begin = time.time()
    photo = base64.b64encode(portrait(0)).decode()
    body = {**BODY, "photos": [photo], "n": 2}
    made = keyed.post("/v1/generate", json=body, headers=bearer(RIGHT)).json()["images"]
    service.audit.close()
    with closing(sqlite3.connect(path)) as base:
        rows = base.execute("SELECT * FROM pictures ORDER BY seed").fetchall()
    assert len(rows) == 2
    owner = f"key-{RIGHT[4:12]}"
    for (at, *row), picture in zip(rows, made, strict=True):
        assert begin <= at <= time.time()
        digest = hashlib.sha256(base64.b64decode(picture["data"])).hexdigest()
        seed = str(picture["seed"])
        assert row == [owner, picture["sample_id"], "infinite_id", seed, digest]
    assert b"zeppelin" not in path.read_bytes()


def test_a_picture_that_cannot_be_written_down_is_not_sent(keyed, monkeypatch, tmp_path, caplog):
    service, path = keyed.app.state.service, tmp_path / "audit.sqlite"
    monkeypatch.setattr(service, "audit", AuditLog(str(path)))
    body = {**BODY, "identity_id": upload(keyed, headers=bearer(RIGHT))}
    ask = {"url": "/v1/generate", "json": body, "headers": bearer(RIGHT)}
    assert keyed.post(**ask).status_code == 200
    with files_of_at_most(100):
        refused = keyed.post(**ask)
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "audit_failed")
    assert refused.json()["error"]["message"].startswith("The service cannot write down that the")
    # Whoever runs the service learns what is wrong, and it goes on.
    assert f"audit_path {path} cannot be written: d" in caplog.text
    assert keyed.get("/readyz").status_code == 200
    assert keyed.post(**ask).status_code == 200
    service.audit.close()
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("SELECT count(*) FROM pictures").fetchone() == (2,)


def test_an_audit_on_a_disk_that_is_read_only_is_refused(tmp_path, need):
    def mount(*words: str) -> bool:
        done = subprocess.run(["mount", *words, tmp_path], capture_output=True, check=False)
        return done.returncode == 0

    need("mount", mount("-t", "tmpfs", "tmpfs"), "to mount a disk needs root")
    try:
        AuditLog(str(tmp_path / "old.sqlite")).close()
        assert mount("-o", "remount,ro")
        for name, reason in {
            "old.sqlite": "attempt to write a readonly database",
            "new.sqlite": "unable to open database file",
        }.items():
            message = f"audit_path is '{tmp_path / name}', which cannot be used: {reason}"
            with pytest.raises(ValueError, match=message):
                AuditLog(str(tmp_path / name))
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_prompts_are_not_in_the_log(client, caplog):
    caplog.set_level("DEBUG")
    for change in ({}, {"style": "no such"}, {"prompt": "zeppelin " * 190}):
        client.post("/v1/generate", json={**BODY, "identity_id": upload(client), **change})
    assert "zeppelin" not in caplog.text


def test_pages_of_other_hosts_are_let_in_only_where_they_are_listed(client):
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    closed = another(client).options("/v1/generate", headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    listed = another(client, cors_origins=["https://page.example"])
    told = listed.options("/v1/generate", headers=asked).headers
    assert told["access-control-allow-origin"] == "https://page.example"
    # Errors as well, or the page could not read them.
    failed = listed.post("/v1/generate", headers={**asked, "content-length": "99999999"})
    assert failed.status_code == 413
    assert failed.headers["access-control-allow-origin"] == "https://page.example"
    stranger = listed.options("/v1/generate", headers={**asked, "Origin": "https://other.example"})
    assert "access-control-allow-origin" not in stranger.headers


def person(name: str, owner: str = "a", photos: tuple[bytes, ...] = ()) -> Person:
    crop = np.zeros((112, 112, 3), np.uint8)
    embedding = IdentityEmbedding(np.zeros(128, np.float32), np.zeros((4, 8), np.float16), "x")
    return Person(Identity(name, (crop,), embedding), (), "", owner, photos)


def kept(people: People, *names: tuple[str, str]) -> list[str]:
    found = []
    for name, owner in names:
        with suppress(ServiceError):
            found.append(people.get(name, owner).identity.identity_id)
    return found


def test_people_are_bounded_by_bytes():
    size = person("x").nbytes
    assert size == 112 * 112 * 3 + 4 * 128 + 2 * 32
    people = People(60, 100, 2 * size + 1)
    for name in "abc":
        people.add(person(name))
    assert kept(people, ("a", "a"), ("b", "a"), ("c", "a")) == ["b", "c"]


def test_a_key_that_uploads_without_end_pushes_out_its_own():
    people = People(60, 3)
    people.add(person("quiet", "b"))
    for number in range(20):
        people.add(person(f"loud{number}"))
    assert kept(people, ("quiet", "b"), ("loud18", "a"), ("loud19", "a"), ("loud0", "a")) == [
        "quiet",
        "loud18",
        "loud19",
    ]


def test_large_uploads_of_one_key_cost_no_other_key_a_person():
    size = person("x").nbytes
    people = People(60, 100, 10 * size)
    quiet = [(f"quiet{n}", "b") for n in range(3)]
    for name, owner in quiet:
        people.add(person(name, owner))
    for number in range(20):
        people.add(person(f"large{number}", photos=(bytes(2 * size),)))
    with pytest.raises(ServiceError, match="larger than the memory"):
        people.add(person("huge", photos=(bytes(9 * size),)))
    assert kept(people, *quiet) == [name for name, _ in quiet]


def test_of_two_keys_with_as_much_the_one_that_uploads_loses():
    people = People(60, 3)
    for name, owner in (("b0", "b"), ("b1", "b"), ("a0", "a"), ("a1", "a")):
        people.add(person(name, owner))
    assert kept(people, ("b0", "b"), ("b1", "b"), ("a0", "a"), ("a1", "a")) == ["b0", "b1", "a1"]


def test_gps_and_rotation_of_a_photo(client):
    """A photo that lies on its side is turned, and nothing of its EXIF comes back."""
    from PIL import Image

    upright = Image.open(io.BytesIO(portrait(0))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    buffer = io.BytesIO()
    upright.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    turned = client.post("/v1/identities", files={"photos": ("p.png", buffer.getvalue())}).json()
    plain = client.post("/v1/identities", files={"photos": ("p.png", portrait(0))}).json()
    np.testing.assert_allclose(turned["faces"][0]["bbox"], plain["faces"][0]["bbox"], atol=2)
    assert b"GPS" not in base64.b64decode(turned["faces"][0]["crop_png"])
    kept = client.post(
        "/v1/identities", files={"photos": ("p.png", buffer.getvalue())}, data={"keep_photos": "1"}
    ).json()
    assert (turned["photos_kept"], kept["photos_kept"]) == (0, 1)
    answer = client.get(f"/v1/identities/{kept['identity_id']}/photos/0")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    photo = Image.open(io.BytesIO(answer.content))
    assert not photo.getexif()
    assert np.abs(np.asarray(photo).astype(int) - np.asarray(upright)).mean() < 6
