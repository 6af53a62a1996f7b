"""Several photos of one person: two people in one folder are told, or refused on wish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infinite_id.config import preset
from pipelines.run.units import unit_table
from pipelines.serving.page import sample_photo
from pipelines.stages.agreement import lowest_agreement
from pipelines.stages.people import EmbeddingActor, FaceActor
from pipelines.tables.manifest import read_manifest
from pipelines.tables.schemas import EMBEDDINGS, FACES, REJECTS
from pipelines.tables.storage import Store

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """ada: three photos of one person; gus: two people; mia: three of one and a stranger."""
    root = tmp_path_factory.mktemp("people")
    photos = {f"ada/{n}.png": (ASSETS / f"person3_{n}.png").read_bytes() for n in range(3)}
    photos |= {f"mia/{n}.png": (ASSETS / f"person5_{n}.png").read_bytes() for n in range(3)}
    photos["mia/9.png"] = (ASSETS / "person0_0.png").read_bytes()
    photos |= {f"gus/{n}.png": sample_photo(f"person-{n}") for n in (1, 2)}
    for name, data in photos.items():
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).write_bytes(data)
    (root / "photos" / "nobody.png").write_bytes(b"no picture")
    store = Store(root / "run")
    table = read_manifest("identities", str(root / "photos"))
    store.write_table("manifests/identities.parquet", table)
    manifest = f"{store.url}/manifests/identities.parquet"
    actor = FaceActor(store, manifest, [(0, 0, table.num_rows)], "embedded")
    return store, actor(unit_table([0])), root


def test_a_reject_names_its_file(faces):
    store, _, root = faces
    (row,) = store.read_folder("rejects", REJECTS).to_pylist()
    assert row["message"].startswith(f"{root}/photos/nobody.png: ")
    named = store.read_folder("faces", FACES)["photo"].to_pylist()
    assert f"{root}/photos/gus/1.png" in named


def test_photos_that_do_not_agree_are_told(faces, tmp_path):
    _, table, root = faces
    store = Store(tmp_path)
    EmbeddingActor(store, preset("pocket"))(table)
    people = {r["identity_id"]: r for r in store.read_folder("embeddings", EMBEDDINGS).to_pylist()}
    assert set(people) == {"ada", "gus", "mia"}
    assert people["ada"]["warning"] is None
    assert people["ada"]["agreement"] > 0.3
    assert people["gus"]["agreement"] < 0.3
    assert "the photos of 'gus' do not agree: " in people["gus"]["warning"]
    assert f"{root}/photos/mia/9.png and the other 3 photos" in people["mia"]["warning"]
    assert len(people["mia"]["aligned"]) == 4


def test_on_wish_they_are_refused_with_the_odd_photo(faces, tmp_path):
    _, table, root = faces
    store = Store(tmp_path)
    EmbeddingActor(store, preset("pocket"), check=True)(table)
    people = {r["identity_id"]: r for r in store.read_folder("embeddings", EMBEDDINGS).to_pylist()}
    assert set(people) == {"ada", "mia"}
    assert len(people["mia"]["aligned"]) == 3
    assert people["mia"]["warning"] is None
    rejects = {r["key"]: r for r in store.read_folder("rejects", REJECTS).to_pylist()}
    assert {row["reason"] for row in rejects.values()} == {"photos_disagree"}
    assert rejects["mia"]["image_id"] == "mia/3"
    assert f"{root}/photos/mia/9.png" in rejects["mia"]["message"]
    assert rejects["gus"]["image_id"] is None


def test_the_odd_one_is_the_one_far_from_the_others():
    features = np.eye(4, dtype=np.float32)[[0, 0, 1, 0]]
    lowest, odd = lowest_agreement(features)
    assert (lowest, odd) == (0.0, 2)
