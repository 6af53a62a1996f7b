"""InfiniteIDPipeline over somebody's own StableDiffusionXLPipeline, which stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)

from infinite_id import InfiniteIDPipeline
from infinite_id.config import SamplerConfig
from tests.infinite_id.test_methods import write_base_lora
from tests.infinite_id.test_python_interface import ADA, BOB
from tests.infinite_id.tiny import tiny_pipeline, write_pocket_adapter

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pocket_adapter(tmp_path_factory.mktemp("adapter") / "adapter.safetensors")


@pytest.fixture
def own(tmp_path: Path) -> StableDiffusionXLPipeline:
    """Somebody's pipeline: a scheduler and a LoRA of their own."""
    pipe = tiny_pipeline()
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    write_base_lora(tmp_path / "own.safetensors")
    pipe.load_lora_weights(str(tmp_path), weight_name="own.safetensors", adapter_name="own")
    pipe.set_adapters(["own"], [0.7])
    return pipe


def over(pipe: StableDiffusionXLPipeline, adapter: Path, **values: Any) -> InfiniteIDPipeline:
    made = InfiniteIDPipeline.from_pipe(pipe, adapter=adapter, encoders="pocket", **values)
    made.set_progress_bar_config(disable=True)
    return made


def plain(pipe: Any, **values: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    return pipe("a man", generator=generator, output_type="np", **SIZE, **values).images


def state(pipe: StableDiffusionXLPipeline) -> dict[str, Any]:
    found: dict[str, Any] = {"scheduler": (type(pipe.scheduler), dict(pipe.scheduler.config))}
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        part = getattr(pipe, name)
        found[name] = {key: value.clone() for key, value in part.state_dict().items()}
        found[f"{name}.modes"] = (part.training, part.dtype, part.device)
    found["processors"] = dict(pipe.unet.attn_processors)
    found["adapters"] = pipe.get_active_adapters()
    return found


def test_the_given_pipe_is_as_before_bit_for_bit(
    own: StableDiffusionXLPipeline, adapter: Path
) -> None:
    before, pictures = state(own), plain(own)
    made = over(own, adapter)
    personal = made("a {subject}", [ADA, BOB], seed=5, output_type="np", **SIZE)
    after = state(own)
    for name, value in before.items():
        if isinstance(value, dict) and name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            assert all(torch.equal(value[key], after[name][key]) for key in value)
        else:
            assert value == after[name]
    np.testing.assert_array_equal(plain(own), pictures)
    assert personal.images.shape == (2, 16, 16, 3)
    assert np.abs(personal.images[0] - personal.images[1]).max() > 0.01


@pytest.mark.parametrize("scheduler", [UniPCMultistepScheduler, EulerAncestralDiscreteScheduler])
def test_its_lora_and_its_scheduler_are_used(
    own: StableDiffusionXLPipeline, adapter: Path, scheduler: Any
) -> None:
    """Without an identity it makes the very pictures of the pipe."""
    own.scheduler = scheduler.from_config(own.scheduler.config)
    made = over(own, adapter)
    noise = made.base.noise(5, 16, 16)[None] * 1.0
    expected = own(
        "a man", latents=noise, output_type="latent",
        generator=torch.Generator().manual_seed(5 ^ 0x5EED), **SIZE,
    ).images  # fmt: skip
    values: dict[str, Any] = {"seed": 5, "output_type": "latent", **SIZE}
    found = made("a man", method="text_only", **values).images
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    off = made("a man", ADA, identity_start=1.0, **values).images
    torch.testing.assert_close(off, expected, atol=1e-4, rtol=0)
    own.set_adapters(["own"], [0.0])
    without = made("a man", method="text_only", **values).images
    assert (without - expected).abs().max() > 1e-3


def test_defaults_are_the_pipes(own: StableDiffusionXLPipeline, adapter: Path) -> None:
    made = over(own, adapter)
    assert made.preset.sampler == SamplerConfig("own", 30, 5.0)
    assert (made.preset.height, made.preset.width) == (16, 16)
    chosen = over(own, adapter, sampler=SamplerConfig("ddim", 2, 1.0))
    assert chosen("a man", ADA).images[0].size == (16, 16)


def test_a_vae_of_half_precision_stays_one(adapter: Path) -> None:
    pipe = tiny_pipeline()
    pipe.vae.register_to_config(force_upcast=True)
    made = over(pipe, adapter)
    expected = made("a man", ADA, seed=1, output_type="np", **SIZE).images
    pipe.vae.to(torch.float16)
    before = {key: value.clone() for key, value in pipe.vae.state_dict().items()}
    found = made("a man", ADA, seed=1, output_type="np", **SIZE).images
    assert np.abs(found - expected).max() < 0.02
    assert pipe.vae.dtype == torch.float16
    assert all(torch.equal(value, pipe.vae.state_dict()[key]) for key, value in before.items())


def test_methods_without_weights_are_refused(own: StableDiffusionXLPipeline, adapter: Path) -> None:
    made = over(own, adapter)
    for method in ("photomaker", "infinite_id_text_trained"):
        message = rf"method '{method}' has no trained weights for base .*, allowed: weights="
        with pytest.raises(ValueError, match=message):
            made("a man", ADA, method=method)


def test_what_cannot_be_left_as_it_is_is_refused(
    own: StableDiffusionXLPipeline, adapter: Path
) -> None:
    with pytest.raises(ValueError, match="pipe is a str, allowed: StableDiffusionXLPipeline"):
        InfiniteIDPipeline.from_pipe("pipe", adapter=adapter)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="adapter is None, allowed with base the given pipeline"):
        InfiniteIDPipeline.from_pipe(own)
    wrong = tiny_pipeline(cross_attention_dim=64, encoder_hid_dim_type=None)
    wrong.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(ValueError, match=r"pipe has an IP-Adapter loaded, allowed: without one"):
        over(wrong, adapter)
    own.unet._hf_hook = object()
    with pytest.raises(ValueError, match="pipe offloads its unet, allowed: without offloading"):
        over(own, adapter)


def test_a_folder_is_a_base_too(adapter: Path, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    made = InfiniteIDPipeline.from_pretrained(tmp_path, adapter=adapter, encoders="pocket")
    made.set_progress_bar_config(disable=True)
    found = made("a man", ADA, seed=5, output_type="np", **SIZE).images
    expected = over(tiny_pipeline(), adapter, sampler=SamplerConfig())(
        "a man", ADA, seed=5, output_type="np", **SIZE
    ).images
    np.testing.assert_allclose(found, expected, atol=2 / 255)
