"""Scenarios: their files, and the people that they derive."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from eval.pose import head_pose
from jobs.scenarios import CONFIGS
from pipelines.scenario_prompts import posed_prompts, scene_prompts, scenes_of
from pipelines.scenarios import (
    LackingError,
    Scenario,
    _mixes,
    _record,
    _variants,
    load_scenario,
    run_scenario,
    scenario_names,
)
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
    scenes, shown, reason = scenes_of(everybody, 2, load_config())
    assert shown["identity_id"].to_pylist() == [f"person-{n}" for n in range(1, 5)]
    assert reason == ""
    told = _record(Scenario(title="t", scenes=2), "x", {}, scenes)["scene_people"]
    assert [one["identity_id"] for one in told] == ["person-5", "person-6"]
    assert told[1]["image"] == "scene-1.png"
    assert told[1]["consent"] == "nobody: these people do not exist"
    assert {"licence", "source"} <= set(told[1])
    rows = scene_prompts(PROMPTS, scenes, [0.6, 1.0], Store(tmp_path))
    names = [f"beach_{scene}_{strength}" for scene in (0, 1) for strength in ("0.6", "1")]
    assert [row["prompt_id"] for row in rows] == names
    for row, person in zip(rows[::2], everybody.slice(4).to_pylist(), strict=True):
        given = np.asarray(Image.open(io.BytesIO(person["photos"][0]["bytes"])).convert("RGB"))
        assert np.array_equal(np.asarray(Image.open(tmp_path / row["image"])), given)
        mask = np.asarray(Image.open(tmp_path / row["mask_image"])) > 127
        assert 0.2 < mask.mean() < 0.8
        assert mask[32, 32]
        assert not mask[[0, -1], :][:, [0, -1]].any()
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(rows))
    read = read_manifest("prompts", str(tmp_path / "prompts.yaml"))
    assert read["image"][0].as_py() == str(tmp_path / "scene-0.png")


def _with_photos(**photos: bytes) -> pa.Table:
    rows = [
        {"identity_id": name, "photos": [{"uri": None, "bytes": photo}]}
        for name, photo in photos.items()
    ]
    return pa.Table.from_pylist(rows, schema=IDENTITIES)


def test_a_full_length_portrait_keeps_its_head(caplog):
    """The middle of it was taken, and no face found there."""
    photos = [row["photos"][0]["bytes"] for row in sample_identities().to_pylist()]
    tall = Image.new("RGB", (128, 384), (90, 90, 90))
    tall.paste(Image.open(io.BytesIO(photos[5])).convert("RGB"), (32, 8))
    stream = io.BytesIO()
    tall.save(stream, "PNG")
    (scene,), shown, _ = scenes_of(
        _with_photos(shown=photos[0], tall=stream.getvalue()), 1, load_config()
    )
    assert shown["identity_id"].to_pylist() == ["shown"]
    assert np.array_equal(scene.picture, tall.crop((0, 0, 128, 128)))
    mask = np.asarray(scene.mask) > 127
    assert 0.1 < mask.mean() < 0.4
    assert mask[24:60, 48:80].all()
    assert caplog.text == ""


def test_a_photo_that_is_no_scene_is_told_and_the_next_one_taken(caplog):
    """One such photo ended the whole scenario."""
    photos = [row["photos"][0]["bytes"] for row in sample_identities().to_pylist()]
    noise = people(1)["photos"][0].as_py()[0]["bytes"]
    everybody = _with_photos(
        a=photos[0], b=photos[1], c=photos[2], faceless=noise, broken=b"no photo", d=photos[3]
    )
    scenes, shown, reason = scenes_of(everybody, 2, load_config())
    assert [scene.person["identity_id"] for scene in scenes] == ["c", "d"]
    assert shown["identity_id"].to_pylist() == ["a", "b", "faceless", "broken"]
    assert "identity 'broken' gives no scene: " in caplog.text
    assert "identity 'faceless' gives no scene: no face found in" in caplog.text
    assert reason in caplog.text


def test_a_scenario_lacks_scenes_where_no_photo_is_one(tmp_path):
    path = tmp_path / "people.parquet"
    pq.write_table(people(3), path)
    given = {"identities": str(path), "output": str(tmp_path / "run")}
    scenario, run = load_scenario(CONFIGS, "inpainting")
    words = "scenario x has 3 people, allowed: more than 2 whose photos are its scenes; identity 'p"
    with pytest.raises(LackingError, match=words):
        run_scenario(scenario, run, given, name="x")


def test_poses_without_a_controlnet_write_nothing(tmp_path):
    scenario, run = load_scenario(CONFIGS, "pose_following")
    with pytest.raises(LackingError, match="controlnet is None, allowed with a scenario of poses"):
        run_scenario(scenario, run, {"output": str(tmp_path / "run")}, name="pose_following")
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_people_are_for_the_pocket_model_alone(tmp_path):
    scenario, run = load_scenario(CONFIGS, "inpainting")
    one = scenario.model_copy(update={"scenes": 99})
    for preset, count in (("pocket", 6), ("sdxl", 7)):
        given = {"preset": preset, "output": str(tmp_path / preset)}
        with pytest.raises(LackingError, match=f"scenario x has {count} people, allowed"):
            run_scenario(one, run, given, name="x")
        assert (tmp_path / f"{preset}-inputs" / "samples.parquet").exists() == (preset == "pocket")


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"image": "mine.png"}, "has image 'mine.png', allowed in this scenario: none"),
        ({"strength": 0.5}, "has strength 0.5, allowed in this scenario: none"),
        ({"control_image": "edges.png"}, "has control_image 'edges.png', allowed in this scen"),
        ({"control_keypoints": [0.5] * 10}, r"has control_keypoints \[0.5, "),
    ],
)
def test_prompts_with_pictures_of_their_own_are_refused(tmp_path, own, words):
    """They were overwritten in silence."""
    prompts, config = [PROMPTS[0] | own], load_config(controlnet="poses")
    make = {
        True: lambda: posed_prompts(prompts, [(0, 0, 0)], config),
        False: lambda: scene_prompts(prompts, [], [1.0], Store(tmp_path)),
    }["control" in words]
    with pytest.raises(ValueError, match=f"prompt 'beach' {words}"):
        make()
