"""A run is resumed with what decides its pictures, however that is written and wherever it lies."""

from __future__ import annotations

import logging
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.plan.inputs import load_manifests
from pipelines.plan.made_from import MadeFrom, deciding_settings
from pipelines.plan.weights import RunWeights
from pipelines.run.folder import RunFolder
from pipelines.settings import BenchmarkConfig, load_config
from pipelines.synthesis.config import SynthesisConfig
from pipelines.tables import photo_digests as digests
from pipelines.tables.manifest import read_manifest
from pipelines.tables.photo_digests import photo_digests
from pipelines.tables.storage import Store

WEIGHTS = RunWeights("base", False, "embedded+pocket", {"infinite_id": "infinite_id-1"})


def _photos(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("anna/1.jpg", "anna/2.jpg", "ben.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(500_000))
    return root


@pytest.fixture
def photos(tmp_path):
    return _photos(tmp_path / "photos")


def _begin(output: Path, config: BenchmarkConfig, weights: RunWeights = WEIGHTS) -> RunFolder:
    folder = RunFolder(str(output), resume=True)
    settings = deciding_settings(config, config.family(), weights)
    made_from = MadeFrom(settings, load_manifests(config))
    made_from.claim(folder.store, folder.record, folder.update)
    return folder


def _config(photos: Path, **settings) -> BenchmarkConfig:
    return load_config(identities=str(photos), **settings)


def test_the_same_in_other_words_goes_on(tmp_path, photos):
    _begin(tmp_path / "run", _config(photos, seeds="0:2"))
    _begin(tmp_path / "run", _config(photos, seeds="0,1", height=64, width=64))
    _begin(tmp_path / "run", _config(photos, seeds="0:2", tracking_uri="none", address="local"))


@pytest.mark.parametrize("how", ["moved", "copied", "linked", "in a manifest"])
def test_moved_photos_go_on_and_are_read_where_they_lie(tmp_path, photos, how):
    _begin(tmp_path / "run", _config(photos))
    other = tmp_path / "elsewhere"
    if how == "moved":
        photos.rename(other)
    elif how == "copied":
        shutil.copytree(photos, other)
        shutil.rmtree(photos)
    elif how == "linked":
        other.symlink_to(photos, target_is_directory=True)
    else:
        other = tmp_path / "people.csv"
        other.write_text(
            "identity_id,photos\nanna,photos/anna/1.jpg;photos/anna/2.jpg\nben,photos/ben.png\n"
        )
    store = _begin(tmp_path / "run", _config(other)).store
    rows = store.read_table("manifests/identities.parquet").to_pylist()
    found = [photo["uri"] for row in rows for photo in row["photos"]]
    assert all(Path(uri).is_file() for uri in found)
    wanted = str(photos if how == "in a manifest" else other)
    assert all(uri.startswith(wanted) for uri in found)


def test_a_photo_replaced_under_its_name_is_noticed(tmp_path, photos):
    _begin(tmp_path / "run", _config(photos))
    data = bytearray((photos / "anna/2.jpg").read_bytes())
    data[-1] ^= 1
    (photos / "anna/2.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=r"anna/2.jpg of 'anna' is another photo than it was; all"):
        _begin(tmp_path / "run", _config(photos))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seeds": "0,2"}, "seeds '0', this run has '0,2'"),
        ({"batch_size": 4}, "batch_size 8, this run has 4"),
        ({"num_inference_steps": 3}, "num_inference_steps 30, this run has 3"),
        ({"metrics": ["face_found"]}, r"metrics \[.*\], this run has \['face_found'\]"),
        ({"prompt_ids": ["PROMPT"]}, r"prompts had \d+ rows, now 1"),
    ],
)
def test_a_refusal_says_what_differs(tmp_path, photos, settings, said):
    before = _begin(tmp_path / "run", _config(photos))
    first = before.store.read_table("manifests/prompts.parquet")["prompt_id"][0].as_py()
    if "prompt_ids" in settings:
        settings = {"prompt_ids": [first]}
    with pytest.raises(ValueError, match=said):
        _begin(tmp_path / "run", _config(photos, **settings))
    _begin(tmp_path / "run", _config(photos))


def test_a_changed_row_is_named_and_its_text_is_not(tmp_path, photos):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt_id,text\na,{subject} here\nb,{subject} there\n")
    _begin(tmp_path / "run", _config(photos, prompts=str(prompts)))
    prompts.write_text("prompt_id,text\na,{subject} here\nb,{subject} secret\n")
    with pytest.raises(ValueError, match=r"prompts, row 1 \('b'\): 'text' is another") as caught:
        _begin(tmp_path / "run", _config(photos, prompts=str(prompts)))
    assert "secret" not in str(caught.value)


def test_more_photos_and_other_weights_are_told(tmp_path, photos):
    _begin(tmp_path / "run", _config(photos))
    other = RunWeights("base", False, "embedded+pocket", {"infinite_id": "infinite_id-2"})
    with pytest.raises(ValueError, match="weights of infinite_id 'infinite_id-1', this run has"):
        _begin(tmp_path / "run", _config(photos), other)
    shutil.copy(photos / "ben.png", photos / "anna" / "3.png")
    with pytest.raises(ValueError, match="'anna' had 2 photos, now 3"):
        _begin(tmp_path / "run", _config(photos))


def test_what_cannot_be_looked_at_is_not_compared_and_not_forgotten(tmp_path, photos):
    _begin(tmp_path / "run", _config(photos))
    manifest = tmp_path / "people.csv"
    manifest.write_text("identity_id,photos\nanna,gone/1.jpg;gone/2.jpg\nben,gone.png\n")
    _begin(tmp_path / "run", _config(manifest))
    (photos / "ben.png").write_bytes(b"another one")
    with pytest.raises(ValueError, match=r"ben\.png of 'ben' is another photo"):
        _begin(tmp_path / "run", _config(photos))


def test_a_run_of_an_earlier_version_is_refused(tmp_path, photos):
    RunFolder(str(tmp_path / "run")).update(digests={"inputs or settings": "a"})
    with pytest.raises(ValueError, match="holds a run of an earlier version"):
        _begin(tmp_path / "run", _config(photos))


def test_a_store_names_the_content_and_bytes_are_content(tmp_path, photos):
    rows = [
        {"identity_id": "a", "photos": [{"uri": str(photos / "ben.png"), "bytes": None}]},
        {"identity_id": "b", "photos": [{"uri": None, "bytes": (photos / "ben.png").read_bytes()}]},
        {"identity_id": "c", "photos": [{"uri": "memory://nothing/x.png", "bytes": None}]},
    ]
    schema = read_manifest("identities", str(photos)).schema
    found = photo_digests(pa.Table.from_pylist(rows, schema=schema))["digest"].to_pylist()
    assert found[0] == found[1]
    assert found[0].startswith("content:")
    assert found[2] is None


def test_large_photos_are_read_in_pieces(tmp_path, monkeypatch):
    """The digest of the inputs took 4.8 times the photos' bytes of memory, and read all of them."""
    path = tmp_path / "large.tif"
    path.write_bytes(bytes(50_000_000))
    asked: list[int] = []
    real = digests._of_pieces
    monkeypatch.setattr(
        digests,
        "_of_pieces",
        lambda size, piece: real(size, lambda a, b: asked.append(b - a) or piece(a, b)),
    )
    photo_digests(read_manifest("identities", str(path)))
    assert sum(asked) == 3 * 65_536


def test_references_are_compared_too(tmp_path, photos):
    config = SynthesisConfig(identities=str(photos), output=str(tmp_path / "run"))
    others = _photos(tmp_path / "others")
    folder = RunFolder(str(tmp_path / "run"), resume=True)
    settings = deciding_settings(config, config.family(), WEIGHTS)

    def begin() -> None:
        known = load_manifests(config.model_copy(update={"identities": str(others)}))
        made_from = MadeFrom(settings, load_manifests(config), known)
        made_from.claim(folder.store, folder.record, folder.update)

    begin()
    begin()
    (others / "ben.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"references: .*others/ben.png of 'ben' is another photo"):
        begin()


def test_no_password_of_an_address_is_kept(tmp_path, photos):
    judges = {"hpsv2": "https://me:secret1@host/h.pt"}
    config = _config(photos, judges=judges, scorer="sftp://me:secret2@host/x")
    folder = _begin(tmp_path / "run", config)
    assert "hpsv2" in str(folder.record["made_from"])
    assert "secret" not in str(folder.record)


def test_judges_are_known_by_content_and_metrics_by_what_they_mean(tmp_path, photos):
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_bytes(b"network")
    judges = {"arcface": str(tmp_path / "a.onnx")}
    _begin(tmp_path / "run", _config(photos, judges=judges))
    moved = {"arcface": str(tmp_path / "b.onnx")}
    _begin(
        tmp_path / "run",
        _config(photos, judges=moved, metrics=["default", "identity_arcface", "identity_mean"]),
    )
    with pytest.raises(ValueError, match="belongs to a run with metrics"):
        _begin(tmp_path / "run", _config(photos, judges=moved, metrics=["default"]))
    (tmp_path / "b.onnx").write_bytes(b"another")
    with pytest.raises(ValueError, match="belongs to a run with judges"):
        _begin(tmp_path / "run", _config(photos, judges=moved))


def test_a_version_of_an_object_is_not_compared_with_another_objects():
    def table(photo: str, digest: str) -> pa.Table:
        row = {"identity_id": "ada", "photo": photo, "digest": digest}
        return pa.Table.from_pylist([row], schema=digests.PHOTO_DIGESTS)

    before = table("gs://a/p.jpg", "etag:1")
    assert digests.other_photo(before, table("gs://b/p.jpg", "etag:2")) is None
    assert "another photo" in str(digests.other_photo(before, table("gs://a/p.jpg", "etag:2")))
    before = table("gs://a/p.jpg", "md5:1")
    assert "another photo" in str(digests.other_photo(before, table("gs://b/p.jpg", "md5:2")))


@pytest.fixture
def web():
    """(address, headers of every answer) of a server of one picture, which can be another one."""
    headers: dict[str, str] = {}
    answer = {"headers": headers}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in answer["headers"].items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"picture")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"ETag": '"1"'}, {"ETag": '"2"'}, None),
        (
            {"Last-Modified": "Mon", "Content-Length": "7"},
            {"Last-Modified": "Tue", "Content-Length": "8"},
            None,
        ),
        # A server may set it to the time of its answer.
        (
            {"Last-Modified": "Mon", "Content-Length": "7"},
            {"Last-Modified": "Tue", "Content-Length": "7"},
            "2 of 2 photos have another time of change on their server and the same size",
        ),
        ({"Content-Length": "7"}, {"Content-Length": "8"}, None),
        ({"Content-Length": "7"}, {"Content-Length": "7"}, "2 of 2 photos were compared by their"),
        ({}, {}, "2 of 2 photos could not be compared with those the run was begun with: their"),
        ({"ETag": '"1"'}, {"Content-Length": "7"}, "2 of 2 photos could not be compared"),
    ],
)
def test_photos_of_the_web_are_compared_by_what_is_told_of_them(
    tmp_path, web, caplog, before, now, said
):
    address, answer = web
    manifest = tmp_path / "people.csv"
    manifest.write_text(f"identity_id,photos\nada,{address}/1.jpg;{address}/2.jpg\n")
    answer["headers"] = before
    _begin(tmp_path / "run", _config(manifest))
    assert not caplog.records
    answer["headers"] = now
    if said is None:
        with pytest.raises(ValueError, match=r"1\.jpg of 'ada' is another photo than it was"):
            _begin(tmp_path / "run", _config(manifest))
        return
    with caplog.at_level(logging.WARNING, "pipelines.plan.made_from"):
        _begin(tmp_path / "run", _config(manifest))
    (record,) = caplog.records
    assert said in record.getMessage()


def test_data_of_a_training_are_known_by_content_alone(web):
    address, answer = web
    for headers in ({"Last-Modified": "Mon"}, {"Content-Length": "7"}):
        answer["headers"] = headers
        assert digests.content_digest(Store(f"{address}/photos.parquet")) is None
