"""Whole-set measurements on faces of the photo that insightface ships: six people, one photo."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.judges.facenet import FaceNet
from eval.judges.given import GivenJudges
from eval.judges.networks import Networks
from eval.picture_batch import PictureBatch
from eval.reports.report import write_report
from eval.sets import measure_sets
from eval.vectors import unit_rows
from infinite_id.faces.detection import find_faces
from pipelines.tables import schemas
from pipelines.training.dreambooth import portrait
from tests.eval.face_networks import save_channel_means
from tests.eval.runs import write_run, write_table
from tests.infinite_id.face_photos import embedded, photo

PEOPLE = 3
SEEDS = 2


def png(image) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def changed(image):
    """The same face as another photo: darker, mirrored."""
    return (image[:, ::-1] * 0.6).astype(np.uint8)


@pytest.fixture(scope="module")
def faces():
    """(portraits 128 px, aligned crops) of three people."""
    image = photo("t1.jpg")
    found = find_faces(image, embedded(), select="all")[:PEOPLE]
    portraits = [portrait(image, face.bbox, 128, 128) for face, _ in found]
    return portraits, [aligned for _, aligned in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory, faces):
    """Pictures of the right person by infinite_id, of the next one by ip_adapter."""
    portraits, crops = faces
    folder = tmp_path_factory.mktemp("sets") / "run"
    each = 2 * 2 * SEEDS * PEOPLE

    def picture(number: int) -> bytes:
        shift = int(number >= each)
        return png(portraits[(number + shift) % PEOPLE])

    write_run(
        folder, people=PEOPLE, seeds=SEEDS, methods=("infinite_id", "ip_adapter"), picture=picture
    )
    common = {"face": [1.0], "clip": b"", "clip_tokens": 0, "clip_width": 0}
    common |= {"revision": "r", "digest": "d"}
    people = [
        common | {"identity_id": f"person_{n}", "aligned": [png(crop)]}
        for n, crop in enumerate(crops)
    ]
    write_table(folder, "embeddings", people, schemas.EMBEDDINGS)
    photos = [
        {
            "identity_id": f"person_{n}", "image_id": f"{n}/{k}", "bbox": [0.0] * 4,
            "landmarks": [0.0] * 10, "det_score": 1.0, "aligned": png(view),
            "photo_height": 112, "photo_width": 112,
        }
        for n, crop in enumerate(crops)
        for k, view in enumerate((crop, changed(crop)))
    ]  # fmt: skip
    write_table(folder, "faces", photos, schemas.FACES)
    return folder


@pytest.fixture(scope="module")
def sets(run):
    return measure_sets(run, threads=2)


def test_every_picture_is_read_and_the_file_is_what_came_back(run, sets):
    assert sets["pictures"] == sets["of_pictures"] == 2 * 2 * 2 * SEEDS * PEOPLE
    assert json.loads((run / "sets.json").read_text()) == sets


def test_bounds_are_the_cosines_of_real_faces(faces, sets):
    networks = Networks(("facenet",), "pocket", 2)
    first = np.stack(networks.facenet_reference(faces[1]))
    second = np.stack(networks.facenet_reference([changed(crop) for crop in faces[1]]))
    cosine = first @ second.T / np.linalg.norm(first, axis=1)[:, None]
    cosine = cosine / np.linalg.norm(second, axis=1)
    assert sets["bounds"]["held_out"] is True
    assert sets["bounds"]["ceiling"]["mean"] == pytest.approx(np.diag(cosine).mean(), abs=1e-4)
    assert sets["bounds"]["floor"]["mean"] < sets["bounds"]["ceiling"]["mean"]
    assert sets["bounds"]["floor"]["n"] == PEOPLE * (PEOPLE - 1) // 2


def test_verification_tells_the_right_person_from_another(sets):
    right, wrong = (sets["methods"][m]["verification"] for m in ("infinite_id", "ip_adapter"))
    assert right["eer"]["mean"] == 0
    assert right["auc"]["mean"] == 1
    assert wrong["auc"]["mean"] < 0.5
    assert right["eer"]["low"] is None  # three people carry no interval
    assert right["genuine"] == 2 * 2 * SEEDS * PEOPLE


def test_equal_pictures_have_no_diversity(sets):
    values = sets["methods"]["infinite_id"]
    assert values["seed_diversity"]["mean"] == pytest.approx(0, abs=1e-5)
    assert values["class_structure"]["consistency"]["mean"] == pytest.approx(0, abs=1e-5)
    assert values["copy_paste"]["n"] == 2 * 2 * SEEDS * PEOPLE


def test_similarity_to_the_held_out_photos_and_to_those_that_conditioned(faces, sets):
    """As MultiID-Bench has them: of the pictures' own features, computed here again."""
    networks = Networks(("faces", "facenet"), "pocket", 1)
    portraits, crops = faces
    batch = PictureBatch(networks, portraits, [""] * 3, [[crop] for crop in crops], [""] * 3)
    own = np.stack([batch.facenet_features[n][0] for n in range(PEOPLE)])
    for key, photos in (("sim_gt", [changed(crop) for crop in crops]), ("sim_ref", crops)):
        known = np.stack(networks.facenet_reference(photos))
        known /= np.linalg.norm(known, axis=1, keepdims=True)
        expected = (own * known).sum(axis=1).mean()
        found = sets["methods"]["infinite_id"][key]
        assert found["mean"] == pytest.approx(expected, abs=1e-4)
        assert found["n"] == 2 * 2 * SEEDS * PEOPLE


def test_networks_that_scored_the_run_judge_it_too(tmp_path, run, faces):
    """Only those whose column it has; the values are those of the pictures' aligned faces."""
    shutil.copytree(run, tmp_path / "run")
    given = GivenJudges({"adaface": str(save_channel_means(tmp_path / "ada.onnx"))})
    assert (
        measure_sets(tmp_path / "run", max_pictures=12, judges=given)["identity"]["networks"] == {}
    )
    path = tmp_path / "run/scores/part-0.parquet"
    scores = pq.read_table(path)
    column = pa.array(np.zeros(len(scores), np.float32))
    pq.write_table(scores.append_column("identity_adaface", column), path)
    found = measure_sets(tmp_path / "run", judges=given, threads=2)["identity"]["networks"]
    assert list(found) == ["FaceNet", "AdaFace", "mean"]
    blank = [""] * PEOPLE
    networks = Networks(("faces",), "pocket", 1)
    batch = PictureBatch(networks, faces[0], blank, [[]] * PEOPLE, blank)
    # A face has a pose without a reference too.
    assert np.isfinite(batch.poses).all()
    assert np.isnan(batch.reference_poses).all()

    def means(crops):
        return unit_rows([crop[:, :, ::-1].mean(axis=(0, 1)) / 127.5 - 1 for crop in crops])

    cosines = means(batch.crops) @ means([changed(crop) for crop in faces[1]]).T
    own = np.diag(cosines)
    expected = (own - (cosines.sum(axis=1) - own) / (PEOPLE - 1)).mean()
    margin = found["AdaFace"]["methods"]["infinite_id"]["margin"]
    assert margin["mean"] == pytest.approx(expected, abs=3e-4)  # sums of 12,544 in float32
    assert margin["n"] == 2 * 2 * SEEDS * PEOPLE


def test_one_seed_needs_no_image_model(tmp_path, sets):
    write_run(tmp_path / "run", people=2, seeds=1)
    single = measure_sets(tmp_path / "run", threads=2)
    assert single["methods"]["infinite_id"]["seed_diversity"]["n"] == 0
    assert single["image_network"] == ""
    assert sets["image_network"].startswith("pocket")


@pytest.mark.parametrize("most", [5, 12])
def test_the_cap_keeps_whole_people(run, most):
    capped = measure_sets(run, max_pictures=most, threads=2)
    assert capped["pictures"] == 2 * most
    measure_sets(run, threads=2)


@pytest.mark.parametrize("most", [0, -1])
def test_no_pictures_is_no_measurement(run, most):
    with pytest.raises(ValueError, match=f"max_pictures is {most}, allowed: 1 or more"):
        measure_sets(run, max_pictures=most)


def test_the_report_shows_bounds_and_sets(run, sets):
    paths = write_report(run)
    page, markdown, record = (
        Path(path).read_text("utf-8") for path in (paths.html, paths.markdown, paths.json)
    )
    ceiling = f"{sets['bounds']['ceiling']['mean']:.3f}"
    for text in (page, markdown):
        assert "Whole sets" in text
        assert ceiling in text
    assert json.loads(record)["sets"] == sets


def test_facenet_features_have_the_width_that_the_module_says():
    assert FaceNet(threads=1).embed([], []).shape == (0, 512)
