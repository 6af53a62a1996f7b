"""Several people in one picture: each in a region of their own, one identity row a group."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infinite_id.attention.fusion import KeyValue
from infinite_id.attention.processors import StreamAttnProcessor, StreamContext
from infinite_id.attention.regions import GroupTokens, group_maps, region_rows
from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.generator import InfiniteIdGenerator, TextOnlyGenerator
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.prompts import group_word
from infinite_id.regions import check_regions, region_map, regions_of_faces
from infinite_id.sampler.placing import placed
from infinite_id.types import IdentityGroup, RefusedRequestsError
from tests.infinite_id.public_files import write_public
from tests.infinite_id.test_pipeline import people_batch, sample
from tests.infinite_id.test_public_adapters import load
from tests.infinite_id.tiny import CLIP_TOKENS, tiny_base, tiny_identity, tiny_request

WHOLE = (0.0, 0.0, 1.0, 1.0)
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
NO_FUSION = FusionConfig(fusion="none", self_norm="none")


def tokens(adapter: Any, name: str) -> Tensor:
    return adapter.tokens(tiny_identity(name).embedding)


def group(adapter: Any, people: dict[str, Any]) -> GroupTokens:
    return GroupTokens(tuple(tokens(adapter, name) for name in people), tuple(people.values()))


def test_a_group_of_one_in_the_whole_picture_is_that_person(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    person = sample(base, adapter, people_batch(adapter, ["ada"])).latents
    batch = people_batch(adapter, ["ada"], tokens=[group(adapter, {"ada": WHOLE})])
    found = sample(base, adapter, batch).latents
    torch.testing.assert_close(found, person, atol=1e-5, rtol=0)


def test_equals_diffusers_with_masks_on_the_same_file(tmp_path: Path, base: BaseModel) -> None:
    """The masks have the layer's own size there; larger ones diffusers samples, here they are
    averaged."""
    path, _ = write_public(tmp_path, base.unet, "plus_face", ".safetensors")
    cells = torch.zeros(2, 4, 4)
    cells[0, :, :2], cells[1, 1:, 3:] = 1.0, 0.5
    pipe = tiny_base().pipeline
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=path.name,
                         image_encoder_folder=None)  # fmt: skip
    pipe.set_ip_adapter_scale([[0.7, 0.7]])
    clip = [torch.tensor(tiny_identity(name).embedding.clip).float() for name in ("ada", "bob")]
    shown = torch.stack(clip)[None]
    with torch.no_grad():
        expected = pipe(
            prompt="a man on the beach", negative_prompt="blurry", num_inference_steps=3,
            guidance_scale=5.0, height=16, width=16, output_type="latent",
            latents=torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7)),
            ip_adapter_image_embeds=[torch.cat([torch.zeros_like(shown), shown])],
            cross_attention_kwargs={"ip_adapter_masks": [cells[None]]},
        ).images  # fmt: skip
    public = load(path, base)
    regions = [one.repeat_interleave(4, 0).repeat_interleave(4, 1).numpy() for one in cells]
    batch = people_batch(adapter=public, names=["ada"],
                         tokens=[group(public, dict(zip(("ada", "bob"), regions, strict=True)))])  # type: ignore[arg-type]  # fmt: skip
    fusion = replace(NO_FUSION, identity_scale=0.7)
    found = sample(base, public, batch, fusion).latents  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_swapping_people_and_their_regions_swaps_nothing_else(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    orders = [{"ada": LEFT, "bob": RIGHT}, {"bob": RIGHT, "ada": LEFT}, {"bob": LEFT, "ada": RIGHT}]
    made = [
        sample(base, adapter, people_batch(adapter, ["x"], tokens=[group(adapter, one)])).latents
        for one in orders
    ]
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=0)
    assert (made[0] - made[2]).abs().max() > 1e-2


def test_groups_mixes_and_people_share_a_batch_and_a_group_costs_one_row(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    rows: list[int] = []
    handle = base.unet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(args[0].shape[0]), with_kwargs=True
    )
    mix = 0.5 * tokens(adapter, "ada") + 0.5 * tokens(adapter, "dee")
    two_photos = adapter.tokens(tiny_identity("cy", photos=2).embedding)
    every: list[Any] = [
        group(adapter, {"ada": LEFT, "bob": RIGHT}),
        tokens(adapter, "ada"),
        GroupTokens((two_photos, tokens(adapter, "dee"), mix),
                    ((0, 0, 0.4, 1), (0.4, 0, 0.7, 1), (0.7, 0, 1, 1))),
        mix,
    ]  # fmt: skip
    together = sample(base, adapter, people_batch(adapter, ["x"] * 4, tokens=every)).latents
    handle.remove()
    assert rows == [2 * (1 + 4)] * 3
    for number, one in enumerate(every):
        alone = sample(base, adapter, people_batch(adapter, ["x"], tokens=[one])).latents
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-4, rtol=0)


def test_steps_without_guidance_keep_the_regions(base: BaseModel, adapter: IdentityAdapter) -> None:
    both = [group(adapter, {"ada": LEFT, "bob": RIGHT}), tokens(adapter, "ada")]
    batch = people_batch(adapter, ["x"] * 2, tokens=both)
    sampler = SamplerConfig(num_inference_steps=3, guidance_steps=(0.0, 0.0))
    found = sample(base, adapter, batch, sampler=sampler).latents
    plain = replace(batch, guidance_scales=[1.0] * 2)
    torch.testing.assert_close(found, sample(base, adapter, plain).latents, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [4, 8])
def test_tokens_of_one_never_reach_queries_of_another(
    base: BaseModel, adapter: IdentityAdapter, size: int
) -> None:
    """The gradient of the outputs in Bob's box by Ada's tokens is zero, and in her own is not."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2"
    attn = base.unet.get_submodule(layer)
    ada, bob = torch.randn(1, 3, 64, requires_grad=True), torch.randn(1, 3, 64)
    both = torch.cat([ada, bob])
    maps = list(group_maps((LEFT, RIGHT), 16, 16))
    context = StreamContext(
        NO_FUSION, 0, torch.tensor([0]), None, [KeyValue(attn.to_k(both), attn.to_v(both))],
        identity_source=torch.tensor([0, 1]),
        regions=region_rows([0, 0], maps, [(size, size)], torch.device("cpu")),
    )  # fmt: skip
    hidden = torch.randn(1, size * size, 64)
    processor = StreamAttnProcessor(layer, 0, 0.5, cross=True)
    out = processor._cross(attn, hidden, None, context)[0].unflatten(0, (size, size))  # type: ignore[arg-type]
    half = size // 2
    (his,) = torch.autograd.grad(out[:, half:].square().sum(), ada, retain_graph=True)
    (hers,) = torch.autograd.grad(out[:, :half].square().sum(), ada)
    assert his.abs().max() == 0
    assert hers.abs().max() > 1e-6


def test_outside_all_regions_there_is_text_alone() -> None:
    maps = group_maps(((0.1, 0.1, 0.4, 0.9), (0.6, 0.1, 0.9, 0.9)), 64, 64)
    total = maps.sum(dim=0)
    assert total[:, 28:36].max() == 0
    assert total[:6].max() == 0
    assert total[32, 16] == 1
    edge = maps[0, 32, 6:12]
    assert ((edge >= 0) & (edge.diff(prepend=edge[:1]) >= 0)).all()
    assert 0 < edge[1] < 1


def test_where_regions_meet_they_share() -> None:
    maps = group_maps(((0, 0, 0.55, 1), (0.45, 0, 1, 1)), 64, 64)
    assert maps.sum(dim=0).max() <= 1 + 1e-6
    np.testing.assert_array_equal(region_map(WHOLE, 8, 8), np.ones((8, 8), np.float32))


def test_the_identity_scale_and_ada_in_cross_attention(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    both = [group(adapter, {"ada": LEFT, "bob": RIGHT})] * 2
    config = FusionConfig(cross_norm="adain_mean")
    batch = people_batch(adapter, ["x"] * 2, tokens=both, identity_scales=[0.0, 1.0])
    off = FusionConfig(identity_scale=0.0)
    found = sample(base, adapter, batch, config).latents
    nobody = sample(base, adapter, people_batch(adapter, ["x"]), off).latents
    torch.testing.assert_close(found[:1], nobody, atol=1e-5, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ((LEFT,), "regions are 1, allowed: 2, one a person"),
        ((LEFT, (0.5, 0, 1.2, 1)), "region of person 1 is (0.5, 0, 1.2, 1), allowed: x0, y0, x1"),
        ((LEFT, (0.5, 0, 0.5, 1)), "region of person 1 is (0.5, 0, 0.5, 1), allowed: x0, y0"),
        ((LEFT, (float("nan"), 0, 1, 1)), "region of person 1 is (nan, 0, 1, 1), allowed: x0"),
        ((LEFT, (0.2, 0, 1, 1)), "regions of person 0 and person 1 share 60% of the smaller one"),
        ((LEFT, (0.5, 0, 0.501, 1)), "is (0.5, 0, 0.501, 1), allowed: one that covers a pixel"),
        ((LEFT, np.zeros((16, 16), bool)), "person 1 is a mask of zeros, allowed: one that covers"),
        ((LEFT, np.ones((8, 16), bool)), "is a mask of the shape (8, 16), allowed: (16, 16), the"),
        ((LEFT, np.ones((16, 16), int)), "is a mask of int64, allowed: bool, uint8, float"),
        ((LEFT, np.full((16, 16), 2.0)), "a mask with values of 2.0 to 2.0, allowed: 0 to 1"),
    ],
)
def test_what_regions_are_refused(regions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_regions(regions, 2, (16, 16))


def test_faces_give_boxes_that_keep_apart() -> None:
    boxes = regions_of_faces([(10, 20, 26, 36), (38, 20, 54, 36)], 64, 64)
    assert boxes[0][2] <= boxes[1][0] == 0.5
    check_regions(boxes, 2, (64, 64))
    upright = regions_of_faces([(20, 4, 40, 24), (22, 40, 42, 60)], 64, 64)
    assert upright[0][3] <= upright[1][1]
    (alone,) = regions_of_faces([(30, 30, 40, 40)], 64, 64)
    assert alone[0] < 30 / 64 < 40 / 64 < alone[2]


@pytest.fixture
def made(base: BaseModel, adapter: IdentityAdapter) -> InfiniteIdGenerator:
    sampler = SamplerConfig(num_inference_steps=2)
    return InfiniteIdGenerator(
        base, adapter, FusionConfig(), sampler, "tiny", clip_tokens=CLIP_TOKENS
    )


def test_requests_name_a_group(made: InfiniteIdGenerator, people: Any) -> None:
    both = IdentityGroup(("ada", "bob"), (LEFT, RIGHT))
    asked = [tiny_request(identity_id="couple", group=both), tiny_request(sample_id="other")]
    one, other = made.generate(asked, people)
    assert one.regions == (LEFT, RIGHT)
    assert other.regions is None
    assert (one.image != other.image).any()
    text_only = TextOnlyGenerator(made.base, FusionConfig(), made.sampler, "tiny")
    assert text_only.generate(asked, people)[0].image.shape == (16, 16, 3)


def test_a_text_that_shows_nobody_has_no_places(made: InfiniteIdGenerator, people: Any) -> None:
    asked = [tiny_request(identity_id="couple", group=IdentityGroup(("ada", "bob")))]
    message = r"group 'couple' has 2 people and no regions, and with seed 7 its prompt shows 0 face"
    with pytest.raises(ValueError, match=message):
        made.generate(asked, people)
    with pytest.raises(RefusedRequestsError, match=message) as refused:
        made.generate([tiny_request(), *asked, tiny_request(height=32), *asked], people)
    assert list(refused.value.faults) == [1, 3]
    assert pickle.loads(pickle.dumps(refused.value)).faults == refused.value.faults  # noqa: S301


class _Detector:
    """Finds the two faces that a picture of the tiny model cannot have."""

    name, revision, face_width = "two", "two", 1

    def detect(self, image: Any) -> Any:
        from infinite_id.faces.detection import Detection

        points = np.array([[0, 0], [8, 0], [4, 4], [0, 8], [8, 8]], np.float32)
        scale = image.shape[1] / 16
        return [
            Detection(np.array([x, 2, x + 6, 8], np.float32) * scale,
                      (points / 2 + [x, 3]).astype(np.float32) * scale, 0.9)
            for x in (9.0, 1.0)
        ]  # fmt: skip


def test_faces_of_the_text_stream_are_given_out_left_to_right(base: BaseModel) -> None:
    asked = [
        tiny_request(identity_id="couple", group=IdentityGroup(("ada", "bob"))),
        tiny_request(),
    ]
    found = placed(base, asked, SamplerConfig(num_inference_steps=2), _Detector)  # type: ignore[arg-type]
    regions = found[0].group.regions if found[0].group else None
    assert regions is not None
    assert regions[0][2] <= regions[1][0] == 0.5  # type: ignore[index]
    assert found[1] is asked[1]


def test_several_subjects_in_a_prompt() -> None:
    assert group_word(["man"]) == "man"
    assert group_word(["man", "woman", "actor"]) == "man, a woman and an actor"
