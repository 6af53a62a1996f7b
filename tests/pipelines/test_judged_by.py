"""Who judges a picture: the person, a mix's people by their weights, the original of a variant."""

from __future__ import annotations

from types import SimpleNamespace

from pipelines.benchmark import _people
from pipelines.plan.requests import Subject
from pipelines.stages.scoring import ScoringActor
from pipelines.tables.storage import Store


def test_variants_are_judged_by_the_original_and_mixes_by_their_weights(tmp_path):
    parts = ({"identity_id": "a", "weight": 0.3}, {"identity_id": "b", "weight": 0.7})
    mix = Subject("a~b", "person", "d", parts, "interpolate")
    plan = SimpleNamespace(subjects=[mix], texts=[])
    actor = ScoringActor(Store(str(tmp_path)), plan, None, "pocket", judged_by={"a_x4": "a"})
    found = {name: actor._people_in({"identity_id": name}) for name in ("a", "a_x4", "a~b")}
    assert found == {"a": {"a": 1.0}, "a_x4": {"a": 1.0}, "a~b": {"a": 0.3, "b": 0.7}}


def test_a_person_in_four_resolutions_is_one_person():
    """The last line of the run said 16 people where there were 4."""
    parts = ({"identity_id": "a", "weight": 1.0}, {"identity_id": "b", "weight": 1.0})
    people = [Subject(name, "person", "d") for name in ("a", "a_x2", "a_x4", "b")]
    subjects = [*people, Subject("a+b", "person", "d", parts, "stack")]
    assert _people(subjects, {"a_x2": "a", "a_x4": "a"}) == 2
