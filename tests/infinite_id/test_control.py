"""A ControlNet beside the two streams, against diffusers' own pipelines."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from infinite_id import InfiniteIDPipeline
from infinite_id.base import BaseModel
from infinite_id.config import PRESETS, FusionConfig, SamplerConfig, preset
from infinite_id.control_image import ControlImage, control_image
from infinite_id.faces.keypoints import draw_kps
from infinite_id.generator import TextOnlyGenerator
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.init_image import init_image
from infinite_id.methods import load_generators
from infinite_id.model_files.controlnets import check_controlnet, controlnet_files
from infinite_id.sampler.batch import StreamBatch
from tests.infinite_id.test_pipeline import OFF, people_batch, sample
from tests.infinite_id.tiny import tiny_base, tiny_request

SAMPLES = Path(__file__).parents[2] / "infinite_id" / "assets" / "samples"
FOUR = SamplerConfig(num_inference_steps=4)
FACE = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]])


def controlnet_of(unet: Any, channels: tuple[int, ...] = (8, 16)) -> ControlNetModel:
    """Of that UNet; what a new one has as zeros is random here."""
    torch.manual_seed(5)
    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    zeros = [*made.controlnet_down_blocks, made.controlnet_mid_block]
    for layer in (*zeros, made.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return made.eval()


@pytest.fixture(scope="module")
def held() -> BaseModel:
    """A base of its own with a ControlNet."""
    base = tiny_base()
    base.controlnet = controlnet_of(base.unet)
    return base


@pytest.fixture(scope="module")
def own(held: BaseModel) -> IdentityAdapter:
    from tests.infinite_id.tiny import ADAPTER

    torch.manual_seed(3)
    made = IdentityAdapter(ADAPTER, held.unet).eval()
    for parameter in made.image.parameters():
        parameter.data.mul_(3.0)
    return made


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def pose(seed: int, **values: Any) -> ControlImage:
    return control_image(picture(seed), 16, 16, **values)


def by_diffusers(
    base: BaseModel, batch: StreamBatch, sampler: SamplerConfig = FOUR, begun: Any = None
) -> Tensor:
    kind: Any = StableDiffusionXLControlNetPipeline
    assert batch.control_images is not None
    shown = [Image.fromarray(one.image) for one in batch.control_images if one is not None]
    first = batch.control_images[0]
    assert first is not None
    values: dict[str, Any] = {"image": shown}
    if begun is not None:
        kind = StableDiffusionXLControlNetImg2ImgPipeline
        values = {
            "image": [Image.fromarray(one.image) for one in begun],
            "control_image": shown,
            "strength": begun[0].strength,
        }
    parts = {**base.pipeline.components, "controlnet": base.controlnet}
    parts["scheduler"] = base.scheduler(sampler.scheduler, sampler.num_inference_steps)
    pipe = kind(**parts, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    negatives = [text or None for text in batch.negative_prompts]
    with torch.no_grad():
        return pipe(
            prompt=list(batch.prompts),
            negative_prompt=None if negatives[0] is None else negatives,
            num_inference_steps=sampler.num_inference_steps,
            guidance_scale=batch.guidance_scales[0],
            height=batch.height,
            width=batch.width,
            controlnet_conditioning_scale=first.scale,
            control_guidance_start=first.start,
            control_guidance_end=first.end,
            generator=[torch.Generator().manual_seed(seed) for seed in batch.seeds],
            output_type="latent",
            **values,
        ).images


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmsolver++"])
@pytest.mark.parametrize(
    "values", [{}, {"scale": 0.6, "start": 0.25, "end": 0.8}], ids=["whole", "partly"]
)
@pytest.mark.parametrize(("guidance", "negative"), [(5.0, "blurry"), (1.0, "")])
def test_identity_off_equals_diffusers(
    held: BaseModel,
    own: IdentityAdapter,
    scheduler: Any,
    values: dict[str, float],
    guidance: float,
    negative: str,
) -> None:
    batch = people_batch(
        own,
        ["ada", "bob"],
        guidance_scales=[guidance] * 2,
        negative_prompts=[negative] * 2,
        prompts=["a man on the beach", "a woman in the snow"],
        seeds=[3, 4],
        control_images=[pose(1, **values), pose(2, **values)],
    )
    sampler = SamplerConfig(scheduler, 4)
    expected = by_diffusers(held, batch, sampler)
    plain = sample(held, own, replace(batch, control_images=None), OFF, sampler).latents
    assert (plain - expected).abs().max() > 1e-2
    for fusion in (OFF, FusionConfig(identity_scale=0.0)):
        found = sample(held, own, batch, fusion, sampler)
        torch.testing.assert_close(found.latents, expected, atol=1e-4, rtol=0)
    assert found.text_latents is not None
    torch.testing.assert_close(found.text_latents, expected, atol=1e-4, rtol=0)


def test_with_a_picture_to_begin_with_it_equals_diffusers(
    held: BaseModel, own: IdentityAdapter
) -> None:
    begun = [init_image(picture(n), None, 0.5, 16, 16) for n in (7, 8)]
    batch = people_batch(
        own, ["ada", "bob"], seeds=[3, 4], init_images=begun, control_images=[pose(1), pose(2)]
    )
    expected = by_diffusers(held, batch, begun=begun)
    found = sample(held, own, batch, OFF, FOUR).latents
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("streams", ["both", "text"])
def test_the_text_stream_carries_the_pose_to_the_identity(
    held: BaseModel, own: IdentityAdapter, streams: Any
) -> None:
    """On the text stream alone the ControlNet has its rows alone, and the identity stream, which
    reads its keys and values, is another than without."""
    rows: list[int] = []
    net: Any = held.controlnet
    handle = net.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    one = pose(1, streams=streams)
    batch = people_batch(own, ["ada", "bob", "cy"], control_images=[one] * 3)
    found = sample(held, own, batch, FusionConfig(), FOUR)
    handle.remove()
    assert rows == [2 * (1 + 3) if streams == "both" else 2] * 4
    alone = replace(batch, prompts=batch.prompts[:1], negative_prompts=["blurry"], seeds=[7])
    expected = by_diffusers(held, replace(alone, control_images=[one]))
    assert found.text_latents is not None
    torch.testing.assert_close(found.text_latents, expected, atol=1e-4, rtol=0)
    without = sample(held, own, replace(batch, control_images=None), FusionConfig(), FOUR)
    assert (found.latents - without.latents).abs().max() > 1e-2


def test_other_pictures_scales_and_none_share_a_batch(
    held: BaseModel, own: IdentityAdapter
) -> None:
    several = [pose(1), None, pose(2, scale=0.5, end=0.5), pose(1, streams="text"), pose(1)]
    people = ["ada", "ada", "bob", "cy", "dee"]
    together = sample(held, own, people_batch(own, people, control_images=several))
    assert together.groups == (0, 1, 2, 3, 0)
    for number, (name, one) in enumerate(zip(people, several, strict=True)):
        alone = sample(held, own, people_batch(own, [name], control_images=[one])).latents
        torch.testing.assert_close(together.latents[number : number + 1], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("sampler", "fusion"),
    [
        (SamplerConfig(num_inference_steps=4, reuse_steps=2), FusionConfig()),
        (SamplerConfig(num_inference_steps=4, text_every=2), FusionConfig()),
        (FOUR, FusionConfig(identity_steps=(0.3, 0.7))),
    ],
    ids=["kept features", "kept text", "a part of the steps"],
)
def test_steps_that_are_left_out(
    held: BaseModel, own: IdentityAdapter, sampler: SamplerConfig, fusion: FusionConfig
) -> None:
    """At identity scale 0 they are near diffusers', and with all of them nearer."""
    off = replace(fusion, identity_scale=0.0)
    batch = people_batch(own, ["ada"], control_images=[pose(1)])
    expected = by_diffusers(held, batch)
    found = sample(held, own, batch, off, sampler).latents
    without = sample(held, own, replace(batch, control_images=None), off, sampler).latents
    apart = [(one - expected).abs().mean() for one in (found, without)]
    assert apart[0] < 0.5 * apart[1]


@pytest.mark.parametrize(("reuse", "groups"), [(1, 1), (3, 2)])
def test_other_requests_controls_change_no_picture(
    held: BaseModel, reuse: int, groups: int
) -> None:
    """Where a control begins or ends, kept features are made anew, and a batch keeps together."""
    sampler = SamplerConfig(num_inference_steps=6, reuse_steps=reuse)
    generator = TextOnlyGenerator(held, OFF, sampler, "r")
    controls = (None, pose(1), pose(1, scale=0.0, end=0.4), pose(2, end=0.4))
    asked = [tiny_request(control_image=one, num_inference_steps=6) for one in controls]
    assert len(list(generator.alike(asked))) == groups
    together = generator.generate(asked, {})
    for one, found in zip(asked, together, strict=True):
        (alone,) = generator.generate([one], {})
        assert np.abs(alone.image.astype(int) - found.image).max() <= 1


def test_what_is_refused(held: BaseModel, own: IdentityAdapter, base: BaseModel) -> None:
    for values, message in (
        ({"scale": float("inf")}, "controlnet_conditioning_scale is inf, allowed: a finite number"),
        ({"start": 0.8, "end": 0.2}, "control_guidance_start is 0.8 and control_guidance_end 0.2"),
        ({"streams": "face"}, "control_streams is 'face', allowed: both, text"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            pose(1, **values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="control_image is 32 x 16 px for a picture of 16 x 16 px"):
        control_image(picture(1, (16, 32)), 16, 16)
    generator = TextOnlyGenerator(base, OFF, FOUR, "r")
    with pytest.raises(ValueError, match="the model has no ControlNet, allowed with controlnet"):
        generator.generate([tiny_request(control_image=pose(1))], {})
    text = people_batch(own, ["ada"], control_images=[pose(1, streams="text")])
    with pytest.raises(ValueError, match="control_streams is 'text' and this method has no text"):
        sample(held, own, text, FusionConfig(fusion="none"))
    other = tiny_base()
    other.controlnet = controlnet_of(other.unet, (8, 16, 32))
    with pytest.raises(ValueError, match="controlnet makes pictures 4 times smaller, allowed: 2"):
        TextOnlyGenerator(other, OFF, FOUR, "r").generate([tiny_request(control_image=pose(1))], {})


def test_keypoints_are_drawn_as_instantid_draws_them() -> None:
    """Its drawing, in its own words, over the same points."""
    import math

    import cv2

    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    limbs = np.array([[0, 2], [1, 2], [3, 2], [4, 2]])
    kps, expected = FACE * (320, 256) + 0.4, np.zeros([256, 320, 3])
    for index in limbs:
        x, y = kps[index][:, 0], kps[index][:, 1]
        length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        polygon = cv2.ellipse2Poly(
            (int(np.mean(x)), int(np.mean(y))), (int(length / 2), 4), int(angle), 0, 360, 1
        )
        expected = cv2.fillConvexPoly(expected.copy(), polygon, colours[index[0]])
    expected = (expected * 0.6).astype(np.uint8)
    for colour, (x, y) in zip(colours, kps, strict=True):
        expected = cv2.circle(expected.copy(), (int(x), int(y)), 10, colour, -1)
    np.testing.assert_array_equal(draw_kps(kps, 256, 320), expected)
    for points, message in (
        (kps[:4], "keypoints have the shape (4, 2), allowed: (5, 2)"),
        (kps + 300, "keypoint is (412.4, 402.8), allowed: inside the picture of 320 x 256 px"),
        ("face", "keypoints have the shape (0,), allowed: (5, 2)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            draw_kps(points, 256, 320)  # type: ignore[arg-type]


def test_what_does_not_fit_the_base_is_told(tmp_path: Path, base: BaseModel) -> None:
    own = dict(controlnet_of(base.unet).config)
    check_controlnet("mine", own, base.unet.config)
    with pytest.raises(
        ValueError, match=re.escape("mine has cross_attention_dim 128, allowed: 64")
    ):
        check_controlnet("mine", {**own, "cross_attention_dim": 128}, base.unet.config)
    base.unet.save_pretrained(tmp_path / "unet")
    family = replace(PRESETS["pocket"], controlnet=str(tmp_path / "unet"))
    with pytest.raises(ValueError, match="is a UNet2DConditionModel, allowed: ControlNetModel"):
        controlnet_files(family)
    with pytest.raises(ValueError, match="model folder /no/where does not exist"):
        controlnet_files(replace(family, controlnet="/no/where"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet of the pocket's UNet."""
    pipe = InfiniteIDPipeline.from_pretrained("pocket")
    halved = int(np.log2(pipe.base.vae_factor))
    path = tmp_path_factory.mktemp("pose")
    controlnet_of(pipe.base.unet, (8, 16, 16, 16)[: halved + 1]).save_pretrained(path)
    return path


def test_the_call_takes_a_control_picture_or_keypoints(folder: Path) -> None:
    pipe = InfiniteIDPipeline.from_pretrained("pocket", controlnet=folder)
    pipe.set_progress_bar_config(disable=True)
    assert re.search(r"\+control-[0-9a-f]{12}", pipe.base.held_revision)
    # Weights that were trained without it fit, and those trained beside it fit without.
    assert pipe.base.revision == InfiniteIDPipeline.from_pretrained("pocket").base.revision
    held = replace(preset("pocket"), controlnet=str(folder))
    generators = load_generators(["infinite_id", "text_only"], held, base=pipe.base)
    assert all("+control-" in one.revision for one in generators.values())
    few: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np", "seed": 3}
    ada = pipe.identity(SAMPLES / "person-1.png")
    drawn = Image.fromarray(draw_kps(FACE * 64, 64, 64))
    found = pipe("a man", ada, control_image=[drawn, None], **few).images
    points = pipe("a man", ada, control_keypoints=FACE, **few).images
    plain = pipe("a man", ada, **few).images
    none = pipe("a man", ada, control_image=drawn, controlnet_conditioning_scale=0.0, **few).images
    assert np.abs(found[0] - points[0]).max() * 255 <= 2
    assert np.abs(found[1] - plain[0]).max() * 255 <= 2
    assert np.abs(none - plain).max() * 255 <= 2
    assert np.abs(found[0] - plain[0]).max() > 0.02
    for values, message in (
        ({"control_guidance_end": 0.5}, "control_guidance_end is 0.5 without control_image, allow"),
        (
            {"control_image": [drawn, None], "controlnet_conditioning_scale": [0.5, 0.9]},
            "controlnet_conditioning_scale is 0.9 without control_image, allowed: with control",
        ),
        ({"control_image": drawn, "control_keypoints": FACE}, "are both given, allowed: one of th"),
        ({"control_keypoints": FACE * 64}, "control_keypoints have the shape (5, 2), allowed: (5,"),
        ({"control_image": "no.png"}, "control_image 'no.png' cannot be read: No such file"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            pipe("a man", ada, **few, **values)  # type: ignore[arg-type]


def test_a_model_that_the_caller_has_loaded(folder: Path) -> None:
    own = ControlNetModel.from_pretrained(folder)
    pipe = InfiniteIDPipeline.from_pretrained("pocket", controlnet=own)
    assert pipe.base.controlnet is own
    with pytest.raises(ValueError, match="controlnet is a int, allowed: a folder, a hub id, or a"):
        InfiniteIDPipeline.from_pretrained("pocket", controlnet=7)  # type: ignore[arg-type]
