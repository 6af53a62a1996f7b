"""Weights of a run are found before anything starts, and called by what they hold."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from infinite_id.base import BaseModel, load_base
from infinite_id.config import EncoderConfig, FusionConfig, Preset, preset
from infinite_id.methods import METHODS, load_generator, load_generators, trained_weights
from pipelines.plan.weights import local_weights, run_weights
from pipelines.serving.config import ServiceConfig
from pipelines.settings import BenchmarkConfig, load_config
from pipelines.tables.storage import Store
from pipelines.training.config import TrainingConfig
from tests.infinite_id.public_files import write_public
from tests.infinite_id.test_methods import write_base_lora
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_base, tiny_pipeline

STREAMS = [name for name in METHODS if name.startswith("infinite_id")]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(folder)
    encoders = EncoderConfig("embedded", ADAPTER.face_width, "pocket", None, CLIP_TOKENS, 24)
    return Preset("tiny", str(folder), None, "float32", 16, 16, encoders, ADAPTER)


@pytest.mark.parametrize(
    "method", [name for name, spec in METHODS.items() if spec.weights and not spec.whole]
)
def test_a_method_without_trained_weights_is_refused(family: Preset, method: str) -> None:
    with pytest.raises(ValueError, match=r"has no trained weights .* allowed: .*allow_untrained"):
        run_weights(family, [method])
    with pytest.raises(ValueError, match="has no trained weights"):
        load_generator(method, family)
    assert run_weights(replace(family, allow_untrained=True), [method]).untrained


def test_baselines_beside_an_own_or_a_public_adapter_are_refused_or_trained(
    family: Preset, base: BaseModel, tmp_path: Path
) -> None:
    path, _ = write_public(tmp_path, base.unet, "plus_face", ".safetensors")
    public = replace(family, adapter_path=str(path))
    trained = [*STREAMS, "ip_adapter", "ip_adapter_face", "text_only"]
    assert not run_weights(public, trained).untrained
    with pytest.raises(ValueError, match=r"'PhotoMaker' has no trained weights .* photomaker: its"):
        run_weights(public, ["infinite_id", "photomaker"])


def test_every_method_takes_the_weights_named_for_it(family: Preset) -> None:
    given = (("infinite_id_text_trained", "text.safetensors"), ("ip_adapter_face", "face.bin"))
    both = replace(family, weights=given)
    assert trained_weights(METHODS["ip_adapter_face"], both) == "face.bin"
    assert trained_weights(METHODS["infinite_id_text_trained"], both) == "text.safetensors"
    one = replace(family, weights=given[:1])
    assert trained_weights(METHODS["ip_adapter_face"], one) == "text.safetensors"


def test_image_tokens_alone_are_not_read_from_weights_that_want_a_face(
    family: Preset, base: BaseModel, tmp_path: Path
) -> None:
    path, _ = write_public(tmp_path, base.unet, "faceid")
    with pytest.raises(ValueError, match="reads image tokens alone, its weights are faceid"):
        load_generator("ip_adapter", replace(family, adapter_path=str(path)))


def test_many_methods_over_one_file_load_it_once(
    family: Preset, base: BaseModel, tmp_path: Path
) -> None:
    path, _ = write_public(tmp_path, base.unet, "faceid")
    made = load_generators(STREAMS, replace(family, adapter_path=str(path)))
    assert len({id(one.adapter) for one in made.values()}) == 1  # type: ignore[attr-defined]


def test_one_adapter_at_two_paths_gives_one_revision_and_another_content_another(
    family: Preset, base: BaseModel, tmp_path: Path
) -> None:
    path, _ = write_public(tmp_path, base.unet, "faceid")
    copy = shutil.copy(path, tmp_path / "renamed.bin")
    names = [run_weights(replace(family, adapter_path=str(p)), STREAMS) for p in (path, copy)]
    assert names[0].revisions == names[1].revisions
    moved = shutil.copytree(family.base, tmp_path / "moved")
    there = run_weights(replace(family, base=str(moved), adapter_path=str(path)), STREAMS)
    assert there.revisions == names[0].revisions
    other, _ = write_public(tmp_path, base.unet, "faceid", ".safetensors")
    changed = run_weights(replace(family, adapter_path=str(other)), STREAMS)
    assert not set(changed.revisions.values()) & set(names[0].revisions.values())


def test_a_lora_is_known_by_its_content(family: Preset, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    write_base_lora(path)
    with_lora = replace(family, base_lora=str(path))
    first = run_weights(with_lora, ["text_only"])
    assert first.name == load_base(with_lora).revision
    path.write_bytes(path.read_bytes() + b" ")
    assert run_weights(with_lora, ["text_only"]).revisions != first.revisions


def test_the_name_of_a_base_is_what_loading_calls_it(family: Preset) -> None:
    assert run_weights(family, ["text_only"]).name == load_base(family).revision


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapter_path": "/nowhere.safetensors"}, "/nowhere.safetensors do(es)? not exist"),
        ({"base_lora": "/nowhere.safetensors"}, "base_lora /nowhere.safetensors does not exist"),
        ({"weights": (("infinite_id", "/nowhere"),)}, "weights /nowhere do not exist"),
    ],
)
def test_missing_files_are_told_at_once(family: Preset, values: dict, message: str) -> None:
    method = "text_only" if "base_lora" in values else "infinite_id"
    with pytest.raises(ValueError, match=message):
        run_weights(replace(family, **values), [method])


def test_a_store_without_space_is_told_before_copying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path))
    store = Store(f"memory://{tmp_path.name}/adapter")
    store.write_bytes("a.safetensors", b"12345")
    usage = shutil.disk_usage(tmp_path)._replace(free=3)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"have 5 bytes, the cache .* has 3 free; INFINITE_ID_CAC"):
        local_weights(f"{store.url}/a.safetensors")


def test_the_open_preset_needs_no_pack() -> None:
    own = preset("sdxl_plus_face_open")
    assert own.encoders.faces == "embedded"
    assert own.adapter_path == preset("sdxl_plus_face").adapter_path
    assert own.encoders.clip_layer == -2


SETTINGS = {
    "preset": "sdxl",
    "base": "/models/base",
    "adapter": "/models/adapter.safetensors",
    "weights": {"photomaker": "/models/photomaker.bin"},
    "faces": "/models/pack",
    "clip": "/models/clip",
    "base_lora": "/models/lora.safetensors",
    "dtype": "float16",
    "variant": "fp16",
    "scheduler": "dpmsolver++",
    "fusion": {"identity_scale": 0.8, "layers": [0.0, 0.5]},
    "offload": True,
    "compile": True,
    "decode_slice": 2,
    "num_inference_steps": 12,
}


@pytest.mark.parametrize(
    "made",
    [
        lambda values: BenchmarkConfig(**values),
        lambda values: ServiceConfig(**values),
        lambda values: TrainingConfig(data="photos", **values),
    ],
)
def test_one_model_configuration_is_read_by_every_command(made) -> None:
    family = made(SETTINGS).family()
    assert (family.base, family.base_revision) == ("/models/base", None)
    assert family.encoders.faces == "/models/pack"
    assert (family.encoders.clip, family.encoders.clip_revision) == ("/models/clip", None)
    assert (family.sampler.scheduler, family.sampler.num_inference_steps) == ("dpmsolver++", 12)
    assert (family.fusion.identity_scale, family.fusion.layers) == (0.8, (0.0, 0.5))
    assert (family.dtype, family.variant) == ("float16", "fp16")
    assert (family.offload, family.compile, family.decode_slice) == (True, True, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": {"norm": "none"}}, "unknown key 'norm', allowed: .*self_norm"),
        ({"fusion": {"layers": [0.9, 0.1]}}, r"layers is \(0.9, 0.1\)"),
        ({"weights": {"photo_maker": "x"}}, "unknown weights 'photo_maker', allowed: .*photomaker"),
        ({"scheduler": "plms"}, "scheduler is 'plms'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_wrong_model_settings_are_one_sentence(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, **values)


def test_fusion_of_a_run_replaces_the_methods_own(family: Preset) -> None:
    own = replace(family, allow_untrained=True, fusion=FusionConfig(identity_scale=0.5))
    made = load_generators(["infinite_id", "infinite_id_mutual"], own)
    fusions = [one.fusion for one in made.values()]  # type: ignore[attr-defined]
    assert [fusion.identity_scale for fusion in fusions] == [0.5, 0.5]
    assert [fusion.fusion for fusion in fusions] == ["mixed", "mutual"]


def test_settings_of_places_leave_the_revision_alone(family: Preset) -> None:
    plain = run_weights(family, ["text_only"]).revisions
    placed = replace(family, decode_slice=1, offload=True)
    assert run_weights(placed, ["text_only"]).revisions == plain
    slower = replace(family.sampler, scheduler="euler")
    assert run_weights(replace(family, sampler=slower), ["text_only"]).revisions != plain
