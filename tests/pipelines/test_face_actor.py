"""Photos of every bad kind: each is refused with its reason, and the good ones still pass."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinite_id.config import preset
from pipelines.run.units import unit_table
from pipelines.stages.people import EmbeddingActor, FaceActor
from pipelines.tables.demo_people import demo_identities
from pipelines.tables.manifest import read_manifest
from pipelines.tables.schemas import EMBEDDINGS, FACES, REJECTS
from pipelines.tables.storage import Store


@pytest.fixture(scope="module")
def shipped():
    """(group photo, portrait) of the installed insightface package, as bytes."""
    rows = demo_identities().to_pylist()
    return [Path(rows[n]["photos"][0]["uri"]).read_bytes() for n in (0, 6)]


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _bad_photos(group: bytes, portrait: bytes) -> dict[str, tuple[bytes, str]]:
    """File name -> (content, reason)."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    giant = Image.new("1", (20_000, 20_000))
    return {
        "no_face.png": (_saved(Image.fromarray(noise), "PNG"), "no_face"),
        "six_faces.jpg": (group, "several_faces"),
        "text.jpg": (b"not a picture at all", "not_an_image"),
        "half.jpg": (group[: len(group) // 2], "truncated"),
        "dot.png": (_saved(Image.new("RGB", (1, 1)), "PNG"), "too_small"),
        "giant.png": (_saved(giant, "PNG"), "too_large"),
        "empty.png": (b"", "not_an_image"),
    }


def _good_photos(portrait: bytes) -> dict[str, bytes]:
    image = Image.open(io.BytesIO(portrait)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to view
    return {
        "cmyk.jpg": _saved(image.convert("CMYK"), "JPEG"),
        "palette.png": _saved(image.quantize(256), "PNG"),
        "alpha.png": _saved(image.convert("RGBA"), "PNG"),
        "turned.jpg": _saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif),
    }


@pytest.fixture(scope="module")
def result(tmp_path_factory, shipped):
    group, portrait = shipped
    photos = tmp_path_factory.mktemp("photos")
    bad, good = _bad_photos(group, portrait), _good_photos(portrait)
    for name, content in {**{k: v[0] for k, v in bad.items()}, **good}.items():
        (photos / name).write_bytes(content)
    store = Store(tmp_path_factory.mktemp("run"))
    table = read_manifest("identities", str(photos))
    store.write_table("manifests/identities.parquet", table)
    manifest = f"{store.url}/manifests/identities.parquet"
    actor = FaceActor(store, manifest, [(0, 0, table.num_rows)], "embedded")
    faces = actor(unit_table([0]))
    EmbeddingActor(store, preset("pocket"))(faces)
    return store, bad, good


def test_each_bad_photo_has_its_reason(result):
    store, bad, _ = result
    rejects = store.read_folder("rejects", REJECTS).to_pylist()
    assert {row["key"]: row["reason"] for row in rejects} == {
        Path(name).stem: reason for name, (_, reason) in bad.items()
    }
    assert all("\n" not in row["message"] and row["message"] for row in rejects)


def test_each_good_photo_passes(result):
    store, _, good = result
    names = sorted(Path(name).stem for name in good)
    assert sorted(store.read_folder("faces", FACES)["identity_id"].to_pylist()) == names
    assert sorted(store.read_folder("embeddings", EMBEDDINGS)["identity_id"].to_pylist()) == names


def test_colour_modes_and_rotation_do_not_change_who_it_is(result):
    store, _, _ = result
    rows = store.read_folder("embeddings", EMBEDDINGS).to_pylist()
    faces = np.array([row["face"] for row in rows])
    assert (faces @ faces.T).min() > 0.8


def test_the_shipped_photos_show_seven_different_people(tmp_path):
    store = Store(tmp_path)
    table = demo_identities()
    store.write_table("manifests/identities.parquet", table)
    manifest = f"{store.url}/manifests/identities.parquet"
    actor = FaceActor(store, manifest, [(0, 0, table.num_rows)], "embedded")
    EmbeddingActor(store, preset("pocket"))(actor(unit_table([0])))
    rows = store.read_folder("embeddings", EMBEDDINGS).to_pylist()
    faces = np.array([row["face"] for row in rows])
    different = (faces @ faces.T)[~np.eye(len(rows), dtype=bool)]
    assert len(rows) == 7
    assert different.max() < 0.40
    assert {row["consent"] for row in rows} == {"demonstration only"}


def test_a_photo_that_is_not_there_is_a_reject_and_no_end(tmp_path):
    store = Store(tmp_path)
    table = demo_identities().slice(5, 2)
    rows = table.to_pylist()
    rows[0]["photos"] = [{"uri": str(tmp_path / "gone.jpg"), "bytes": None}]
    store.write_table("manifests/identities.parquet", table.from_pylist(rows, table.schema))
    manifest = f"{store.url}/manifests/identities.parquet"
    FaceActor(store, manifest, [(0, 0, 2)], "embedded")(unit_table([0]))
    rejects = store.read_folder("rejects", REJECTS).to_pylist()
    assert [(row["key"], row["reason"]) for row in rejects] == [("group_5", "unreachable")]
    assert store.count_rows("faces") == 1
