"""A style without words has no style score: its name is no part of the prompt."""

from __future__ import annotations

from types import SimpleNamespace

from pipelines.plan.requests import Text
from pipelines.stages.scoring import ScoringActor
from pipelines.tables.storage import Store


def test_the_name_of_a_wordless_style_is_not_scored(tmp_path):
    texts = [Text("beach", "raw_photo", "a person", "", ""), Text("beach", "ink", "a", "ink", "")]
    plan = SimpleNamespace(subjects=[], texts=texts)
    actor = ScoringActor(Store(str(tmp_path)), plan, ["style_score"], "pocket")
    assert actor._style_words == {"raw_photo": "", "ink": "ink"}
