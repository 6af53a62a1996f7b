"""Training pairs: another photo of the same person, bad photos counted, splits by person."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infinite_id.config import preset
from pipelines.training.pairs import (
    PAIRS,
    PairActor,
    _called,
    changed_view,
    other_views,
    pair_batch,
    split_of_identity,
)

pytest.importorskip("gan_face_generate", reason="pip install --no-deps gan-face-generate==1.1.1")


STRANGER = (Path(__file__).parents[1] / "assets" / "person0_0.png").read_bytes()
STRANGER_NAME = f"sha256:{hashlib.sha256(STRANGER).hexdigest()[:12]}"


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def actor() -> PairActor:
    return PairActor(preset("pocket"))


@pytest.fixture(scope="module")
def strict() -> PairActor:
    return PairActor(preset("pocket"), check=True)


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


@pytest.mark.parametrize("key", [None, "", "an\u200bna", "anna "])
def test_photos_of_nobody_give_no_pair(actor: PairActor, photos: list[bytes], key: str | None):
    given = pa.table({"identity_id": pa.array([key] * 2, pa.string()), "image": photos[:2]})
    refused = [row["reject"] for row in actor(given).to_pylist()]
    assert len(refused) == 2
    assert {text.split(",")[0] for text in refused} == {
        f"bad_identity: identity_id is {(key or '')!r}"
    }


def test_photos_of_the_datasets_library_are_read(actor: PairActor, photos: list[bytes]):
    images = [{"bytes": photos[0], "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    rows = actor(pa.table({"identity_id": ["ada", "ada"], "image": images})).to_pylist()
    assert [row["reject"] for row in rows] == [
        "bad_photo: photo has no bytes, allowed: an encoded picture",
        None,
    ]


def test_a_photo_is_called_by_its_file_where_there_is_one():
    assert _called({"bytes": b"x", "path": "a.png"}) == "photo a.png"


def test_two_people_under_one_name_are_told(actor: PairActor, photos: list[bytes]):
    rows = actor(table([*photos, STRANGER])).to_pylist()
    assert len(rows) == 8
    assert rows[0]["warning"].startswith(
        f"the photos of 'ada' do not agree: photo {STRANGER_NAME} and the other 3"
    )
    assert [row["warning"] for row in rows[1:]] == [None] * 7
    assert {row["warning"] for row in actor(table(photos)).to_pylist()} == {None}


def test_on_wish_the_odd_photo_gives_no_pair(strict: PairActor, photos: list[bytes]):
    rows = strict(table([photos[0], STRANGER, *photos[1:]])).to_pylist()
    refused = [row["reject"] for row in rows if row["reject"]]
    assert len(refused) == 1
    assert refused[0].startswith(
        f"photos_disagree: the photos of 'ada' do not agree: photo {STRANGER_NAME} and the"
    )
    assert len(rows) == 1 + 6
    both = strict(table([photos[0], b"not a picture", STRANGER])).to_pylist()
    reasons = [row["reject"].split(":")[0] for row in both]
    assert reasons == ["not_an_image", "photos_disagree", "photos_disagree"]
    assert {row["warning"] for row in [*rows, *both]} == {None}


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
