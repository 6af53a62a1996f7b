"""The sampler on a CUDA device: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.sampler.batch import StreamBatch
from infinite_id.sampler.denoise import denoise
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_base, tiny_identity

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def latents(device: str, dtype: torch.dtype, *, compiled: bool = False) -> torch.Tensor:
    base = tiny_base()
    base.pipeline.to(device, dtype)
    if compiled:
        base.unet.compile(fullgraph=True)
    torch.manual_seed(3)
    adapter = IdentityAdapter(ADAPTER, base.unet).to(device, dtype).eval()
    batch = StreamBatch(
        prompts=["a man", "a man", "a woman"],
        negative_prompts=["blurry"] * 3,
        seeds=[1, 1, 2],
        guidance_scales=[5.0] * 3,
        height=16,
        width=16,
        tokens=[adapter.tokens(tiny_identity(name).embedding) for name in ("ada", "bob", "cy")],
        null_tokens=adapter.null_tokens(CLIP_TOKENS),
    )
    sampler = replace(SamplerConfig(), num_inference_steps=3)
    return denoise(base, adapter, batch, FusionConfig(), sampler).latents.cpu()


def test_single_precision_equals_the_cpu() -> None:
    expected = latents("cpu", torch.float32)
    torch.testing.assert_close(latents("cuda", torch.float32), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    expected = latents("cpu", torch.float32)
    found = latents("cuda", dtype)
    assert (found - expected).square().mean().sqrt() < 0.1 * expected.std()


def test_compiled_equals_eager() -> None:
    eager = latents("cuda", torch.float32)
    compiled = latents("cuda", torch.float32, compiled=True)
    torch.testing.assert_close(compiled, eager, atol=2e-3, rtol=0)
