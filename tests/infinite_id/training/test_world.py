"""The pocket world: reproducible, true to its captions, and with faces that are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from infinite_id.faces.detection import FaceBackend, align_face, find_faces
from infinite_id.faces.loading import load_face_backend
from infinite_id.pocket.weights import EDITIONS
from infinite_id.training.captions import (
    COLORS,
    SCENES,
    SLIDE_PROMPTS,
    STYLES,
    Description,
    caption,
    draw_description,
    pair_caption,
)
from infinite_id.training.dataset import (
    SPLITS,
    load_people,
    load_pictures,
    people_path,
    photos_chunk,
    picture_chunk,
    split_of,
)
from infinite_id.training.text import tokenize
from infinite_id.training.world import compose, compose_far, compose_pair

faces_gan = pytest.importorskip("infinite_id.training.faces_gan")
pytest.importorskip("gan_face_generate", reason="pip install --no-deps gan-face-generate==1.1.1")

PLAIN = Description("red", "sweater", "studio", None, "photo")


@pytest.fixture(scope="module")
def backend() -> FaceBackend:
    return load_face_backend("embedded")


@pytest.fixture(scope="module")
def people(backend: FaceBackend) -> list:
    return list(faces_gan.draw_people(range(8), 2, faces_gan.load_face_generator(), backend))


def test_a_person_depends_on_the_index_alone(backend: FaceBackend, people: list):
    again = next(
        faces_gan.draw_people([people[2].index], 2, faces_gan.load_face_generator(), backend)
    )
    assert np.array_equal(again.portraits[1].image, people[2].portraits[1].image)


def test_pictures_of_a_person_are_alike_and_of_two_are_not(people: list):
    own = [one.portraits[0].face @ one.portraits[1].face for one in people]
    others = [
        people[i].portraits[0].face @ people[j].portraits[0].face
        for i in range(len(people))
        for j in range(i)
    ]
    assert np.mean(own) > 0.45
    assert np.mean(others) < 0.35


def test_a_composed_picture_is_reproducible(people: list):
    first, second = (
        compose(people[0].portraits[0], PLAIN, np.random.default_rng(5)).image for _ in range(2)
    )
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)


@pytest.mark.parametrize("color", sorted(COLORS))
def test_the_garment_has_the_named_colour(people: list, color: str):
    description = replace(PLAIN, color=color)
    picture = compose(people[0].portraits[0], description, np.random.default_rng(5)).image
    seen = np.median(picture[58:, 14:24].reshape(-1, 3), axis=0)
    nearest = min(COLORS, key=lambda name: np.linalg.norm(seen - np.array(COLORS[name])))
    assert nearest == color


@pytest.mark.parametrize("style", ["photo", "sketch", "watercolor"])
def test_faces_are_found_at_full_size(people: list, backend: FaceBackend, style: str):
    found = 0
    for person in people:
        description = replace(PLAIN, style=style)
        picture = compose(person.portraits[0], description, np.random.default_rng(1)).image
        faces = backend.detect(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_CUBIC))
        found += len(faces) == 1 and faces[0].size / 4 >= 28
    assert found >= 0.75 * len(people)


def test_landmarks_are_where_a_detector_finds_them(people: list, backend: FaceBackend):
    """The detector itself is off by a pixel or two in faces 30 px wide: people are averaged."""
    differences = []
    for person in people:
        made = compose(person.portraits[0], PLAIN, np.random.default_rng(1))
        face = find_faces(made.image, backend, select="largest", sizes=(256,), min_face=16)[0][0]
        differences.append(face.landmarks - made.landmarks)
    assert np.abs(np.mean(differences, axis=(0, 1))).max() < 1
    assert np.abs(differences).mean() < 1.5


@pytest.fixture(scope="module")
def frontal(backend: FaceBackend) -> list:
    generator = faces_gan.load_face_generator()
    return list(faces_gan.draw_people(range(12), 3, generator, backend, frontal=True))


def test_frontal_people_look_at_the_camera(frontal: list, people: list):
    def looks(group: list) -> list[bool]:
        portraits = [portrait for one in group for portrait in one.portraits]
        return [faces_gan.is_frontal(p.image, p.detection.landmarks) for p in portraits]

    assert len(frontal) >= 4
    assert all(len(one.portraits) == 3 for one in frontal)
    assert all(looks(frontal))
    assert not all(looks(people))


@pytest.mark.parametrize(
    ("change", "frontal"),
    [
        (lambda marks, image: None, True),
        # The nose aside, one eye low, in the dark.
        (lambda marks, image: marks[2].__iadd__([4, 0]), False),
        (lambda marks, image: marks[1].__iadd__([0, 8]), False),
        (lambda marks, image: image.fill(60), False),
    ],
)
def test_what_looks_at_the_camera(change: object, frontal: bool):
    marks = np.array([[22, 28], [42, 28], [32, 38], [25, 48], [39, 48]], np.float32)
    image = np.full((64, 64, 3), 90, np.uint8)
    change(marks, image)
    assert faces_gan.is_frontal(image, marks) == frontal


def test_heads_of_the_larger_edition_are_level_and_in_place(frontal: list):
    edition = EDITIONS[96]
    (top, bottom), (left, right) = edition.window
    rng = np.random.default_rng(3)
    for person in frontal:
        made = compose(person.portraits[0], PLAIN, rng, 96)
        assert made.image.shape == (96, 96, 3)
        eyes, mouth = made.landmarks[:2], made.landmarks[3:].mean(axis=0)
        assert abs(eyes[0, 1] - eyes[1, 1]) < 0.5
        assert eyes[1, 0] - eyes[0, 0] == pytest.approx(0.215 * 96, rel=0.03)
        assert eyes.mean(axis=0) == pytest.approx([47.75, 35], abs=1.1)
        assert eyes[1, 1] < mouth[1]
        # What is aligned for a face network lies in the window but for its corners.
        assert top < eyes[0, 1] - 15
        assert mouth[1] + 12 < bottom
        assert left < eyes[0, 0] - 10
        assert eyes[1, 0] + 10 < right


def test_landmarks_of_the_larger_edition_are_where_a_detector_finds_them(
    frontal: list, backend: FaceBackend
):
    differences = []
    for person in frontal:
        made = compose(person.portraits[0], PLAIN, np.random.default_rng(1), 96)
        face = find_faces(made.image, backend, select="largest", sizes=(256,), min_face=16)[0][0]
        differences.append(face.landmarks - made.landmarks)
    assert np.abs(np.mean(differences, axis=(0, 1))).max() < 1
    assert np.abs(differences).mean() < 1.5


def test_two_people_stand_side_by_side(frontal: list, backend: FaceBackend):
    portraits = (frontal[0].portraits[0], frontal[1].portraits[0])
    descriptions = (PLAIN, replace(PLAIN, color="green", garment="jacket"))
    made = compose_pair(portraits, descriptions, np.random.default_rng(4), 96)
    assert made.image.shape == (96, 96, 3)
    found = backend.detect(cv2.resize(made.image, (384, 384), interpolation=cv2.INTER_CUBIC))
    left, right = sorted((face.scaled(1 / 4) for face in found), key=lambda face: face.bbox[0])
    assert np.abs(left.landmarks - made.landmarks).mean() < 1.5
    eyes = [face.landmarks[:2].mean(axis=0)[0] / 96 for face in (left, right)]
    assert eyes == pytest.approx([0.27, 0.73], abs=0.03)
    for columns, color in ((slice(12, 20), "red"), (slice(76, 84), "green")):
        seen = np.median(made.image[88:, columns].reshape(-1, 3), axis=0)
        nearest = min(COLORS, key=lambda name: np.linalg.norm(seen - np.array(COLORS[name])))
        assert nearest == color
    for face, own, other in ((left, 0, 1), (right, 1, 0)):
        aligned = align_face(made.image, face.landmarks)
        seen = backend.embed(aligned[None])[0]
        assert seen @ portraits[own].face > seen @ portraits[other].face + 0.2


@pytest.mark.parametrize("size", [64, 96])
def test_somebody_farther_away_is_smaller_and_found_there(
    frontal: list, backend: FaceBackend, size: int
):
    portrait = frontal[0].portraits[0]
    made, head = compose_far(portrait, PLAIN, np.random.default_rng(4), size, 0.6)
    near = compose(portrait, PLAIN, np.random.default_rng(4), size)
    assert (made.image.shape, head.shape) == ((size, size, 3), (size, size))
    apart = [np.linalg.norm(one.landmarks[1] - one.landmarks[0]) for one in (made, near)]
    assert apart[0] == pytest.approx(0.6 * apart[1], rel=0.03)
    found = backend.detect(cv2.resize(made.image, (384, 384), interpolation=cv2.INTER_CUBIC))
    (face,) = (one.scaled(size / 384) for one in found)
    assert np.abs(face.landmarks - made.landmarks).mean() < 1.5
    x, y = made.landmarks.round().astype(int).T
    assert head[y, x].all()
    assert 0.05 < head.mean() < 0.3


def test_captions_of_two_name_both_within_the_text_encoders_reach():
    rng = np.random.default_rng(0)
    drawn = [draw_description(rng) for _ in range(400)]
    texts = [pair_caption(*two, rng) for two in zip(drawn[::2], drawn[1::2], strict=True)]
    assert all(text.startswith("two people, a ") for text in texts)
    assert all(" on the left and a " in text and " on the right" in text for text in texts)
    one, other = drawn[:2]
    assert any(one.color in text.split(" on the left")[0] for text in texts[:1])
    assert other.color in texts[0].split(" on the left")[1]
    ids = tokenize(texts)
    # The last token ends the text: nothing was cut.
    assert int((ids != ids[0, -1]).sum(dim=1).max()) < ids.shape[1] - 1


def test_chunks_of_editions_lie_side_by_side(frontal: list, tmp_path: Path):
    from infinite_id.training import dataset

    dataset._save_people(people_path(tmp_path, 0, 96), frontal)
    assert not people_path(tmp_path, 0).exists()
    own = load_people(tmp_path, 1, "train", size=96)
    picture_chunk(tmp_path, own, "train", 0, 96)
    made = load_pictures(tmp_path, own, "train", 1, 96)
    assert made.images.shape == (1000, 96, 96, 3)
    assert np.mean(made.style == "photo") == pytest.approx(EDITIONS[96].photo_share, abs=0.06)
    assert np.mean(made.other >= 0) == pytest.approx(EDITIONS[96].pair_share, abs=0.04)
    assert np.all(made.other != made.person)
    pair = int(np.flatnonzero(made.other >= 0)[0])
    assert made.captions[pair].startswith("two people, ")
    lone = made.lone_photos()
    assert set(made.style[lone]) == {"photo"}
    assert np.all(made.other[lone] < 0)
    assert made.first(3).images.shape == (3, 96, 96, 3)


def test_styles_and_scenes_differ(people: list):
    def picture(description: Description) -> np.ndarray:
        made = compose(people[0].portraits[0], description, np.random.default_rng(2))
        return made.image.astype(float)

    styles = [picture(replace(PLAIN, style=style)) for style in STYLES]
    scenes = [picture(replace(PLAIN, scene=scene)) for scene in SCENES]
    for group in (styles, scenes):
        distances = [np.abs(a - b).mean() for i, a in enumerate(group) for b in group[:i]]
        assert min(distances) > 4


def test_captions_say_what_is_drawn():
    rng = np.random.default_rng(0)
    description = Description("orange", "jacket", "beach", "sunset", "comic")
    texts = [caption(description, rng) for _ in range(200)]
    assert sum("orange" in text for text in texts) > 150
    assert sum("beach" in text for text in texts) > 150
    assert all("comic book style" in text for text in texts)
    assert not any("a orange" in text for text in texts)


def test_slide_prompts_are_within_reach_of_the_grammar():
    rng = np.random.default_rng(0)
    drawn = " ".join(caption(draw_description(rng), rng) for _ in range(3000)).replace(",", " ")
    known = set(drawn.split())
    asked = set(" ".join(SLIDE_PROMPTS).replace(",", " ").split())
    assert asked <= known
    ids = tokenize(SLIDE_PROMPTS)
    assert ids.shape == (len(SLIDE_PROMPTS), 64)


def test_splits_share_no_person():
    remainders = sorted(value for rest in SPLITS.values() for value in rest)
    assert remainders == list(range(20))
    assert split_of(40) == "test"
    assert split_of(103) == "scorer"


def test_people_of_photos_join_the_synthetic_ones(people: list, backend: FaceBackend, tmp_path):
    photos = tmp_path / "photos"
    (photos / "ann").mkdir(parents=True)
    for number, portrait in enumerate(people[0].portraits):
        Image.fromarray(portrait.image).resize((256, 256)).save(photos / "ann" / f"{number}.png")
    Image.fromarray(people[1].portraits[0].image).resize((256, 256)).save(photos / "bob.png")
    Image.new("RGB", (200, 200), "white").save(photos / "nobody.png")
    (photos / "broken.jpg").write_bytes(b"no picture")
    data = tmp_path / "data"
    digest, rejects = photos_chunk(data, photos)
    assert rejects == {"no_face": 1, "not_an_image": 1}
    found = [load_people(data, 0, split, digest) for split in SPLITS]
    # Of a few people none is held out.
    assert [len(part.index) for part in found] == [2 * (split == "train") for split in SPLITS]
    faces = np.concatenate([part.face for part in found])
    images = np.concatenate([part.images for part in found])
    order = np.argsort(np.concatenate([part.index for part in found]))
    ann, bob = faces[order]
    assert ann[0] @ people[0].portraits[0].face > 0.6
    assert bob[0] @ people[1].portraits[0].face > 0.6
    # One photo gives three different views of the same person.
    assert min(bob[0] @ bob[1], bob[0] @ bob[2]) > 0.5
    assert not np.array_equal(images[order][1, 0], images[order][1, 1])
    assert photos_chunk(data, photos) == (digest, {})


def test_photos_without_a_usable_face_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"holds no photo, allowed: a folder with \.bmp"):
        photos_chunk(tmp_path / "data", tmp_path)
    Image.new("RGB", (200, 200), "white").save(tmp_path / "nobody.png")
    with pytest.raises(ValueError, match=r"gave nobody \(1 no_face\), allowed"):
        photos_chunk(tmp_path / "data", tmp_path)
