"""Base models and towers by their files: which are read, what they are called, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from infinite_id.base import BaseModel, load_base
from infinite_id.config import EncoderConfig, Preset
from infinite_id.model_files.bases import base_files, tower_files
from infinite_id.model_files.files import BASE_PARTS, model_digest
from infinite_id.packages import file_digest
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_pipeline

SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "base"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "base"))


def family(folder: Path, **values: Any) -> Preset:
    encoders = EncoderConfig("embedded", ADAPTER.face_width, "none", None, CLIP_TOKENS, 24)
    own = Preset("tiny", str(folder), None, "float32", 16, 16, encoders, ADAPTER)
    return replace(own, **values)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def name_of(own: Preset) -> str:
    files, variant = base_files(own)
    return model_digest(files, BASE_PARTS, variant)


def halved(folder: Path) -> None:
    """Leaves files of half precision alone, named as the hub names them."""
    for part in BASE_PARTS:
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))


def test_a_moved_folder_is_the_same_model_and_a_changed_one_is_not(
    folder: Path, tmp_path: Path
) -> None:
    before = name_of(family(folder))
    moved = folder.rename(tmp_path / "elsewhere")
    assert name_of(family(f"{moved}/")) == before
    change(moved / SCHEDULER, prediction_type="v_prediction")
    assert name_of(family(moved)) != before


def test_a_base_is_called_by_what_its_files_hold(folder: Path) -> None:
    assert load_base(family(folder)).revision == f"sdxl-{name_of(family(folder))}"


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(5 << 20))
    first = file_digest(path)
    monkeypatch.setattr("infinite_id.packages.file_revision", lambda *_: pytest.fail("read again"))
    assert file_digest(path) == first
    monkeypatch.undo()
    path.write_bytes(bytes(5 << 20) + b"x")
    assert file_digest(path) != first


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_folder_of_half_precision_alone_loads(folder: Path, dtype: str) -> None:
    halved(folder)
    base = load_base(family(folder, dtype=dtype))
    # A CPU computes in float32 whatever the files are.
    assert base.dtype is torch.float32


def test_half_precision_is_read_where_both_are_there(folder: Path) -> None:
    for part in BASE_PARTS:
        for path in list((folder / part).glob("*.safetensors")):
            shutil.copy(path, path.with_name(f"{path.stem}.fp16.safetensors"))
    assert base_files(family(folder, dtype="bfloat16"))[1] == "fp16"
    assert base_files(family(folder))[1] is None


def test_half_precision_widened_has_to_be_said(folder: Path) -> None:
    halved(folder)
    with pytest.raises(ValueError, match=r"in half precision alone \(fp16\) and dtype is float32"):
        base_files(family(folder))
    assert base_files(family(folder, variant="fp16"))[1] == "fp16"


def test_an_unknown_variant_is_told_the_known_ones(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no variant 'bf16', allowed: none \(full precision\)"):
        base_files(family(folder, variant="bf16"))


def first_weights(folder: Path, part: str = "unet") -> Path:
    return next((folder / part).glob("*.safetensors"))


def cut(folder: Path) -> None:
    path = first_weights(folder)
    path.write_bytes(path.read_bytes()[:-1000])


def spoil(folder: Path) -> None:
    first_weights(folder, "vae").write_bytes(b"\xff" * 100)


def lose_shard(folder: Path) -> None:
    path = first_weights(folder)
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    path.rename(path.with_name(shards[0]))


def pickled(folder: Path) -> None:
    path = first_weights(folder, "text_encoder")
    path.rename(path.with_name("pytorch_model.bin"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (cut, r"unet/.* have [\d,]+ bytes, their header says [\d,]+: the file is not whole"),
        (spoil, r"vae/.* are no whole safetensors file"),
        (lose_shard, r"lacks unet/.*-00002-of-00002.safetensors, which unet/.*index.json names"),
        (pickled, r"no weights of text_encoder \(there is .*, a pickle, which is not read\)"),
        (lambda f: shutil.rmtree(f / "vae"), r"no file vae/config.json|no weights of vae"),
        (lambda f: shutil.rmtree(f / "tokenizer_2"), r"has no folder tokenizer_2"),
        (lambda f: (f / "model_index.json").unlink(), r"no model_index.json, allowed: a pipeline"),
        (
            lambda f: change(f / "model_index.json", _class_name="StableDiffusionPipeline"),
            r"is a Stable Diffusion 1 or 2 pipeline",
        ),
        (
            lambda f: change(f / "model_index.json", _class_name="StableDiffusion3Pipeline"),
            r"is a Stable Diffusion 3 pipeline",
        ),
        (lambda f: change(f / "model_index.json", _class_name="FluxPipeline"), r"is a FLUX pipe"),
        (lambda f: change(f / "unet/config.json", in_channels=9), r"9 input channels"),
        (lambda f: change(f / SCHEDULER, prediction_type="sample"), r"prediction_type 'sample'"),
        (
            lambda f: change(f / SCHEDULER, _class_name="EDMDPMSolverMultistepScheduler"),
            r"trained with another noise",
        ),
        (lambda f: change(f / SCHEDULER, rescale_betas_zero_snr=True), r"with prediction_type eps"),
    ],
)
def test_faults_of_a_base_are_one_sentence(folder: Path, fault: Any, message: str) -> None:
    fault(folder)
    with pytest.raises(ValueError, match=message) as raised:
        load_base(family(folder))
    assert "\n" not in str(raised.value)


def test_a_base_trained_to_no_signal_wants_the_last_step(folder: Path) -> None:
    change(folder / SCHEDULER, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    own = family(folder)
    with pytest.raises(ValueError, match="allowed: ddim_trailing, euler_trailing"):
        base_files(own)
    base_files(replace(own, sampler=replace(own.sampler, scheduler="ddim_trailing")))


@pytest.mark.parametrize("address", ["no/such", "/nowhere/at/all", "./nothing"])
def test_a_missing_base_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"{address}.* (does not exist|is no folder)"):
        base_files(family(Path("x"), base=address))


def test_a_tower_of_another_width_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32}))
    with pytest.raises(ValueError, match="is 32 wide, allowed: 1280"):
        tower_files(str(tmp_path), None, 1280)


def test_latents_are_never_cut_off_and_silence_means_sdxls_noise() -> None:
    """As diffusers' from_single_file leaves the scheduler: Euler's, which knows no clip_sample."""
    pipeline = tiny_pipeline()
    told = BaseModel(pipeline, "told").scheduler("ddim", 4)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    )
    silent = BaseModel(pipeline, "silent").scheduler("ddim", 4)
    assert (silent.config.clip_sample, silent.config.thresholding) == (False, False)
    latents = torch.linspace(-4, 4, 64).view(1, 4, 4, 4)
    for timestep, same in zip(silent.timesteps, told.timesteps, strict=True):
        assert timestep == same
        a = silent.step(latents / 2, timestep, latents).prev_sample
        b = told.step(latents / 2, timestep, latents).prev_sample
        torch.testing.assert_close(a, b)
