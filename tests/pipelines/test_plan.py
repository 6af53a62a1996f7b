"""The request plan: every request once, text-major, ids that name the picture and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan.requests import (
    PlanSettings,
    RequestPlan,
    Subject,
    Text,
    request_from_row,
    request_row,
)

SETTINGS = PlanSettings(64, 64, 30, 5.0)


def make_plan(people=3, texts=2, seeds=2, methods=1, unit_size=4, limit=None, **changes):
    return RequestPlan(
        methods=[(f"m{i}", f"rev{i}") for i in range(methods)],
        texts=[Text(f"p{i}", "raw", "a {subject} smiling", f"style {i}", "") for i in range(texts)],
        subjects=[Subject(f"id{i}", "woman", f"d{i}") for i in range(people)],
        seeds=list(range(seeds)),
        settings=changes.get("settings", SETTINGS),
        unit_size=unit_size,
        limit=limit,
    )


@given(
    people=st.integers(1, 12),
    texts=st.integers(1, 4),
    seeds=st.integers(1, 3),
    methods=st.integers(1, 3),
    unit_size=st.integers(1, 9),
    limit=st.one_of(st.none(), st.integers(1, 40)),
)
def test_units_hold_every_request_once(people, texts, seeds, methods, unit_size, limit):
    plan = make_plan(people, texts, seeds, methods, unit_size, limit)
    rows = [row for unit in range(plan.units) for row in plan.table(unit).to_pylist()]
    every = itertools.product(
        range(methods), range(texts), range(seeds), [f"id{i}" for i in range(people)]
    )
    wanted = {}
    for method, text, seed, person in every:
        wanted.setdefault(method, []).append((f"m{method}", f"p{text}", seed, person))
    most = limit or people * texts * seeds
    expected = [key for method in range(methods) for key in wanted[method][:most]]
    found = [(r["method"], r["prompt_id"], r["seed"], r["identity_id"]) for r in rows]
    assert found == expected
    assert len(plan) == len(rows)
    assert len({row["sample_id"] for row in rows}) == len(rows)
    assert max(plan.unit_rows(unit) for unit in range(plan.units)) <= unit_size


def test_a_unit_of_many_people_shares_one_text():
    plan = make_plan(people=20, unit_size=8)
    for unit in range(plan.units):
        assert len({(r["prompt"], r["seed"]) for r in plan.table(unit).to_pylist()}) == 1


def test_prompts_are_filled_in():
    row = make_plan().row(0, 0)
    assert row["prompt"] == "a woman smiling, style 0"


@pytest.mark.parametrize(
    "change",
    [
        {"settings": replace(SETTINGS, num_inference_steps=31)},
        {"settings": replace(SETTINGS, guidance_scale=5.5)},
        {"settings": replace(SETTINGS, height=72)},
    ],
)
def test_the_sample_id_depends_on_the_settings(change):
    assert make_plan(**change).row(0, 0)["sample_id"] != make_plan().row(0, 0)["sample_id"]


def test_the_sample_id_does_not_depend_on_the_cut():
    same = {make_plan(unit_size=n).row(0, 5)["sample_id"] for n in (1, 4, 8)}
    assert len(same) == 1


@pytest.mark.parametrize("mixed", [False, True])
def test_every_row_becomes_the_request_that_it_names(mixed: bool):
    plan = make_plan()
    subject = plan.subjects[0]
    if mixed:
        parts = [{"identity_id": "a", "weight": 0.3}, {"identity_id": "b", "weight": 0.7}]
        subject = replace(subject, mix_parts=tuple(parts), mix_mode="interpolate")
    row = request_row(plan.methods[0], subject, plan.texts[0], 7, plan.settings)
    request = request_from_row(row)
    assert (request.sample_id, request.seed, request.prompt) == (row["sample_id"], 7, row["prompt"])
    assert request.group is None
    assert (request.mix is not None) == mixed


def test_the_digest_names_the_plan():
    assert make_plan().digest == make_plan().digest
    assert make_plan(people=4).digest != make_plan().digest


@pytest.mark.parametrize(
    ("name", "kwargs"), [("batch size", {"unit_size": 0}), ("limit", {"limit": 0})]
)
def test_bad_numbers(name, kwargs):
    with pytest.raises(ValueError, match=f"{name} is 0, allowed: 1 or more"):
        make_plan(**kwargs)
