from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from infinite_id.base import BaseModel, load_base
from infinite_id.config import AdapterConfig, EncoderConfig, Preset, SamplerConfig, preset
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.methods import METHODS, load_generator, load_generators
from infinite_id.pocket.image_text import build_clip, vision_tower
from infinite_id.types import Generator, Identity
from infinite_id.weights.adapter_file import AdapterMetadata, save_adapter
from tests.infinite_id.public_files import write_public
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_pipeline, tiny_request


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """A preset whose base lies in a folder."""
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(folder)
    encoders = EncoderConfig("embedded", ADAPTER.face_width, "none", None, CLIP_TOKENS, 24)
    own = Preset("tiny", str(folder), None, "float32", 16, 16, encoders, ADAPTER)
    return replace(own, allow_untrained=True)


def picture(generator: Generator, people: dict[str, Identity], **values: Any) -> Any:
    return generator.generate([tiny_request(**values)], people)[0].image.astype(int)


@pytest.mark.parametrize("used", ["", "load_generator('timed', preset('pocket'))"])
def test_torch_is_loaded_by_methods_with_a_model_alone(used: str) -> None:
    program = (
        "import sys\nfrom infinite_id.config import preset\n"
        f"from infinite_id.methods import load_generator\n{used}\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"method is 'magic', allowed: .*infinite_id, .*text_only"):
        load_generator("magic", preset("pocket"))


def test_methods_share_one_base_and_differ(family: Preset, people: dict[str, Identity]) -> None:
    names = [name for name in METHODS if name.startswith("infinite_id")] + ["text_only"]
    made: dict[str, Any] = dict(load_generators(names, family))
    assert len(names) >= 7
    assert len({id(one.base) for one in made.values()}) == 1
    pictures = {name: picture(one, people) for name, one in made.items()}
    # Without trained weights this ablation of training has the same random ones.
    pictures.pop("infinite_id_text_trained")
    flat = [one.ravel() for one in pictures.values()]
    assert min(np.abs(a - b).max() for n, a in enumerate(flat) for b in flat[:n]) > 0
    assert len({one.revision for one in made.values()}) >= len(names) - 1


def test_trained_weights_of_a_file_are_used(
    family: Preset, tmp_path: Path, adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    path = tmp_path / "adapter.safetensors"
    metadata = AdapterMetadata(load_base(family).revision, "embedded+none", 1, text_active=False)
    save_adapter(path, adapter, metadata)
    trained = load_generator("infinite_id", replace(family, adapter_path=str(path)))
    untrained = load_generator("infinite_id", family)
    assert ("untrained" in untrained.revision, "untrained" in trained.revision) == (True, False)
    assert np.abs(picture(trained, people) - picture(untrained, people)).max() > 0


def test_public_weights_of_a_file_are_used(
    family: Preset, tmp_path: Path, base: BaseModel, people: dict[str, Identity]
) -> None:
    path, _ = write_public(tmp_path, base.unet, "faceid")
    weights = (("infinite_id", str(path)),)
    made: Any = load_generator("infinite_id", replace(family, weights=weights))
    assert made.revision.split("+")[1].startswith("faceid-")
    assert picture(made, people).shape == (16, 16, 3)


def test_null_states_come_from_the_presets_encoder(tmp_path: Path, family: Preset) -> None:
    from infinite_id.identity.encoders import load_clip_encoder

    tower = vision_tower(build_clip())
    tower.save_pretrained(tmp_path)
    encoders = replace(family.encoders, clip=str(tmp_path), clip_width=192, clip_layer=-2)
    encoder = load_clip_encoder(encoders)
    with torch.no_grad():
        found = tower(pixel_values=torch.zeros(1, 3, 64, 64), output_hidden_states=True)
    expected = found.hidden_states[-2][0].half().numpy()
    np.testing.assert_allclose(encoder.embed_nothing(), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("scheduler", "steps"), [("lcm", 2), ("euler_trailing", 1), ("ddim_trailing", 2)]
)
def test_few_step_loras_with_their_schedulers(
    family: Preset, tmp_path: Path, people: dict[str, Identity], scheduler: Any, steps: int
) -> None:
    path = tmp_path / "few_steps.safetensors"
    write_base_lora(path)
    plain: Any = load_generator("infinite_id", family)
    fast: Any = load_generator(
        "infinite_id",
        replace(family, base_lora=str(path)),
        sampler=SamplerConfig(scheduler, steps, 0.0),
    )
    assert "+lora-" in fast.revision
    rows: list[int] = []
    fast.base.unet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(args[0].shape[0]), with_kwargs=True
    )
    values: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 0.0}
    requests = [tiny_request(identity_id=name, **values) for name in ("ada", "bob")]
    both = fast.generate(requests, people)
    # Guidance off: one text row and one row a person, once a step.
    assert rows == [3] * steps
    alone = picture(fast, people, identity_id="bob", **values)
    assert np.abs(both[1].image.astype(int) - alone).max() <= 2
    assert np.abs(picture(plain, people, **values) - picture(fast, people, **values)).max() > 0


def write_base_lora(path: Path, prefix: str = "unet.") -> None:
    unet = tiny_pipeline().unet
    torch.manual_seed(5)
    state = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            state[f"{prefix}{name}.lora_A.weight"] = torch.randn(2, module.in_features) * 0.3
            state[f"{prefix}{name}.lora_B.weight"] = torch.randn(module.out_features, 2) * 0.3
    save_file(state, path)


def test_a_fused_lora_equals_diffusers_with_the_lora_loaded(family: Preset, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    write_base_lora(path)
    fused = load_base(replace(family, base_lora=str(path)))
    other = load_base(family)
    other.pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    noise = torch.randn(1, 4, 8, 8)
    made = []
    for pipe in (fused.pipeline, other.pipeline):
        with torch.no_grad():
            made.append(
                pipe(
                    "a man",
                    latents=noise.clone(),
                    num_inference_steps=2,
                    height=16,
                    width=16,
                    output_type="latent",
                ).images
            )
    torch.testing.assert_close(*made, atol=1e-4, rtol=0)


def test_bad_base_loras(family: Preset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base_lora is nowhere.bin, allowed: an existing"):
        load_base(replace(family, base_lora="nowhere.bin"))


def test_offloading_moves_parts_there_and_back_and_changes_no_picture(
    family: Preset, people: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_generator("infinite_id", family)
    offloaded: Any = load_generator("infinite_id", family, offload=True)
    moves: dict[str, list[str]] = {"text_encoder": [], "text_encoder_2": [], "vae": []}
    for name, seen in moves.items():
        part = getattr(offloaded.base.pipeline, name)

        def move(device: Any, seen: list[str] = seen, to: Any = part.to) -> Any:
            seen.append("device" if isinstance(device, torch.device) else device)
            return to(device)

        monkeypatch.setattr(part, "to", move)
    np.testing.assert_array_equal(picture(plain, people), picture(offloaded, people))
    # Texts are encoded twice, prompts and negative prompts; pictures are decoded once.
    assert moves == {
        "text_encoder": ["device", "cpu"] * 2,
        "text_encoder_2": ["device", "cpu"] * 2,
        "vae": ["device", "cpu"],
    }


def test_a_missing_base_is_named() -> None:
    family = replace(preset("sdxl"), base="no/such/folder", base_revision=None)
    with pytest.raises(ValueError, match="model folder no/such/folder does not exist"):
        load_base(family)


def test_the_pocket_preset_makes_pictures() -> None:
    family = preset("pocket")
    generator = load_generator("infinite_id", family)
    from infinite_id.types import IdentityEmbedding

    rng = np.random.default_rng(0)
    face = rng.normal(size=128).astype(np.float32)
    clip = rng.normal(size=(65, 192)).astype(np.float16)
    person = Identity("ada", (), IdentityEmbedding(face / np.linalg.norm(face), clip, "random"))
    found = picture(generator, {"ada": person}, height=64, width=64, num_inference_steps=2)
    assert found.shape == (64, 64, 3)


def test_adapter_configs_of_presets_fit_their_bases() -> None:
    base = load_base(preset("pocket"))
    config: AdapterConfig = preset("pocket").adapter
    assert base.unet.config.cross_attention_dim == config.cross_attention_dim
