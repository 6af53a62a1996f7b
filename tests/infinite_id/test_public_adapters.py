from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.sampler.batch import StreamBatch
from infinite_id.sampler.denoise import denoise
from infinite_id.weights.places import is_public_adapter
from infinite_id.weights.public_adapters import PublicAdapter, load_public_adapter
from tests.infinite_id.public_files import KINDS, save_public, write_public
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_base, tiny_identity

PLAIN = {"fusion": "none", "self_norm": "none", "cross_norm": "none"}


def load(path: Path, base: BaseModel, **overrides: Any) -> PublicAdapter:
    widths: dict[str, Any] = {
        "face_width": ADAPTER.face_width,
        "clip_width": ADAPTER.clip_width,
        "clip_tokens": CLIP_TOKENS,
    }
    return load_public_adapter(path, base.unet, **(widths | overrides))


def batch_of(adapter: PublicAdapter, names: list[str], photos: int = 1) -> StreamBatch:
    count = len(names)
    people = [tiny_identity(name, photos=photos) for name in names]
    return StreamBatch(
        prompts=["a man on the beach"] * count,
        negative_prompts=["blurry"] * count,
        seeds=[7] * count,
        guidance_scales=[5.0] * count,
        height=16,
        width=16,
        tokens=[adapter.tokens(one.embedding) for one in people],
        null_tokens=adapter.null_tokens(CLIP_TOKENS),
    )


def diffusers_result(path: Path, kind: str, scale: float, name: str, photos: int) -> Tensor:
    """diffusers' own loader and pipeline on the same file, its null pictures embedded as zeros.

    One identity a call: its batches repeat the identities as a whole for each prompt.
    """
    pipe = tiny_base().pipeline
    pipe.load_ip_adapter(
        str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None
    )
    pipe.set_ip_adapter_scale(scale)
    embedding = tiny_identity(name, photos=photos).embedding
    clip = torch.tensor(embedding.clip).float().unflatten(0, (photos, CLIP_TOKENS))[None]
    shown = clip if kind == "plus_face" else torch.tensor(embedding.face)[None, None]
    if kind == "faceid_plusv2":
        layer: Any = pipe.unet.encoder_hid_proj.image_projection_layers[0]
        layer.clip_embeds = torch.cat([torch.zeros_like(clip), clip])
        layer.shortcut = True
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return pipe(
            prompt="a man on the beach",
            negative_prompt="blurry",
            num_inference_steps=3,
            guidance_scale=5.0,
            height=16,
            width=16,
            latents=noise,
            ip_adapter_image_embeds=[torch.cat([torch.zeros_like(shown), shown])],
            output_type="latent",
        ).images


@pytest.mark.parametrize(
    ("kind", "suffix", "scale", "photos"),
    [
        ("plus_face", ".safetensors", 0.6, 1),
        ("plus_face", ".bin", 1.0, 2),
        ("faceid", ".bin", 1.0, 1),
        ("faceid", ".safetensors", 1.0, 1),
        ("faceid_plusv2", ".bin", 1.0, 1),
    ],
)
def test_equals_diffusers_on_the_same_file(
    tmp_path: Path, base: BaseModel, kind: str, suffix: str, scale: float, photos: int
) -> None:
    path, _ = write_public(tmp_path, base.unet, kind, suffix)
    expected = torch.cat(
        [diffusers_result(path, kind, scale, name, photos) for name in ("ada", "bob")]
    )
    adapter = load(path, base)
    batch = batch_of(adapter, ["ada", "bob"], photos)
    if photos > 1:
        # diffusers has as many null pictures as pictures.
        null = adapter.null_tokens(CLIP_TOKENS).repeat(photos, 1)
        batch = replace(batch, null_tokens=null)
    fusion: Any = FusionConfig(**PLAIN, identity_scale=scale)
    found = denoise(base, adapter, batch, fusion, SamplerConfig(num_inference_steps=3)).latents
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_stream_stays_the_base_model(tmp_path: Path, kind: str) -> None:
    # In double precision, because batches of other sizes take other kernels: float32 differs by
    # more than the bound on some processors.
    base = tiny_base()
    base.pipeline.to(torch.float64)
    path, _ = write_public(tmp_path, base.unet, kind)
    adapter = load(path, base).double()
    sampler = SamplerConfig(num_inference_steps=3)
    batch = batch_of(adapter, ["ada", "bob"])
    plain = StreamBatch(
        batch.prompts, batch.negative_prompts, batch.seeds, batch.guidance_scales, 16, 16
    )
    expected = denoise(base, None, plain, FusionConfig(), sampler).latents[:1]
    found = denoise(base, adapter, batch, FusionConfig(), sampler)
    assert found.text_latents is not None
    torch.testing.assert_close(found.text_latents, expected, atol=1e-5, rtol=0)
    assert (found.latents - expected).abs().max() > 1e-2


def test_scale_zero_switches_the_lora_off_too(tmp_path: Path, base: BaseModel) -> None:
    path, _ = write_public(tmp_path, base.unet, "faceid")
    adapter = load(path, base)
    batch = batch_of(adapter, ["ada"])
    off: Any = FusionConfig(**PLAIN, identity_scale=0.0)
    sampler = SamplerConfig(num_inference_steps=2)
    plain = StreamBatch(
        batch.prompts, batch.negative_prompts, batch.seeds, batch.guidance_scales, 16, 16
    )
    expected = denoise(base, None, plain, FusionConfig(), sampler).latents
    found = denoise(base, adapter, batch, off, sampler).latents
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_null_clip_stands_for_nobody(tmp_path: Path, base: BaseModel) -> None:
    path, _ = write_public(tmp_path, base.unet, "plus_face")
    adapter = load(path, base)
    zeros = adapter.null_tokens(CLIP_TOKENS)
    adapter.null_clip = torch.randn(CLIP_TOKENS, ADAPTER.clip_width)
    assert (adapter.null_tokens(CLIP_TOKENS) - zeros).abs().max() > 1e-2


State = dict[str, dict[str, Tensor]]


def _drop(part: str, key: str) -> Callable[[State], Any]:
    return lambda state: state[part].pop(key)


def _set(part: str, key: str, *shape: int) -> Callable[[State], Any]:
    return lambda state: state[part].__setitem__(key, torch.zeros(shape))


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("faceid", _drop("ip_adapter", "3.to_v_ip.weight"), "lacks key 'ip_adapter.3.to_v_ip"),
        ("faceid", _drop("ip_adapter", "0.to_q_lora.down.weight"), "lacks .*0.to_q_lora.down"),
        ("faceid", _drop("image_proj", "proj.2.weight"), "lacks key 'image_proj.proj.2.weight'"),
        (
            "plus_face",
            _drop("image_proj", "layers.2.0.to_kv.weight"),
            "lacks key 'image_proj.layers.2.0.to_kv.weight'",
        ),
        ("plus_face", _set("ip_adapter", "99.to_k_ip.weight", 2, 2), "surplus .*99.to_k_ip"),
        (
            "plus_face",
            _set("ip_adapter", "1.to_k_ip.weight", 64, 768),
            r"'ip_adapter.1.to_k_ip.weight' has the shape \(64, 768\), .* need \(64, 64\)",
        ),
        (
            "faceid_plusv2",
            _set("image_proj", "perceiver_resampler.norm_out.bias", 7),
            r"perceiver_resampler.norm_out.bias' has the shape \(7,\), .* need \(64,\)",
        ),
        ("plus_face", lambda state: state.update(other={}), "has 'other', allowed: image_proj"),
        ("plus_face", lambda state: state["image_proj"].clear(), "image_proj keys nothing"),
    ],
)
def test_a_damaged_file_is_one_error_that_names_the_key(
    tmp_path: Path, base: BaseModel, kind: str, damage: Callable[[State], Any], message: str
) -> None:
    path, state = write_public(tmp_path, base.unet, kind)
    damage(state)
    save_public(path, state)
    with pytest.raises(ValueError, match=message):
        load(path, base)


def test_wrong_encoder_width_names_both_sides(tmp_path: Path, base: BaseModel) -> None:
    path, _ = write_public(tmp_path, base.unet, "faceid")
    with pytest.raises(ValueError, match=r"proj.0.weight' has the shape \(32, 16\).*need"):
        load(path, base, face_width=12)


def test_bin_files_run_no_code(tmp_path: Path, base: BaseModel) -> None:
    path = tmp_path / "evil.bin"
    torch.save({"image_proj": print}, path)
    with pytest.raises(
        ValueError, match=r"evil.bin cannot be read: it holds something else than tensors, or"
    ):
        load(path, base)


def test_own_files_are_told_from_public_ones(tmp_path: Path, base: BaseModel) -> None:
    path, _ = write_public(tmp_path, base.unet, "faceid", ".safetensors")
    assert is_public_adapter(path)
    assert is_public_adapter(write_public(tmp_path, base.unet, "faceid")[0])
    with pytest.raises(ValueError, match=r"nowhere.bin does not exist"):
        is_public_adapter(tmp_path / "nowhere.bin")
