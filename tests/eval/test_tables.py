"""Rows, pairs and extremes of runs whose values are known."""

from __future__ import annotations

import pytest

from eval.reports import tables
from eval.reports.tables import extremes, make_tables
from eval.reports.thumbnails import choose_pictures
from eval.run_data import read_run
from tests.eval.runs import write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, people=5, seeds=2)
    return read_run(folder)


@pytest.mark.parametrize(
    ("reference", "method", "difference"),
    [
        (None, "ip_adapter", -0.2),
        ("ip_adapter", "infinite_id", 0.2),
        ("text_only", "ip_adapter", 0.3),
    ],
)
def test_differences_are_to_the_reference(data, reference, method, difference):
    found = make_tables(data, reference=reference)
    assert found.reference == (reference or "infinite_id")
    (row,) = [row for row in found.methods if row.method == method]
    assert row.differences["identity_facenet"].mean == pytest.approx(difference, abs=1e-6)
    # The same in every pair: the interval has no width, whatever the people's spread.
    assert row.differences["identity_facenet"].high == pytest.approx(difference, abs=1e-6)


def test_a_pair_whose_other_half_has_no_face_is_unpaired(data):
    found = make_tables(data)
    (row,) = [row for row in found.methods if row.method == "text_only"]
    # The last person in anime: 2 prompts x 2 seeds.
    assert row.differences["identity_facenet"].unpaired == 4
    assert row.differences["text_score"].unpaired == 0


def test_of_many_people_the_lowest_are_listed(data, monkeypatch):
    monkeypatch.setattr(tables, "MAX_IDENTITIES", 2)
    found = make_tables(data)
    # Similarity rises with person % 4.
    assert [row.identity_id for row in found.identities] == ["person_0", "person_4"]
    assert found.identities_left_out == 3


@pytest.mark.parametrize(
    ("reference", "mean"), [(None, 0.505), ("ip_adapter", 0.305), ("text_only", 0.005)]
)
def test_people_are_told_by_one_method(data, reference, mean):
    found = make_tables(data, reference=reference)
    assert found.main == (reference or "infinite_id")
    assert {row.method for row in found.identities} == {found.main}
    assert found.identities[0].cells["identity_facenet"].mean == pytest.approx(mean, abs=1e-6)
    assert found.identities[0].requests == 8


def test_extremes_follow_the_metrics_direction(data):
    found = extremes(data, data.metrics, count=3)
    row_of = {name: row for row, name in enumerate(data.samples["sample_id"])}
    values = data.scores["identity_facenet"]
    worst = [values[row_of[name]] for name in found["identity_facenet"]["worst"]]
    best = [values[row_of[name]] for name in found["identity_facenet"]["best"]]
    assert worst == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert best == pytest.approx([0.81, 0.81, 0.81], abs=1e-6)
    assert set(found) == {"face_found", "identity_facenet", "text_score"}


def test_chosen_pictures_fill_grids_and_hold_the_extremes(data):
    extreme = data.samples["sample_id"][-2:].tolist()
    chosen = choose_pictures(data, extreme, cap=32)
    assert len(chosen) == 32
    assert set(extreme) <= set(chosen)
    rows = [n for n, name in enumerate(data.samples["sample_id"]) if name in set(chosen)]
    first = {
        (data.samples["identity_id"][n], data.samples["method"][n], data.samples["style"][n])
        for n in rows
        if (data.samples["prompt_id"][n], data.samples["seed"][n]) == ("beach", 0)
    }
    # All of the first prompt and seed: 5 people x 3 methods x 2 styles.
    assert len(first) == 30


def test_no_more_pictures_than_there_are(data):
    assert len(choose_pictures(data, [], cap=10_000)) == len(data)
