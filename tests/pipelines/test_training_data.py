"""Training pairs: another photo of the same person, bad photos counted, splits by person."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infinite_id.config import preset
from pipelines.training.pairs import (
    PAIRS,
    PairActor,
    changed_view,
    other_views,
    pair_batch,
    split_of_identity,
)

pytest.importorskip("gan_face_generate", reason="pip install --no-deps gan-face-generate==1.1.1")


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def actor() -> PairActor:
    return PairActor(preset("pocket"))


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    from infinite_id.faces.loading import load_face_backend
    from infinite_id.training.faces_gan import draw_people, load_face_generator

    backend = load_face_backend("embedded")
    person = next(draw_people(range(40), 3, load_face_generator(), backend))
    return [png(portrait.image) for portrait in person.portraits]


def table(images: list[bytes | None]) -> pa.Table:
    return pa.Table.from_pylist([{"identity_id": "ada", "image": data} for data in images])


def test_the_identity_photo_is_never_the_target(actor: PairActor, photos: list[bytes]):
    rows = actor(table(photos)).to_pylist()
    assert len(rows) == 6
    faces = actor._encoder
    from infinite_id.faces.detection import find_faces

    for number, data in enumerate(photos):
        image = np.asarray(Image.open(io.BytesIO(data)))
        own = faces.embed([find_faces(image, faces.faces)[0][1]]).face
        used = [np.array(row["face"]) for row in rows[2 * number : 2 * number + 2]]
        assert all(float(own @ face) < 0.999 for face in used)


def test_a_person_with_one_photo_gets_a_changed_view(actor: PairActor, photos: list[bytes]):
    made = actor(table(photos[:1]))
    assert made.schema.equals(PAIRS)
    assert made.num_rows == 1
    assert made["reject"].to_pylist() == [None]


def test_bad_photos_are_rejected_by_reason_and_the_rest_goes_on(
    actor: PairActor, photos: list[bytes]
):
    gray = png(np.full((64, 64, 3), 90, np.uint8))
    rows = actor(table([photos[0], b"not a picture", None, gray, photos[1]])).to_pylist()
    reasons = [row["reject"].split(":")[0] for row in rows if row["reject"]]
    assert len(reasons) == 3
    assert "no_face" in reasons
    assert sum(row["reject"] is None for row in rows) == 2


def test_rows_come_back_as_arrays(actor: PairActor, photos: list[bytes]):
    made = actor(table(photos))
    columns = {name: made[name].to_pylist() for name in ("latents", "face", "clip", "caption")}
    batch = pair_batch(columns, preset("pocket"), 4)
    assert batch["latents"].shape == (6, 4, 16, 16)
    assert batch["face"].shape == (6, 128)
    assert batch["clip"].shape == (6, 65, 192)
    assert batch["caption"] == [""] * 6
    np.testing.assert_allclose(np.linalg.norm(batch["face"], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("number", "count", "most", "expected"), [(0, 3, 2, [1, 2]), (2, 3, 1, [0]), (0, 1, 2, [])]
)
def test_other_views(number: int, count: int, most: int, expected: list[int]):
    assert other_views(number, count, most) == expected


def test_a_changed_view_depends_on_the_person_alone():
    face = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    assert np.array_equal(changed_view(face, "ada"), changed_view(face, "ada"))
    assert not np.array_equal(changed_view(face, "ada"), changed_view(face, "bob"))


def test_splits_are_by_person_and_about_ninety_five_five():
    splits = [split_of_identity(f"person-{n}") for n in range(4000)]
    assert splits == [split_of_identity(f"person-{n}") for n in range(4000)]
    assert splits.count("train") / 4000 == pytest.approx(0.9, abs=0.02)
    assert splits.count("test") / 4000 == pytest.approx(0.05, abs=0.015)
