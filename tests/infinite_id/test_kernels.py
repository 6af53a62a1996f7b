"""Kernels of self-attention: refused where they cannot be used, and nothing else where they can."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch
from torch import Tensor

from infinite_id import InfiniteIDPipeline, load_generators
from infinite_id.attention.installed import check_attention
from infinite_id.attention.processors import install, self_attention_layers, stream_processors
from infinite_id.base import load_base
from infinite_id.config import preset
from infinite_id.identity.adapter import IdentityAdapter
from pipelines.plan.weights import run_weights
from pipelines.settings import load_config
from tests.infinite_id.test_attention import context, run_unet
from tests.infinite_id.tiny import ADAPTER, tiny_pipeline, tiny_request, tiny_unet


def test_a_package_that_is_not_installed_is_named() -> None:
    family = load_config(None, attention="sage").family()
    with pytest.raises(ValueError, match=r"^attention is 'sage', which needs the package sageatt"):
        load_base(family)
    with pytest.raises(ValueError, match="needs the package flash-attn, not installed here"):
        check_attention("flash")
    with pytest.raises(ValueError, match=r"attention is 'fast': .*'sdpa', 'flash' or 'sage'"):
        load_config(None, attention="fast")
    check_attention("sdpa", "cpu", "float32")


def install_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is there, as far as can be seen without loading it."""
    module = types.ModuleType("flash_attn")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "flash_attn", module)


def test_neither_a_cpu_nor_single_precision_does(monkeypatch: pytest.MonkeyPatch) -> None:
    install_flash(monkeypatch)
    with pytest.raises(ValueError, match="on a GPU alone, allowed on cpu: sdpa"):
        check_attention("flash", "cpu", "bfloat16")
    with pytest.raises(ValueError, match="in half precision alone, allowed with dtype float32"):
        check_attention("flash", "cuda", "float32")
    check_attention("flash", "cuda:0", "bfloat16")


Shapes = list[tuple[int, ...]]


def count_flash(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """Shapes of the keys of all calls of the package."""
    seen: Shapes = []

    # flash-attn's own function, which needs a GPU: (B, L, heads, d), no mask.
    def flash_attn_func(*, q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        assert not options["causal"]
        seen.append(tuple(k.shape))
        parts = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2)

    monkeypatch.setattr(attention_dispatch, "flash_attn_func", flash_attn_func)
    return seen


def test_self_attention_alone_goes_to_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_flash(monkeypatch)
    unet = tiny_unet()
    adapter = IdentityAdapter(ADAPTER, unet)
    streams = context(unet, adapter)
    with torch.inference_mode():
        with install(unet):
            usual = run_unet(unet, streams, 3)
        with install(unet, stream_processors(unet, "flash")):
            other = run_unet(unet, streams, 3)
    torch.testing.assert_close(other, usual)
    # Of each layer the text row alone, then both identity rows over twice the tokens.
    assert len(seen) == 2 * len(self_attention_layers(unet))
    for text, identity in zip(seen[::2], seen[1::2], strict=True):
        assert identity == (2, 2 * text[1], *text[2:])


def test_what_computes_in_eight_bits_makes_other_pictures() -> None:
    family = preset("pocket")
    names = {
        kind: run_weights(replace(family, attention=kind), ["infinite_id"]).revisions
        for kind in ("sdpa", "flash", "sage")
    }
    assert names["flash"] == names["sdpa"] != names["sage"]


def test_a_cpu_takes_the_type_that_is_asked_for() -> None:
    assert load_base(load_config(None).family()).dtype == torch.float32
    assert load_base(load_config(None, dtype="bfloat16").family()).dtype == torch.bfloat16


def test_the_python_interface_takes_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    load = InfiniteIDPipeline.from_pretrained
    with pytest.raises(ValueError, match=r"^attention is 'fast', allowed: sdpa, flash, sage$"):
        load("pocket", attention="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the package flash-attn, not installed here"):
        InfiniteIDPipeline.from_pipe(tiny_pipeline(), adapter="sdxl_faceid", attention="flash")
    install_flash(monkeypatch)
    pipe = load("pocket", attention="flash", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="on a GPU alone, allowed on cpu: sdpa"):
        pipe("a man", method="text_only")
    seen = count_flash(monkeypatch)
    request = tiny_request(height=64, width=64, num_inference_steps=1)
    load_generators(["text_only"], pipe.preset, base=pipe.base)["text_only"].generate([request], {})
    assert len(seen) == len(self_attention_layers(pipe.base.unet))
