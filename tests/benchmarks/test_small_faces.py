"""Small faces with and without the detail pass: pairs, cost in rows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.pocket_people import drawn_people
from benchmarks.run import load_scenario
from benchmarks.small_faces import run, scenes
from infinite_id.details_config import DetailsConfig
from infinite_id.faces.loading import embedded_faces

SCENARIO = load_scenario("small_faces")
ARGUMENTS: dict[str, Any] = SCENARIO["arguments"]


def test_each_person_is_put_where_another_ones_small_face_is() -> None:
    people = list(drawn_people(2, embedded_faces()))
    cases = scenes(people, {**ARGUMENTS, "pictures": 2}, 64)
    assert [number for number, _ in cases] == [0, 0, 1, 1]
    assert len({request.seed for _, request in cases}) == 4
    for _, request in cases:
        assert request.init_image is not None
        assert request.init_image.mask_image is not None
        columns = np.flatnonzero(request.init_image.mask_image.any(axis=0))
        # A head is some 1.3 times as wide as its face, with three pixels for its edges.
        assert 16 < len(columns) < 1.4 * 24 + 3
        request.init_image.check(64, 64, 30)


def test_the_settings_are_ones_and_the_figures_those_of_the_requirements(tmp_path: Path) -> None:
    DetailsConfig(**ARGUMENTS["details"])
    sheet = tmp_path / "sheet.png"
    small = {"people": 2, "pictures": 1, "steps": 3, "strength": 0.7, "sheet": str(sheet)}
    every = {"share": 1.0, "margin": 0.5, "strength": 0.7}
    figures = run(ARGUMENTS | small | {"details": every})
    assert {one["figure"] for one in SCENARIO["requirements"]} <= {*figures, "gain", "gain_low"}
    assert figures["changed_outside"] == 0
    # Two of three steps, with guidance, of a text and a person.
    assert figures["rows_without"] == 2 * 4
    assert figures["rows_with"] == 2 * 4 + figures["faces_made_again"] * 2 * 4
    with Image.open(sheet) as shown:
        assert shown.size == (2 * 64 * 2, 3 * 64 * 2)


def test_nobody_to_compare_with_is_refused() -> None:
    with pytest.raises(ValueError, match="people is 1 and pictures 2, allowed: 2 or more and 1"):
        run(ARGUMENTS | {"people": 1})
