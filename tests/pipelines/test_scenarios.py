"""Scenarios: their files, and the people that they derive."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from eval.pose import head_pose
from jobs.scenarios import CONFIGS
from pipelines.scenario_prompts import posed_prompts, scene_prompts
from pipelines.scenarios import Scenario, _mixes, _variants, load_scenario, scenario_names
from pipelines.settings import BenchmarkConfig, load_config
from pipelines.tables.demo_people import sample_identities
from pipelines.tables.manifest import read_manifest
from pipelines.tables.schemas import IDENTITIES
from pipelines.tables.storage import Store

OURS = {"pose_following", "inpainting"}
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
    assert set(scenario_names(CONFIGS)) == SLIDES | OURS


@pytest.mark.parametrize("name", sorted(SLIDES | OURS))
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


PROMPTS = [{"prompt_id": "beach", "text": "a {subject}"}]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64)])
def test_a_prompt_in_each_pose_has_the_keypoints_of_a_head_turned_so(tmp_path, width, height):
    config = load_config(controlnet="poses", width=width, height=height)
    rows = posed_prompts(PROMPTS, [(-30, 0, 0), (10, 5, 20)], config)
    assert [row["prompt_id"] for row in rows] == ["beach_-30_+0_+0", "beach_+10_+5_+20"]
    for row, pose in zip(rows, [(-30, 0, 0), (10, 5, 20)], strict=True):
        points = np.array(row["control_keypoints"])
        assert ((points > 0.2) & (points < 0.8)).all()
        assert head_pose(points * (width, height)) == pytest.approx(pose, abs=1e-6)
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(rows))
    read = read_manifest("prompts", str(tmp_path / "prompts.yaml"))
    assert read["control_keypoints"][0].as_py() == pytest.approx(
        np.ravel(rows[0]["control_keypoints"])
    )


def test_heads_in_the_photos_of_others_are_made_anew(tmp_path):
    everybody = sample_identities()
    assert everybody["identity_id"].to_pylist() == [f"person-{n}" for n in range(1, 7)]
    scenes = everybody.slice(4)
    rows = scene_prompts(PROMPTS, scenes, [0.6, 1.0], load_config(), Store(tmp_path))
    names = [f"beach_{scene}_{strength}" for scene in (0, 1) for strength in ("0.6", "1")]
    assert [row["prompt_id"] for row in rows] == names
    for row, person in zip(rows[::2], scenes.to_pylist(), strict=True):
        given = np.asarray(Image.open(io.BytesIO(person["photos"][0]["bytes"])).convert("RGB"))
        assert np.array_equal(np.asarray(Image.open(tmp_path / row["image"])), given)
        mask = np.asarray(Image.open(tmp_path / row["mask_image"])) > 127
        assert 0.2 < mask.mean() < 0.8
        assert mask[32, 32]
        assert not mask[[0, -1], :][:, [0, -1]].any()
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(rows))
    read = read_manifest("prompts", str(tmp_path / "prompts.yaml"))
    assert read["image"][0].as_py() == str(tmp_path / "scene-0.png")


def test_a_photo_without_a_face_is_no_scene(tmp_path):
    with pytest.raises(ValueError, match="identity 'p0' gives no scene: no face found in"):
        scene_prompts(PROMPTS, people(1), [1.0], load_config(), Store(tmp_path))
