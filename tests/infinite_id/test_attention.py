from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from infinite_id.attention.fusion import KeyValue
from infinite_id.attention.lora import AttentionLora
from infinite_id.attention.processors import (
    StreamContext,
    cross_attention_layers,
    install,
    self_attention_layers,
    stream_processors,
)
from infinite_id.base import BaseModel
from infinite_id.config import AdapterConfig, FusionConfig, SchedulerKind
from infinite_id.cpu import ready_for_cpu
from infinite_id.identity.adapter import IdentityAdapter
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_unet

SDXL_UNET = Path(__file__).parents[2] / "benchmarks" / "sdxl_unet.json"


def conditions(rows: int) -> dict[str, Tensor]:
    return {"text_embeds": torch.zeros(rows, 32), "time_ids": torch.zeros(rows, 6)}


def run_unet(unet: UNet2DConditionModel, context: StreamContext | None, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return unet(
        torch.randn(rows, 4, 8, 8, generator=generator),
        torch.tensor(500),
        encoder_hidden_states=torch.randn(rows, 6, 64, generator=generator),
        added_cond_kwargs=conditions(rows),
        cross_attention_kwargs=None if context is None else {"streams": context},
    ).sample


def context(unet: UNet2DConditionModel, adapter: IdentityAdapter, **values: Any) -> StreamContext:
    """One text row feeds two identity rows."""
    generator = torch.Generator().manual_seed(1)
    texts = torch.randn(1, 6, 64, generator=generator)
    layers: list[Any] = [unet.get_submodule(name) for name in cross_attention_layers(unet)]
    fields: dict[str, Any] = {
        "fusion": FusionConfig(),
        "text_rows": 1,
        "source": torch.tensor([0, 0]),
        "text": [KeyValue(one.to_k(texts), one.to_v(texts)) for one in layers],
        "identity": adapter.image(torch.randn(2, 7, 64, generator=generator)),
    }
    return StreamContext(**(fields | values))


def test_the_real_sdxl_unet_has_70_cross_and_70_self_attention_layers() -> None:
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(json.loads(SDXL_UNET.read_text()))
        adapter = IdentityAdapter(AdapterConfig(512, 1280, cross_attention_dim=2048), unet)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    assert len(cross_attention_layers(unet)) == len(self_attention_layers(unet)) == 70
    assert len(stream_processors(unet)) == 140
    shapes = {tuple(linear.weight.shape) for linear in adapter.image.to_k.values()}
    assert (len(adapter.image.to_k), shapes) == (70, {(640, 2048), (1280, 2048)})


def test_processors_are_gone_after_the_context_and_after_an_exception(base: BaseModel) -> None:
    before = dict(base.unet.attn_processors)
    with install(base.unet):
        assert all(a is not before[n] for n, a in base.unet.attn_processors.items())
    assert base.unet.attn_processors == before

    def fail() -> None:
        with install(base.unet):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert base.unet.attn_processors == before


def test_the_base_keeps_them_while_any_caller_is_inside(base: BaseModel) -> None:
    with base.streams():
        with base.streams():
            assert base.has_streams
        assert base.has_streams
    assert not base.has_streams


def test_without_a_context_a_layer_does_what_it_did(base: BaseModel) -> None:
    expected = run_unet(base.unet, None, 3)
    with install(base.unet):
        torch.testing.assert_close(run_unet(base.unet, None, 3), expected, atol=1e-6, rtol=0)


def test_no_weights_enter_the_state_dict(base: BaseModel) -> None:
    before = set(base.unet.state_dict())
    with install(base.unet):
        assert set(base.unet.state_dict()) == before


def test_information_flows_from_text_to_identity_only(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    unet = base.unet
    with install(unet), torch.no_grad():
        one = run_unet(unet, context(unet, adapter), 3)
        other = run_unet(
            unet, context(unet, adapter, identity=adapter.image(torch.ones(2, 7, 64))), 3
        )
    torch.testing.assert_close(one[:1], other[:1], atol=0, rtol=0)
    assert (one[1:] - other[1:]).abs().max() > 1e-3


def test_text_cross_attention_can_be_switched_off(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    unet = base.unet
    config = FusionConfig(fusion="none", text_cross_attention=False)
    shuffled = [KeyValue(-one.key, one.value + 1) for one in context(unet, adapter).text or ()]
    values: dict[str, Any] = {"fusion": config, "text_rows": 0, "source": torch.zeros(3).long()}
    values["identity"] = adapter.image(torch.randn(3, 7, 64))
    with install(unet), torch.no_grad():
        one = run_unet(unet, context(unet, adapter, **values), 3)
        other = run_unet(unet, context(unet, adapter, text=shuffled, **values), 3)
        nothing = run_unet(unet, context(unet, adapter, text=None, **values), 3)
    torch.testing.assert_close(one, other, atol=0, rtol=0)
    torch.testing.assert_close(one, nothing, atol=0, rtol=0)


def test_padding_is_not_seen(base: BaseModel, adapter: IdentityAdapter) -> None:
    unet = base.unet
    tokens = torch.randn(2, 7, 64)
    garbage = torch.cat([tokens, torch.full((2, 4, 64), 9.0)], dim=1)
    mask = torch.arange(11)[None, None, None].expand(2, 1, 1, -1) < 7
    with install(unet), torch.no_grad():
        expected = run_unet(unet, context(unet, adapter, identity=adapter.image(tokens)), 3)
        padded = context(unet, adapter, identity=adapter.image(garbage), identity_mask=mask)
        found = run_unet(unet, padded, 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_two_processor_sets_do_not_share_state(base: BaseModel, adapter: IdentityAdapter) -> None:
    """Contexts of two requests, used in turn, give what each gives alone."""
    unet = base.unet
    one, two = context(unet, adapter), context(unet, adapter, fusion=FusionConfig(fusion="mutual"))
    with install(unet), torch.no_grad():
        alone = [run_unet(unet, each, 3) for each in (one, two)]
        turns = [run_unet(unet, each, 3) for each in (one, two, one)]
    torch.testing.assert_close(turns[0], alone[0], atol=0, rtol=0)
    torch.testing.assert_close(turns[1], alone[1], atol=0, rtol=0)
    torch.testing.assert_close(turns[2], alone[0], atol=0, rtol=0)


@pytest.mark.parametrize("fusion", ["mixed", "mutual", "none"])
def test_compiles_without_graph_breaks(adapter: IdentityAdapter, fusion: Any) -> None:
    unet = tiny_unet().eval()
    given = context(unet, adapter, fusion=FusionConfig(fusion=fusion))
    with install(unet), torch.no_grad():
        expected = run_unet(unet, given, 3)
        unet.compile(backend="eager", fullgraph=True)
        found = run_unet(unet, given, 3)
    torch.compiler.reset()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_other_architectures_are_refused() -> None:
    unet: Any = UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    with pytest.raises(ValueError, match=r"attention layer is .*allowed: attn1 and attn2"):
        stream_processors(unet)


def test_training_mode_has_gradients_in_the_adapter_alone(base: BaseModel) -> None:
    unet = tiny_unet().requires_grad_(False)
    adapter = IdentityAdapter(ADAPTER, unet)
    tokens = adapter.projector(
        torch.randn(2, ADAPTER.face_width), torch.randn(2, CLIP_TOKENS, ADAPTER.clip_width)
    )
    config = FusionConfig(fusion="none", text_cross_attention=False)
    given = StreamContext(config, 0, torch.arange(2), None, adapter.image(tokens))
    with install(unet):
        run_unet(unet, given, 2).square().mean().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    assert all(p.grad is None for p in unet.parameters())


@pytest.mark.parametrize("unfused", [0, 2])
def test_rows_in_order_need_no_gather(
    base: BaseModel, adapter: IdentityAdapter, unfused: int
) -> None:
    unet = base.unet
    texts = torch.randn(4, 6, 64, generator=torch.Generator().manual_seed(3))
    layers: list[Any] = [unet.get_submodule(name) for name in cross_attention_layers(unet)]
    fields = {
        "text_rows": 4,
        "source": torch.arange(4),
        "text": [KeyValue(one.to_k(texts), one.to_v(texts)) for one in layers],
        "identity": adapter.image(
            torch.randn(4, 7, 64, generator=torch.Generator().manual_seed(1))
        ),
        "unfused_rows": unfused,
    }
    with install(unet), torch.no_grad():
        gathered = run_unet(unet, context(unet, adapter, **fields), 8)
        in_order = run_unet(unet, context(unet, adapter, in_order=True, **fields), 8)
    torch.testing.assert_close(in_order, gathered, atol=0, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.5, torch.tensor([0.25, 0.75]).view(-1, 1, 1)])
def test_an_update_in_place_is_the_one_with_gradients(scale: float | Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    weights = {
        ("layer", "to_q"): (
            torch.randn(2, 8, generator=generator),
            torch.randn(6, 2, generator=generator),
        )
    }
    lora = AttentionLora(weights)
    hidden = torch.randn(3, 4, 8, generator=generator)
    out = torch.randn(3, 4, 6, generator=generator)
    wanted = lora.add("layer", "to_q", hidden, out, 1, scale)
    with torch.no_grad():
        found = lora.add("layer", "to_q", hidden, out.clone(), 1, scale)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found[:1], out[:1], atol=0, rtol=0)


@pytest.mark.parametrize("kind", get_args(SchedulerKind))
def test_numbers_of_a_step_are_not_read_from_the_device(base: BaseModel, kind: Any) -> None:
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(base.unet.config)
    pipeline = SimpleNamespace(unet=unet, scheduler=base.pipeline.scheduler)
    elsewhere = BaseModel(pipeline, "r")  # type: ignore[arg-type]
    assert elsewhere.device.type == "meta"
    assert elsewhere.scheduler(kind, 4).timesteps.device.type == "cpu"


def test_layouts_and_norms_of_a_cpu_change_nothing_but_rounding(base: BaseModel) -> None:
    pipeline = copy.deepcopy(base.pipeline)
    plain = run_unet(base.unet, None, 2)
    ready_for_cpu(pipeline)
    torch.testing.assert_close(run_unet(pipeline.unet, None, 2), plain, atol=1e-5, rtol=1e-5)
    assert pipeline.unet.state_dict().keys() == base.unet.state_dict().keys()
    norm = torch.nn.GroupNorm(2, 8)
    hidden = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(1)) * 3 + 20
    wanted = norm(hidden.bfloat16().float())
    half: Any = SimpleNamespace(
        unet=torch.nn.Sequential(norm.bfloat16()), vae=torch.nn.Sequential()
    )
    own = (norm(hidden.bfloat16()).float() - wanted).abs().mean()
    ready_for_cpu(half)
    found = half.unet(hidden.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().mean() <= own
