"""What the benchmark of two people says of pictures whose answers are known; no model generates
here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.groups import HALVES, Seen, couples_of, figures_of, judged, run
from benchmarks.pocket_people import JudgedPerson, find_face
from benchmarks.run import load_scenario
from eval.groups import PersonSeen
from eval.judges.networks import Networks
from infinite_id.types import Identity, IdentityEmbedding
from tests.infinite_id.face_photos import PORTRAITS, portraits, resized

NAN = float("nan")
ARGUMENTS = load_scenario("groups")["arguments"]
EMPTY = IdentityEmbedding(np.zeros(1, np.float32), np.zeros((1, 1), np.float16), "")


def person(place: int | None, mixed_up: bool | None = False) -> PersonSeen:
    return PersonSeen(place, place, NAN, NAN, NAN, None if place is None else mixed_up)


def seen(couple: str, people: list[PersonSeen], margin: float, alone: float) -> Seen:
    places = [margin if one.in_region is not None else NAN for one in people]
    return Seen(couple, sum(one.in_region is not None for one in people), people,
                [margin] * 2, places, [alone] * 2)  # fmt: skip


def test_shares_and_margins_of_known_pictures() -> None:
    rows = [
        seen("a", [person(0), person(1)], 0.3, 0.4),
        seen("b", [person(0, True), person(1, True)], 0.1, 0.4),
        seen("c", [person(0), person(1)], 0.2, 0.2),
        seen("d", [person(0), person(1)], 0.2, 0.2),
        # One face, which would be the better of two: in no margin of a matched face.
        seen("e", [person(0), person(None)], 9.0, 0.4),
    ]
    found = figures_of(rows)
    assert found["faces_found"] == 4 / 5
    assert (found["no_face_left"], found["no_face_right"]) == (0, 1 / 5)
    assert found["mix_ups"] == 1 / 4
    assert found["margin_people"] == 8
    assert found["margin"] == pytest.approx(0.2)
    assert found["margin_alone"] == pytest.approx(0.3)
    assert found["margin_ratio"] == pytest.approx(2 / 3)
    assert found["margin_ratio_low"] < 2 / 3 < found["margin_ratio_high"]
    assert found["margin_in_region"] == pytest.approx((8 * 0.2 + 9) / 9)


def test_where_no_picture_shows_two_nothing_is_said_and_the_requirement_does_not_hold() -> None:
    rows = [seen(name, [person(0), person(None)], 0.3, 0.3) for name in "abc"]
    found = figures_of(rows)
    assert found["faces_found"] == 0
    assert np.isnan([found[name] for name in ("mix_ups", "margin", "margin_ratio")]).all()


def test_pairs_are_disjoint_and_each_one_alone_has_the_same_words_and_seed() -> None:
    asked = couples_of(ARGUMENTS | {"pairs": 3, "prompts": 2})
    assert [one.people for one in asked] == [(0, 1)] * 2 + [(2, 3)] * 2 + [(4, 5)] * 2
    assert len({one.together.seed for one in asked}) == len(asked)
    for one in asked:
        group = one.together.group
        assert group is not None
        assert group.people == tuple(str(number) for number in one.people)
        assert group.regions == HALVES
        for request, side in zip(one.alone, ("left", "right"), strict=True):
            words = request.prompt.split(",")[0]
            assert f"{words} on the {side}" in one.together.prompt
            assert (request.group, request.seed) == (None, one.together.seed)
        assert one.alone[1].identity_id == group.people[1]


def test_two_faces_in_their_halves_are_told_apart_from_two_that_changed_places() -> None:
    networks = Networks(("faces", "facenet"), "pocket", 1)
    known, shown = [], []
    for number in (2, 3, 4):
        first, *others = portraits()[PORTRAITS * number : PORTRAITS * (number + 1)]
        faces = [find_face(one, networks.faces) for one in others]
        seen = networks.facenet.embed(others, faces)
        mean = seen.mean(axis=0) / np.linalg.norm(seen.mean(axis=0))
        known.append(JudgedPerson(Identity(str(number), (), EMPTY), mean, seen))
        shown.append(first)
    couple = couples_of(ARGUMENTS | {"pairs": 1, "prompts": 1})[0]
    right = np.concatenate(shown[:2], axis=1)
    wrong = np.concatenate([shown[1], shown[0]], axis=1)
    alone = [resized(one, 2) for one in shown[:2]]
    found = judged(networks, known, [couple] * 2, [right, wrong], alone * 2)
    assert [one.faces for one in found] == [2, 2]
    assert [one.mixed_up for one in found[0].people] == [False, False]
    assert [one.mixed_up for one in found[1].people] == [True, True]
    np.testing.assert_allclose(found[0].margins, found[0].margins_in_region)
    # Matched faces keep their margin; those in place are another one's.
    assert min(found[1].margins) > 0.1 > max(found[1].margins_in_region)
    # Shrunk to half its size, the picture alone is the one in the picture of both.
    np.testing.assert_allclose(found[0].alone, found[0].margins, atol=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pairs": 1}, "pairs is 1, allowed: 2 or more"),
        ({"prompts": None}, "prompts is None, allowed: 1 or more"),
        ({"method": "magic"}, "method is 'magic', allowed: "),
    ],
)
def test_wrong_arguments_are_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(ARGUMENTS | {"threads": 1} | wrong)
    assert "\n" not in str(caught.value)
