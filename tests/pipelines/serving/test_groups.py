"""Several people in one picture over HTTP: `group` of `/v1/generate`, and the client's."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from infinite_id.client import Client, ServiceError
from tests.pipelines.serving.conftest import upload
from tests.pipelines.serving.test_app import BODY, pixels
from tests.pipelines.serving.test_truth import told

LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def ids(client):
    return [upload(client, person) for person in (0, 1)]


def group(ids, *regions):
    members = [{"identity_id": key} for key in ids]
    for member, region in zip(members, regions, strict=False):
        member["region"] = region
    return {**BODY, "group": members}


def test_a_group_is_a_picture_with_scores_of_each_person(client, ids):
    body = {**group(ids, LEFT, RIGHT), "scores": True}
    (made,) = client.post("/v1/generate", json=body).json()["images"]
    assert made["regions"] == [LEFT, RIGHT]
    assert [one["number"] for one in made["people"]] == [0, 1]
    assert [one["region"] for one in made["people"]] == [LEFT, RIGHT]
    assert {one["faces"] for one in made["people"]} == {made["scores"]["face_count"]}
    # What is said of one person is not said of a group.
    assert made["scores"]["identity_facenet"] is None
    assert isinstance(made["scores"]["text_score"], float)
    # Who they are works like a password.
    assert not any(key in str(made) for key in ids)
    other = client.post("/v1/generate", json=group(ids[::-1], RIGHT, LEFT)).json()["images"][0]
    alone = client.post("/v1/generate", json={**BODY, "identity_id": ids[0]}).json()["images"][0]
    shown = [pixels(base64.b64decode(one["data"])).astype(int) for one in (made, other, alone)]
    assert np.abs(shown[0] - shown[1]).max() <= 1
    assert np.abs(shown[0] - shown[2]).max() > 1
    assert (alone["regions"], alone["people"]) == (None, [])


@pytest.mark.parametrize(
    ("regions", "sentence"),
    [
        ((LEFT,), "region is given for 1 of 2 people, allowed: one for each person, or none."),
        ((LEFT, [0.2, 0, 0.6, 1]), "share 75% of the smaller one), allowed: at most 25%."),
        ((LEFT, [0.6, 0, 0.5, 1]), "with 0 <= x0 < x1 <= 1"),
        ((LEFT, [0.6, 0, 1.5, 1]), "less than or equal to 1"),
        ((LEFT, [0.6, 0, 1]), "at least 4 items"),
    ],
)
def test_regions_that_do_not_fit_are_one_sentence(client, ids, regions, sentence):
    status, code, message = told(client.post("/v1/generate", json=group(ids, *regions)))
    assert status == 422
    assert code in ("out_of_range", "invalid_request")
    assert sentence in message


def test_who_is_said_once_and_each_person_stands_once(client, ids):
    both = {**group(ids, LEFT, RIGHT), "identity_id": ids[0]}
    assert told(client.post("/v1/generate", json=both))[1] == "who"
    twice = group([ids[0], ids[0]], LEFT, RIGHT)
    assert told(client.post("/v1/generate", json=twice))[2] == (
        "group is of one person several times, allowed: each person once."
    )
    unknown = group([ids[0], "nobody"], LEFT, RIGHT)
    assert told(client.post("/v1/generate", json=unknown))[0] == 404
    for count in (1, 9):
        assert client.post("/v1/generate", json=group(ids[:1] * count)).status_code == 422


def test_a_prompt_without_enough_faces_for_its_people_is_refused(client, ids):
    body = {**group(ids), "prompt": "a blue wall"}
    status, code, message = told(client.post("/v1/generate", json=body))
    assert (status, code) == (422, "refused")
    assert "has 2 people and no regions" in message


def test_the_client_names_a_group(live_url, ids):
    with Client(live_url) as api:
        made = api.generate(
            "two people, a {subject}", group=ids, regions=[LEFT, RIGHT], steps=2, scores=True
        )
        picture = made.pictures[0]
        assert picture.regions == (tuple(LEFT), tuple(RIGHT))
        assert [one.number for one in picture.people] == [0, 1]
        assert made.request["group_regions"] == [LEFT, RIGHT]
        assert not any(key in repr(made) + str(made.request) for key in ids)
        with pytest.raises(ValueError, match="regions are 1, allowed: 2, one a person"):
            api.generate("two", group=ids, regions=[LEFT])
        with pytest.raises(ValueError, match="regions are 1, allowed: 0"):
            api.generate("two", identity=ids[0], regions=[LEFT])
        with pytest.raises(ServiceError, match="less than or equal to 1"):
            api.generate("two", group=ids, regions=[LEFT, [0, 0, 2, 1]])


def test_the_description_of_the_service_has_an_example_of_a_group(client):
    body = client.get("/openapi.json").json()["components"]["schemas"]["GenerateBody"]
    example = body["examples"][1]["group"]
    assert [member["region"] for member in example] == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
