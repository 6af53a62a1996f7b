"""Scenarios: their files, and the people that they derive."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from jobs.scenarios import CONFIGS
from pipelines.scenarios import Scenario, _mixes, _variants, load_scenario, scenario_names
from pipelines.settings import BenchmarkConfig, load_config
from pipelines.tables.schemas import IDENTITIES

SLIDES = {
    "main_table", "scatter", "raw_grid", "style_grid", "ablation_training_and_mixed_attention",
    "ablation_adain", "id_resolution", "identity_mixing", "interpolation", "dreambooth_prior",
}  # fmt: skip


def people(count: int) -> pa.Table:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)).save(stream, "PNG")
        photo = {"uri": None, "bytes": stream.getvalue()}
        rows.append({"identity_id": f"p{number}", "photos": [photo]})
    return pa.Table.from_pylist(rows, schema=IDENTITIES)


def test_every_figure_of_the_slides_has_its_scenario():
    assert set(scenario_names(CONFIGS)) == SLIDES


@pytest.mark.parametrize("name", sorted(SLIDES))
def test_every_scenario_is_a_valid_run(name):
    scenario, run = load_scenario(CONFIGS, name)
    config = load_config(None, **run)
    assert scenario.title
    assert config.preset == "pocket"
    if scenario.dreambooth is not None:
        assert {"dreambooth", "dreambooth_no_prior"} <= set(config.methods)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scenario": {"title": "t", "pepole": 2}}, "scenario broken: pepole: Extra inputs"),
        ({"scenario": {"note": "n"}}, "scenario broken: title: Field required"),
        ({"scenario": {"title": "t", "steps": 1}}, "scenario broken: steps: "),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, values, words):
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=words):
        load_scenario(tmp_path, "broken")


def test_an_unknown_scenario_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"scenario is 'x', allowed: main_table, .*, all"):
        load_scenario(CONFIGS, "x")


def test_interpolation_walks_from_one_to_the_other():
    scenario = Scenario(title="t", mix="interpolate", steps=11)
    rows = _mixes(people(2), scenario).to_pylist()
    weights = [[part["weight"] for part in row["parts"]] for row in rows]
    assert [b for _, b in weights] == pytest.approx([step / 10 for step in range(11)])
    assert [a + b for a, b in weights] == pytest.approx([1.0] * 11)
    assert {part["identity_id"] for row in rows for part in row["parts"]} == {"p0", "p1"}


def test_a_walk_has_six_pairs_in_which_everybody_is_once_a_and_once_b():
    scenario, _ = load_scenario(CONFIGS, "interpolation")
    rows = _mixes(people(scenario.people), scenario).to_pylist()
    pairs = {tuple(part["identity_id"] for part in row["parts"]) for row in rows}
    assert len(rows) == 66
    assert len(pairs) == 6
    for end in range(2):
        assert sorted(pair[end] for pair in pairs) == [f"p{n}" for n in range(6)]


def test_mixing_stacks_and_averages_each_pair():
    rows = _mixes(people(5), Scenario(title="t", mix="stack")).to_pylist()
    assert [(row["mix_id"], row["mode"]) for row in rows] == [
        ("p0+p1", "stack"), ("p0~p1", "interpolate"), ("p2+p3", "stack"), ("p2~p3", "interpolate"),
    ]  # fmt: skip


def test_mixing_needs_two_people():
    with pytest.raises(ValueError, match="has 1 people, allowed: 2 or more"):
        _mixes(people(1), Scenario(title="t", mix="stack"))


def test_the_photo_as_it_is_has_to_be_among_the_variants():
    with pytest.raises(ValueError, match=r"variants are \[2, 4\], allowed: with 1, the photo as"):
        _variants(people(1), [2, 4], BenchmarkConfig())


def test_variants_keep_the_size_and_lose_detail():
    given = people(1)
    table, known = _variants(given, [1, 4], BenchmarkConfig())
    assert table["identity_id"].to_pylist() == ["p0", "p0_x4"]
    assert known == {"p0": {"of": "p0", "x": 1}, "p0_x4": {"of": "p0", "x": 4}}
    fine, coarse = (
        np.asarray(Image.open(io.BytesIO(row["photos"][0]["bytes"]))).astype(float)
        for row in table.to_pylist()
    )
    assert fine.shape == coarse.shape
    # Noise averaged over 4 x 4 pixels keeps about a quarter of its deviation.
    assert coarse.std() < 0.4 * fine.std()
    assert coarse.mean() == pytest.approx(fine.mean(), rel=0.03)
