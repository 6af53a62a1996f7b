"""Requirements on a finished run."""

from __future__ import annotations

import pytest

from jobs.benchmark import failed_requirements
from pipelines.settings import Requirement

REPORT = {
    "methods": [{"method": "a", "style": None, "cells": {"x": {"mean": 0.5}, "y": {"mean": None}}}],
    "styles": [{"method": "a", "style": "raw", "cells": {"x": {"mean": 0.25}}}],
}


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ({"method": "a", "metric": "x", "at_least": 0.5, "at_most": 0.5}, []),
        (
            {"method": "a", "metric": "x", "at_least": 0.6},
            ["requirement: x of a is 0.5, at least 0.6 wanted"],
        ),
        (
            {"method": "a", "metric": "x", "style": "raw", "at_most": 0.2},
            ["requirement: x of a in raw is 0.25, at most 0.2 wanted"],
        ),
        ({"method": "a", "metric": "y"}, ["requirement: y of a was not measured"]),
        ({"method": "b", "metric": "x"}, ["requirement: x of b was not measured"]),
    ],
)
def test_each_miss_is_one_sentence(requirement, said):
    assert failed_requirements(REPORT, [Requirement(**requirement)]) == said
