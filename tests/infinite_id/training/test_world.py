"""The pocket world: reproducible, true to its captions, and with faces that are found."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from infinite_id.faces.detection import FaceBackend, find_faces
from infinite_id.faces.loading import load_face_backend
from infinite_id.training.captions import (
    COLORS,
    SCENES,
    SLIDE_PROMPTS,
    STYLES,
    Description,
    caption,
    draw_description,
)
from infinite_id.training.dataset import SPLITS, load_people, photos_chunk, split_of
from infinite_id.training.text import tokenize
from infinite_id.training.world import compose

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
