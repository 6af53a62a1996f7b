"""What each column says of pictures whose truth is known: copies, others, damage, nobody, styles.

The people do not exist (`tests/assets`). One batch is scored; no method has a part in it.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from eval.judges.control import control_people
from eval.suite import load_suite
from infinite_id.prompts import shipped_styles
from infinite_id.training.styles import apply_style

ASSETS = Path(__file__).parents[1] / "assets"
PERSON = 3
OTHERS = [n for n in range(6) if n != PERSON]
# Names of the world's filters -> the shipped styles that they are.
STYLES = {"comic": "comic_book", "sketch": "sketch", "oil": "oil_painting"}
IDENTITY = ("identity_facenet", "identity_sface", "image_score")


def portrait(person: int, number: int = 0) -> NDArray[np.uint8]:
    return np.asarray(Image.open(ASSETS / f"person{person}_{number}.png").convert("RGB"))


def pictures() -> dict[str, tuple[NDArray[np.uint8], str]]:
    """name -> (picture, words of its style)."""
    rng, own = np.random.default_rng(0), portrait(PERSON)
    two = np.full((64, 96, 3), 120, np.uint8)
    two[:, :64], two[16:60, 52:96] = own, cv2.resize(portrait(0), (44, 44))
    sky = np.linspace(60, 200, 64).astype(np.uint8)
    plain = {
        "same": own,
        "other photo": portrait(PERSON, 1),
        "mirrored": own[:, ::-1].copy(),
        "blurred": cv2.GaussianBlur(own, (0, 0), 2),
        "noise": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "faceless": np.broadcast_to(sky[:, None, None], (64, 64, 3)).copy(),
        "two faces": two,
        **{f"person {n}": portrait(n) for n in OTHERS},
    }
    words = {name: shipped_styles()[style].words for name, style in STYLES.items()}
    styled = {name: (apply_style(own, name, rng), words[name]) for name in STYLES}
    return {name: (picture, "") for name, picture in plain.items()} | styled


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, float]]:
    """picture -> column -> value, against the person's first photo."""
    given, suite = pictures(), load_suite()
    reference = control_people()[PERSON][0]
    columns = suite.score(
        [picture for picture, _ in given.values()],
        ["a person"] * len(given),
        [[reference]] * len(given),
        [words for _, words in given.values()],
    )
    return {
        picture: {name: float(values[row]) for name, values in columns.items()}
        for row, picture in enumerate(given)
    }


def strangers(said: dict[str, dict[str, float]], column: str) -> float:
    return max(said[f"person {n}"][column] for n in OTHERS)


@pytest.mark.parametrize("column", IDENTITY)
def test_a_copy_scores_best(said, column):
    values = {name: row[column] for name, row in said.items() if not np.isnan(row[column])}
    assert max(values, key=values.get) == "same"
    assert values["same"] > 0.95


@pytest.mark.parametrize("column", IDENTITY)
def test_another_photo_of_the_person_is_nearer_than_anybody_else(said, column):
    assert said["same"][column] > said["other photo"][column] > strangers(said, column)


@pytest.mark.parametrize("column", ["identity_facenet", "identity_sface"])
def test_a_mirrored_copy_is_still_a_copy(said, column):
    assert said["mirrored"][column] > said["other photo"][column]


@pytest.mark.parametrize("column", ["identity_facenet", "identity_sface"])
def test_blur_costs_likeness_but_makes_nobody_else(said, column):
    assert said["other photo"][column] > said["blurred"][column] > strangers(said, column)


@pytest.mark.parametrize("picture", ["noise", "faceless"])
def test_where_nobody_is_there_is_no_likeness(said, picture):
    row = said[picture]
    assert (row["face_found"], row["face_count"]) == (0, 0)
    assert all(np.isnan(row[column]) for column in IDENTITY)
    assert np.isfinite([row["text_score"], row["nsfw"]]).all()


def test_of_two_faces_the_larger_is_compared(said):
    assert said["two faces"]["face_count"] == 2
    for column in ("identity_facenet", "identity_sface"):
        assert said["two faces"][column] > said["other photo"][column]


@pytest.mark.parametrize("style", STYLES)
def test_a_stylised_copy_is_in_its_style_and_still_the_person(said, style):
    row = said[style]
    assert row["style_first"] == 1
    assert row["style_score"] > 0.3
    for column in ("identity_facenet", "identity_sface"):
        assert said["same"][column] > row[column] > strangers(said, column)


def test_pictures_without_a_style_have_no_style_score(said):
    assert np.isnan(said["same"]["style_score"])
    assert np.isnan(said["same"]["style_first"])


def test_portraits_are_decent(said):
    assert all(0 <= row["nsfw"] < 0.8 for row in said.values())
