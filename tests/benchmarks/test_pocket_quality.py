"""What the pocket benchmark says of pictures whose answers are known; no model generates here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.pocket_people import JudgedPerson, find_face
from benchmarks.pocket_quality import (
    COMPARISONS,
    GRAY_STYLES,
    Case,
    _absolute,
    _cloth_color,
    _directions,
    _identity,
    cases_of,
    face_distance,
    measure,
    run,
)
from benchmarks.run import load_scenario
from eval.judges.facenet import FaceNet
from eval.judges.pocket_score import PocketImageText
from infinite_id.config import preset
from infinite_id.identity.encoders import IdentityEncoder, load_identity_encoder
from infinite_id.training.captions import COLORS, SCENES, STYLES
from infinite_id.types import GenerationRequest, Identity
from tests.infinite_id.face_photos import PORTRAITS, portraits

NAN = float("nan")
ARGUMENTS = load_scenario("pocket_quality")["arguments"]


def case(person: int, style: str = "photo", color: str = "red", scene: str = "beach") -> Case:
    text = f"a person wearing a {color} shirt, {scene}"
    request = GenerationRequest(
        "sample", str(person), "infinite_id", text, "", style, 1, 64, 64, 1, 1.5
    )
    return Case(request, person, color, scene, style)


def people(count: int) -> list[Any]:
    return [None] * count


def table(similarity: list[list[float]], cases: list[Case], **choices: Any) -> dict[str, NDArray]:
    """Scores of pictures in which every asked-for part was drawn, but for `choices`."""
    right = {
        "color_choice": [list(COLORS).index(one.color) for one in cases],
        "scene_choice": [list(SCENES).index(one.scene) for one in cases],
        "style_choice": [list(STYLES).index(one.style) for one in cases],
        "color_rule": [list(COLORS).index(one.color) for one in cases],
    }
    scores = {name: np.array(choices.get(name, known)) for name, known in right.items()}
    return _identity(np.array(similarity), [one.person for one in cases]) | scores


def test_the_margin_is_the_right_persons_cosine_less_the_mean_of_the_wrong_ones() -> None:
    found = _identity(np.array([[0.9, 0.1, 0.3], [0.5, 0.2, 0.1], [NAN] * 3]), [0, 1, 2])
    np.testing.assert_allclose(found["identity"], [0.9, 0.2, NAN])
    np.testing.assert_allclose(found["margin"], [0.9 - 0.2, 0.2 - 0.3, NAN])
    assert found["face"].tolist() == [1, 1, 0]


def test_rank_one_counts_a_missing_face_as_a_miss_and_is_told_over_chance() -> None:
    cases = [case(0), case(1, "oil"), case(0), case(2)]
    # The first person of a row without numbers must not count as the nearest one.
    similarity = [[0.9, 0.1, 0.3], [0.5, 0.2, 0.1], [NAN] * 3, [-0.9, -0.8, -0.1]]
    found = _absolute(table(similarity, cases), cases, people(3))
    assert found["rank1"] == 2 / 4
    assert found["rank1_over_chance"] == pytest.approx(1.5)
    assert found["identity_margin"] == pytest.approx(np.mean([0.7, -0.1, 0.75]))
    assert found["identity_margin_low"] <= found["identity_margin"] <= found["identity_margin_high"]


def test_photos_and_styled_pictures_are_told_apart() -> None:
    gray, bright = GRAY_STYLES[0], "oil"
    cases = [case(0), case(1), case(0, gray), case(1, gray), case(0, bright), case(1, bright)]
    face, none = [0.5, 0.5], [NAN, NAN]
    red, blue = list(COLORS).index("red"), list(COLORS).index("blue")
    found = _absolute(
        table(
            [face, none, none, none, none, face],
            cases,
            # Right in one photo alone; those that were drawn without colour do not count.
            color_choice=[red, blue, blue, blue, blue, blue],
            color_rule=[red, blue, blue, blue, blue, blue],
            scene_choice=[0, 0, 0, 1, 1, 1],
        ),
        cases,
        people(2),
    )
    assert (found["face_found_photo"], found["face_found_styled"]) == (1 / 2, 1 / 4)
    assert found["color_by_scorer"] == 1 / 4
    assert found["color_by_rule"] == 1 / 2
    assert found["scene_by_scorer"] == 3 / 6
    assert found["style_by_scorer"] == 1
    photos_right = [list(STYLES).index("photo")] * 6
    confused = _absolute(table([face] * 6, cases, style_choice=photos_right), cases, people(2))
    assert (confused["style_by_scorer"], confused["style_by_scorer_styled"]) == (2 / 6, 0)


@pytest.mark.parametrize("color", sorted(COLORS))
def test_the_rule_reads_the_colour_off_the_shoulders_alone(color: str) -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    near = np.array(COLORS[color]) + rng.integers(-8, 9, (7, 64, 3))
    picture[57:] = near.clip(0, 255)
    # Skin or hair at the neck, and what stands at the picture's edges.
    picture[57:, 24:40] = 255 - np.array(COLORS[color])
    picture[57:, :14] = picture[57:, 50:] = 0
    assert list(COLORS)[_cloth_color(picture)] == color


def test_a_comparison_is_ours_minus_the_others_on_the_same_request() -> None:
    names = [reference for reference, _ in COMPARISONS.values()]
    # Twelve people with two requests each: with three, an honest interval is wide.
    cases = [case(person) for person in range(12) for _ in range(2)]
    own = np.tile([0.9, 0.1, 0.8, 0.2, NAN, 0.3], 4)
    ours = {"identity": own, "margin": own, "text": -own, "style": own}
    # Far below ours on every request but one, where ours shows no face.
    other = own - np.tile([0.1, 0.2, 0.3, 0.1, 0.0, 0.2], 4)
    other[4::6] = 9
    theirs = {"identity": other, "margin": other, "text": -other, "style": other}
    found = _directions({"infinite_id": ours} | dict.fromkeys(names, theirs), cases)
    mean = np.mean([0.1, 0.2, 0.3, 0.1, 0.2])
    for begin, (_, scores) in COMPARISONS.items():
        for score in scores:
            sign = -1 if score == "text" else 1
            figure = f"{begin}_{score}"
            assert found[figure] == pytest.approx(sign * mean)
            low, high = found[f"{figure}_low"], found[f"{figure}_high"]
            # Paired: the scores vary by 0.8 from request to request, the differences by 0.2.
            assert low <= found[figure] <= high < low + 0.1
            assert (low > 0) == (sign > 0)
    assert len(found) == 3 * sum(len(scores) for _, scores in COMPARISONS.values())


def test_the_distance_of_faces_is_small_within_one_world_and_large_between_two() -> None:
    rng = np.random.default_rng(3)

    def world(middle: int, count: int) -> NDArray:
        rows = 0.3 * rng.normal(size=(count, 64)) / 8
        rows[:, middle] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    seen, alike, other = world(0, 60), world(0, 60), world(1, 60)
    assert face_distance(np.vstack([alike, np.full((5, 64), NAN)]), seen) < 0.05
    assert face_distance(other, seen) > 1
    assert np.isnan(face_distance(np.full((5, 64), NAN), seen))


def test_methods_that_were_not_asked_for_are_not_compared() -> None:
    scores = {name: np.array([0.5, 0.6]) for name in ("identity", "margin", "text", "style")}
    found = _directions({"infinite_id": scores, "ip_adapter": scores}, [case(0), case(1)])
    assert {name.removesuffix("_low").removesuffix("_high") for name in found} == {
        f"ours_minus_ip_adapter_{score}" for score in ("identity", "margin", "text")
    }
    assert _directions({"ip_adapter": scores, "photomaker": scores}, [case(0), case(1)]) == {}


def test_everybody_gets_photos_and_styled_pictures_that_say_what_is_asked_for() -> None:
    asked = cases_of(people(3), {"prompts": 4, "steps": 7, "guidance_scale": 2.0})
    assert [one.person for one in asked] == [0] * 4 + [1] * 4 + [2] * 4
    assert [one.style == "photo" for one in asked] == [True, False] * 6
    assert len({one.request.seed for one in asked}) == len(asked)
    for one in asked:
        prompt = one.request.prompt
        assert f" {one.color} shirt" in prompt
        assert SCENES[one.scene][0] in prompt
        assert prompt.endswith(STYLES[one.style][0])


@pytest.fixture(scope="module")
def encoder() -> IdentityEncoder:
    return load_identity_encoder(preset("pocket").encoders)


def test_pictures_of_the_right_person_have_a_margin_and_gray_ones_no_face(
    encoder: IdentityEncoder,
) -> None:
    judge, known, shown = FaceNet(), [], []
    # FaceNet tells these apart in 64 px.
    for number in (2, 3, 4):
        first, *others = portraits()[PORTRAITS * number : PORTRAITS * (number + 1)]
        shown.append(first)
        seen = judge.embed(others, [find_face(one, encoder.faces) for one in others]).mean(axis=0)
        blank = np.zeros((112, 112, 3), np.uint8)
        identity = Identity(str(number), (blank,), encoder.embed([blank]))
        known.append(JudgedPerson(identity, seen / np.linalg.norm(seen), seen[None]))
    shown.append(np.full((64, 64, 3), 90, np.uint8))
    cases = [case(0), case(1, "oil", "blue"), case(2), case(2)]
    found = measure(shown, cases, known, encoder.faces, judge, PocketImageText())
    assert found["face"].tolist() == [1, 1, 1, 0]
    assert (found["margin"][:3] > 0.2).all()
    assert found["similarity"][:3].argmax(axis=1).tolist() == [0, 1, 2]
    assert np.isnan(found["margin"][3])
    assert (found["detector"][:3] > 0.6).all()
    assert found["detector"][3] == 0
    assert np.isnan(found["embedded"][3]).all()
    # What it says of a text needs no face.
    assert np.isfinite(found["text"]).all()
    # In gray the shoulders are neither red nor blue.
    assert list(COLORS)[found["color_rule"][3]] in ("gray", "brown")
    exchanged = [case(1), case(2), case(0), case(0)]
    wrong = measure(shown, exchanged, known, encoder.faces, judge, PocketImageText())
    assert (wrong["margin"][:3] < 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "bogus"}, "split is 'bogus', allowed: "),
        ({"methods": ["infinite_id", "magic"]}, "method is 'magic', allowed: "),
        ({"methods": []}, "methods are none, allowed: one or more"),
        ({"people": 1}, "people is 1, allowed: 2 or more"),
        ({"prompts": "many"}, "prompts is 'many', allowed: 1 or more"),
    ],
)
def test_wrong_arguments_are_one_sentence_before_anybody_is_drawn(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(ARGUMENTS | {"people": 2, "prompts": 1, "threads": 1} | wrong)
    assert "\n" not in str(caught.value)
