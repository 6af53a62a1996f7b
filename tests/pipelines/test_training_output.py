"""An output folder that was begun with other settings is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.tables.photo_digests import content_digest
from pipelines.tables.storage import Store
from pipelines.training.config import TrainingConfig
from pipelines.training.job import count_photos, pair_warnings


@pytest.fixture
def begun(tmp_path: Path) -> dict[str, Any]:
    """Settings whose output folder holds finished pairs and a checkpoint's signature."""
    rows = [{"identity_id": "ada", "image": b"photo"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photos.parquet")
    given = {"data": str(tmp_path / "photos.parquet"), "output": str(tmp_path / "run")}
    config = TrainingConfig(**given)
    made_of = {
        "data": Store(config.data).url,
        "preset": "pocket",
        "pairs_per_photo": 2,
        "largest_face": False,
        "check_people": False,
    }
    store = Store(config.output)
    store.write_bytes("pairs/_made_of.json", json.dumps(made_of).encode())
    store.write_bytes("pairs/_done.json", b"{}")
    store.write_bytes("signature.json", json.dumps(config.signature()).encode())
    return given


def test_the_same_settings_go_on(begun: dict[str, Any]):
    assert count_photos(TrainingConfig(**begun, steps=5, checkpoint_steps=1)) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "elsewhere.parquet"}, "pairs made with data .*photos.parquet'"),
        ({"pairs_per_photo": 3}, "pairs made with pairs_per_photo 2, this run has 3; allowed"),
        ({"largest_face": True}, "pairs made with largest_face False, this run has True"),
        ({"check_people": True}, "pairs made with check_people False, this run has True"),
        ({"preset": "sdxl"}, "a run with preset 'pocket', this run has 'sdxl'"),
        ({"snr_gamma": 5.0}, "a run with snr_gamma None, this run has 5.0"),
        ({"text_drop": 0.5}, r"a run with text_drop 0\.1, this run has 0\.5"),
    ],
)
def test_other_settings_are_refused(begun: dict[str, Any], changed: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        count_photos(TrainingConfig(**(begun | changed)))


def test_data_that_moved_go_on_and_other_data_of_the_name_do_not(begun: dict[str, Any]):
    store, path = Store(begun["output"]), Path(begun["data"])
    made_of = json.loads(store.read_bytes("pairs/_made_of.json"))
    made_of["content of data"] = content_digest(Store(path))
    store.write_bytes("pairs/_made_of.json", json.dumps(made_of).encode())
    moved = path.rename(path.with_name("moved.parquet"))
    assert count_photos(TrainingConfig(**(begun | {"data": str(moved)}))) == 0
    with pytest.raises(ValueError, match=r"pairs made with data .*photos\.parquet'"):
        count_photos(TrainingConfig(**(begun | {"data": str(path.with_name("gone.parquet"))})))
    pq.write_table(pa.table({"identity_id": ["bob"], "image": [b"another"]}), path)
    with pytest.raises(ValueError, match="pairs made with content of data"):
        count_photos(TrainingConfig(**begun))


def test_pairs_that_were_not_finished_may_be_made_of_other_data(begun: dict[str, Any]):
    Store(begun["output"]).delete("pairs/_done.json")
    assert count_photos(TrainingConfig(**begun, pairs_per_photo=1)) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"identity_id": [1], "image": [b"x"]},
            "column 'identity_id': type is int64, allowed: str",
        ),
        (
            {"identity_id": ["a"], "image": ["x.png"]},
            "column 'image': type is string, allowed: bin",
        ),
        (
            {"identity_id": ["a"], "image": [{"path": "x"}]},
            "column 'image': type is struct<path: string>, allowed: binary, or a struct with byt",
        ),
        (
            {"identity_id": ["a"], "image": [b"x"], "caption": [["a"]]},
            "column 'caption': type is list<.*>, allowed: string",
        ),
    ],
)
def test_columns_of_other_types_are_refused_before_a_cluster(
    tmp_path: Path, columns: dict[str, Any], message: str
):
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    config = TrainingConfig(data=str(tmp_path / "photos.parquet"), output=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        count_photos(config)


def test_people_whose_photos_do_not_agree_are_told_again_by_a_rerun(tmp_path: Path):
    store = Store(tmp_path)
    assert pair_warnings(store) == []
    store.write_bytes(
        "pairs/_warnings.json", "[\"the photos of 'zo\u00eb' do not agree\"]".encode()
    )
    assert pair_warnings(store) == ["the photos of 'zo\u00eb' do not agree"]


def test_captions_of_nobody_and_categories_are_texts(tmp_path: Path):
    names = pa.array(["ada", "bob"]).dictionary_encode()
    data = pa.table({"identity_id": names, "image": [b"x", b"y"], "caption": pa.nulls(2)})
    pq.write_table(data, tmp_path / "photos.parquet")
    config = TrainingConfig(data=str(tmp_path / "photos.parquet"), output=str(tmp_path / "run"))
    assert count_photos(config) == 2


def test_pairs_of_before_photos_were_compared_go_on(begun: dict[str, Any]):
    store = Store(begun["output"])
    made_of = json.loads(store.read_bytes("pairs/_made_of.json"))
    del made_of["check_people"]
    store.write_bytes("pairs/_made_of.json", json.dumps(made_of).encode())
    assert count_photos(TrainingConfig(**begun)) == 0
