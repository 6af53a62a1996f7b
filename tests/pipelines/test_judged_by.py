"""Who judges a picture: the person, a mix's people by their weights, the original of a variant."""

from __future__ import annotations

from types import SimpleNamespace

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
