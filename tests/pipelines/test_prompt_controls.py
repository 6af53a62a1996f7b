"""Prompts that a ControlNet holds to a pose: the manifest's columns, the plan, actors, weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from infinite_id.base import load_base
from infinite_id.config import Preset, preset
from infinite_id.preset_files import preset_files
from jobs.check import check
from pipelines.plan.inputs import load_manifests, styled_texts
from pipelines.plan.requests import RequestPlan
from pipelines.plan.weights import find_weights, run_weights
from pipelines.run.units import unit_table
from pipelines.settings import load_config
from pipelines.stages.generation import GenerationActor
from pipelines.tables.manifest import read_manifest
from pipelines.tables.pictures import decode_image
from pipelines.tables.prompt_pictures import PictureError, PictureReader
from pipelines.tables.schemas import IMAGES, REJECTS
from pipelines.training.pairs import PairActor
from tests.pipelines.conftest import small_plan

POINTS = [[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]]
CELL = "; ".join(f"{x},{y}" for x, y in POINTS)
HEADER = "prompt_id,text,control_image,control_keypoints,controlnet_conditioning_scale,"
HEADER += "control_guidance_start,control_guidance_end,control_streams\n"


@pytest.fixture(scope="module")
def held(controlnet_folder: str) -> Preset:
    """The pocket preset with a ControlNet of random weights."""
    return replace(preset("pocket"), controlnet=controlnet_folder)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    pose = np.zeros((64, 64, 3), np.uint8)
    pose[20:40, 30] = 255
    Image.fromarray(pose).save(tmp_path / "pose.png")
    path = tmp_path / "prompts.csv"
    rows = ["dance,a,pose.png,,0.8,,0.5,text", f'left,a,,"{CELL}",,,,', "free,a,,,,,,"]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def plan_of(path: Path, family: Preset) -> RequestPlan:
    config = load_config(
        prompts=str(path), style_names=["raw_photo"], controlnet=str(family.controlnet)
    )
    plan = small_plan("infinite_id", ["x"], steps=2)
    return RequestPlan(
        methods=plan.methods, texts=styled_texts(load_manifests(config)),
        subjects=plan.subjects[:1], seeds=[0], settings=plan.settings, unit_size=8,
    )  # fmt: skip


def test_actors_hold_pictures_to_their_control(run_store, prompts, held) -> None:
    plan = plan_of(prompts, held)
    rows = plan.table(0).to_pylist()
    assert [row["control_image"] for row in rows] == [str(prompts.parent / "pose.png"), None, None]
    assert [row["control_streams"] for row in rows] == ["text", "both", None]
    assert rows[1]["control_keypoints"] == [one for point in POINTS for one in point]
    GenerationActor(run_store, plan, held, threads=1)(unit_table([0]))
    assert run_store.read_folder("rejects", REJECTS).num_rows == 0
    made = {
        row["prompt_id"]: decode_image(row["image"]).astype(int)
        for row in run_store.read_folder("images", IMAGES).to_pylist()
    }
    for one, other in (("dance", "left"), ("left", "free"), ("dance", "free")):
        assert np.abs(made[one] - made[other]).max() > 3
    assert len({row["sample_id"] for row in rows}) == 3


def test_the_same_in_yaml_is_the_same_plan(prompts, held) -> None:
    rows = [
        {"prompt_id": "dance", "text": "a", "control_image": "pose.png",
         "controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.5,
         "control_streams": "text"},
        {"prompt_id": "left", "text": "a", "control_keypoints": POINTS},
        {"prompt_id": "free", "text": "a"},
    ]  # fmt: skip
    (prompts.parent / "prompts.json").write_text(json.dumps(rows))
    assert plan_of(prompts.parent / "prompts.json", held).digest == plan_of(prompts, held).digest


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f'a,b,p.png,"{CELL}",,,,', "row 0, column 'control_keypoints': stands beside control_im"),
        ("a,b,,,0.5,,,", "row 0, column 'controlnet_conditioning_scale': value is 0.5 without con"),
        ('a,b,,"0.1,0.2",,,,', "row 0, column 'control_keypoints': value is '0.1,0.2', allowed: f"),
        (f'a,b,,"{CELL.replace("0.7", "7")}",,,,', "allowed: five points x,y in fractions of the"),
        (
            "a,b,p.png,,,0.9,0.1,",
            "row 0: control_guidance_start is 0.9 and control_guidance_end 0.",
        ),
        ("a,b,p.png,,,,,face", "row 0: control_streams is 'face', allowed: both, text"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(f"{HEADER}{row}\n")
    with pytest.raises(ValueError) as refused:
        read_manifest("prompts", str(path))
    assert message in str(refused.value)


def test_keypoints_that_cannot_be_used_are_named(prompts: Path, held: Preset) -> None:
    control = plan_of(prompts, held).texts[1].control
    assert control is not None
    with pytest.raises(PictureError, match=r"^control_keypoints: "):
        PictureReader().held(replace(control, start=0.9, end=0.1), 64, 64)


def test_a_run_without_a_controlnet_is_refused_before_it_starts(prompts: Path) -> None:
    with pytest.raises(ValueError, match="prompt 'dance' has control_image and controlnet is None"):
        load_manifests(load_config(prompts=str(prompts)))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "photomaker",
            "prompt 'dance': control_image is given to method 'photomaker', allowed wit",
        ),
        (
            "dreambooth",
            "prompt 'dance': control_image is given to method 'dreambooth', allowed wit",
        ),
        (
            "ip_adapter",
            "prompt 'dance': control_streams is 'text' and method 'ip_adapter' has no t",
        ),
        (
            "infinite_id_no_mixed",
            "prompt 'dance': control_streams is 'text' and method 'infinite_i",
        ),
    ],
)
def test_methods_that_take_no_control_are_refused_before_a_run(
    prompts: Path, held: Preset, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_manifests(
            load_config(
                prompts=str(prompts), controlnet=held.controlnet, methods=["infinite_id", method]
            )
        )


def test_a_preset_without_a_text_stream_is_told_before_a_run(prompts: Path, held: Preset) -> None:
    values = {"prompts": str(prompts), "controlnet": held.controlnet}
    config = load_config(**values, methods=["infinite_id"], fusion={"fusion": "none"})
    with pytest.raises(
        ValueError, match="'infinite_id' has no text stream with fusion none, allowed: both"
    ):
        load_manifests(config)
    # One that has a fusion of its own keeps it, and the base alone is its text stream.
    own = ["infinite_id_mutual", "text_only"]
    load_manifests(load_config(**values, methods=own, fusion={"fusion": "none"}))


def test_weights_are_named_by_content_and_refused_where_they_do_not_fit(held, tmp_path) -> None:
    base = load_base(held)
    name = base.held_revision
    assert base.revision == load_base(preset("pocket")).revision
    # Training draws nothing that is held to a picture.
    assert PairActor(held)._base.controlnet is None
    weights = run_weights(held, ["text_only"])
    assert "+control-" in name
    assert weights.name == name
    plain = run_weights(preset("pocket"), ["text_only"])
    assert weights.revisions != plain.revisions
    moved = tmp_path / "elsewhere"
    Path(str(held.controlnet)).rename(moved)
    try:
        assert run_weights(replace(held, controlnet=str(moved)), ["text_only"]) == weights
        (part,) = [one for one in preset_files(held) if one.part == "controlnet"]
        assert (part.licence, part.commercial) == ("unknown", None)
        settings = json.loads((moved / "config.json").read_text())
        settings["cross_attention_dim"] = 7
        (tmp_path / "wrong").mkdir()
        (tmp_path / "wrong/config.json").write_text(json.dumps(settings))
        for file in moved.glob("*.safetensors"):
            (tmp_path / "wrong" / file.name).write_bytes(file.read_bytes())
        with pytest.raises(ValueError, match="has cross_attention_dim 7, allowed: 256, the base's"):
            find_weights(replace(held, controlnet=str(tmp_path / "wrong")), ["text_only"])
    finally:
        moved.rename(str(held.controlnet))


def test_check_tells_it_and_opens_its_pictures(prompts, held, tmp_path, capsys) -> None:
    given = {
        "controlnet": held.controlnet, "prompts": str(prompts), "tracking_uri": "none",
        "output": str(tmp_path / "run"), "methods": ["infinite_id"],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(given))
    (tmp_path / "run.yaml").write_text(json.dumps(given))
    check(str(tmp_path / "run.yaml"))
    shown = capsys.readouterr().out
    assert "controlnet:" in shown
    assert "pictures of: 2 prompts" in " ".join(shown.split())
    (prompts.parent / "pose.png").write_bytes(b"words")
    with pytest.raises(typer.Exit):
        check(str(tmp_path / "run.yaml"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "fault: control_image" in shown
    assert "pose.png cannot be used: the 5 bytes are no picture" in shown
