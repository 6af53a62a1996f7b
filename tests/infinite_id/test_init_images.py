"""Image to image and inpainting with a person, against diffusers' own pipelines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from infinite_id import InfiniteIDPipeline
from infinite_id.base import BaseModel
from infinite_id.baselines.rows import RowBatch, denoise_rows
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.generator import InfiniteIdGenerator, TextOnlyGenerator
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.init_image import InitImage, first_step, init_image
from infinite_id.sampler.batch import StreamBatch
from infinite_id.types import Identity, IdentityGroup
from tests.infinite_id.test_pipeline import OFF, people_batch, sample
from tests.infinite_id.tiny import CLIP_TOKENS, tiny_base, tiny_request

SAMPLES = Path(__file__).parents[2] / "infinite_id" / "assets" / "samples"
FOUR = SamplerConfig(num_inference_steps=4)


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def half(size: tuple[int, int] = (16, 16)) -> NDArray[np.uint8]:
    """White on the left, with a ragged edge."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[:, : size[1] // 2] = 255
    mask[::3, size[1] // 2 : size[1] // 2 + 3] = 200
    return mask


def begun(seed: int, strength: float = 0.5, mask: Any = None) -> InitImage:
    return init_image(picture(seed), mask, strength, 16, 16)


def by_diffusers(
    base: BaseModel, batch: StreamBatch, sampler: SamplerConfig, images: Sequence[Any], masks: Any
) -> Tensor:
    """Of diffusers' pipeline with a generator a row, on the base's own modules."""
    kind: Any = StableDiffusionXLImg2ImgPipeline
    more: dict[str, Any] = {}
    if masks is not None:
        kind = StableDiffusionXLInpaintPipeline
        more = {"mask_image": [Image.fromarray(one) for one in masks]}
        more |= {"height": batch.height, "width": batch.width}
    parts = dict(base.pipeline.components)
    parts["scheduler"] = base.scheduler(sampler.scheduler, sampler.num_inference_steps)
    pipe = kind(**parts, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    assert batch.init_images is not None
    assert batch.init_images[0] is not None
    negatives = [text or None for text in batch.negative_prompts]
    with torch.no_grad():
        return pipe(
            prompt=list(batch.prompts),
            negative_prompt=None if negatives[0] is None else negatives,
            image=[Image.fromarray(one) for one in images],
            strength=batch.init_images[0].strength,
            num_inference_steps=sampler.num_inference_steps,
            guidance_scale=batch.guidance_scales[0],
            generator=[torch.Generator().manual_seed(seed) for seed in batch.seeds],
            output_type="latent",
            **more,
        ).images


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler", "unipc"])
@pytest.mark.parametrize(
    ("strength", "guidance", "negative"), [(0.5, 5.0, "blurry"), (1.0, 1.0, ""), (0.8, 5.0, "")]
)
@pytest.mark.parametrize("masked", [False, True])
def test_identity_off_equals_diffusers(
    base: BaseModel,
    adapter: IdentityAdapter,
    scheduler: Any,
    strength: float,
    guidance: float,
    negative: str,
    masked: bool,
) -> None:
    """Two pictures of another size in one batch, both scaled to that of the result."""
    images = [picture(1, (32, 32)), picture(2, (32, 32))]
    masks = [half((32, 32)), half((32, 32)).T.copy()] if masked else None
    batch = people_batch(
        adapter,
        ["ada", "bob"],
        guidance_scales=[guidance] * 2,
        negative_prompts=[negative] * 2,
        prompts=["a man on the beach", "a woman in the snow"],
        seeds=[3, 4],
        init_images=[
            init_image(image, None if masks is None else masks[number], strength, 16, 16)
            for number, image in enumerate(images)
        ],
    )
    sampler = SamplerConfig(scheduler, 4)
    # Only the inpainting pipeline scales by itself.
    shown: Any = images
    if not masked:
        shown = [np.asarray(Image.fromarray(one).resize((16, 16), Image.LANCZOS)) for one in images]  # type: ignore[attr-defined]
    expected = by_diffusers(base, batch, sampler, shown, masks)
    found = sample(base, adapter, batch, OFF, sampler).latents
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    mixed = FusionConfig(identity_scale=0.0)
    fused = sample(base, adapter, batch, mixed, sampler)
    torch.testing.assert_close(fused.latents, expected, atol=1e-4, rtol=0)
    assert fused.text_latents is not None
    torch.testing.assert_close(fused.text_latents, expected, atol=1e-4, rtol=0)


def test_the_text_stream_is_diffusers_whatever_the_identities(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    """K_t and V_t come from the same noised picture, and people of one picture share its stream."""
    one = begun(1, mask=half())
    batch = people_batch(adapter, ["ada", "bob"], init_images=[one, begun(1, mask=half())])
    found = sample(base, adapter, batch, FusionConfig(identity_scale=2.0), FOUR)
    assert found.groups == (0, 0)
    alone = replace(batch, prompts=batch.prompts[:1], negative_prompts=["blurry"], seeds=[7])
    expected = by_diffusers(base, alone, FOUR, [picture(1)], [half()])
    assert found.text_latents is not None
    torch.testing.assert_close(found.text_latents, expected, atol=1e-4, rtol=0)
    assert (found.latents - expected).abs().max() > 1e-2
    # Where the mask is black both are the picture, in the end without noise.
    cells = torch.from_numpy(half()[::2, ::2] < 128).expand_as(found.latents)
    torch.testing.assert_close(found.latents[cells], expected.expand(2, -1, -1, -1)[cells])


def test_different_pictures_and_none_share_a_batch(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    pictures = [begun(1, 1.0), None, begun(2, 1.0, half()), begun(2, 1.0)]
    people = ["ada", "ada", "bob", "bob"]
    together = sample(base, adapter, people_batch(adapter, people, init_images=pictures))
    assert together.groups == (0, 1, 2, 3)
    for number, (name, one) in enumerate(zip(people, pictures, strict=True)):
        alone = sample(base, adapter, people_batch(adapter, [name], init_images=[one])).latents
        torch.testing.assert_close(together.latents[number : number + 1], alone, atol=1e-4, rtol=0)
    plain = sample(base, adapter, people_batch(adapter, ["ada"])).latents
    torch.testing.assert_close(together.latents[1:2], plain, atol=1e-4, rtol=0)


def test_a_generator_takes_other_strengths_sizes_and_groups_in_one_call(
    base: BaseModel, adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    made_by = InfiniteIdGenerator(base, adapter, FusionConfig(), FOUR, "r", clip_tokens=CLIP_TOKENS)
    halves = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
    group = IdentityGroup(("ada", "bob"), halves)
    tall = init_image(picture(5, (24, 16)), half((24, 16)), 0.9, 24, 16)
    values: list[dict[str, Any]] = [
        {"init_image": begun(1, 0.5)},
        {"init_image": begun(1, 0.9)},
        {},
        {"init_image": tall, "height": 24},
        {"init_image": begun(2, 0.5, half()), "group": group},
    ]
    requests = [tiny_request(num_inference_steps=4, **one) for one in values]
    together = made_by.generate(requests, people)
    for one, request in zip(together, requests, strict=True):
        (alone,) = made_by.generate([request], people)
        assert np.abs(one.image.astype(int) - alone.image).max() <= 1
    pictures = [one.image.astype(int) for one in together]
    assert np.abs(pictures[0] - pictures[1]).max() > 2


def test_baselines_begin_with_pictures_too(base: BaseModel, adapter: IdentityAdapter) -> None:
    one = begun(1, 0.5, half())
    batch = people_batch(adapter, ["ada"], init_images=[one])
    expected = by_diffusers(base, batch, FOUR, [picture(1)], [half()])
    text, negative = base.encode(batch.prompts), base.encode_negative(batch.negative_prompts)
    rows = RowBatch(text, negative, [7], [5.0], 16, 16, init_images=[one])
    found = denoise_rows(base, rows, FOUR)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_steps_that_are_told_are_those_that_are_taken(base: BaseModel) -> None:
    steps: list[tuple[int, int]] = []
    made_by = TextOnlyGenerator(base, OFF, FOUR, "r")
    request = tiny_request(num_inference_steps=10, init_image=begun(1, 0.29))
    made_by.generate([request], {}, on_step=lambda step, total: steps.append((step, total)))
    assert steps == [(1, 2), (2, 2)]
    assert [first_step(begun(1, s), 10) for s in (1.0, 0.3, 0.1)] == [0, 7, 9]


def test_a_picture_and_its_strength_and_mask_have_one_digest() -> None:
    mask = half()
    several = [begun(1), begun(2), begun(1, 0.6), begun(1, mask=mask), begun(1, mask=mask.T.copy())]
    assert len({one.digest for one in several}) == len(several)
    assert begun(1, mask=mask).digest == several[3].digest


@pytest.mark.parametrize(
    ("image", "mask", "strength", "message"),
    [
        (picture(1), None, 0.0, "strength is 0, allowed: more than 0, at most 1"),
        (picture(1), None, 1.5, "strength is 1.5, allowed: more than 0, at most 1"),
        (picture(1), None, float("nan"), "strength is nan, allowed: more than 0, at most 1"),
        (picture(1, (16, 24)), None, 0.5, "image is 24 x 16 px for a picture of 16 x 16 px, which"),
        (picture(1), half((16, 24)), 0.5, "mask_image is 24 x 16 px and image 16 x 16 px, allowed"),
        (picture(1), half() * 0, 0.5, "mask_image is black everywhere, allowed: white where the"),
    ],
)
def test_what_is_refused(image: Any, mask: Any, strength: float, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        init_image(image, mask, strength, 16, 16)


def test_what_generators_refuse(base: BaseModel, adapter: IdentityAdapter) -> None:
    made_by = TextOnlyGenerator(base, OFF, FOUR, "r")
    dot = np.zeros((16, 16), dtype=np.uint8)
    dot[3, 3] = 255
    for one, message in (
        (begun(1, 0.2), "strength is 0.2, which leaves none of 4 steps, allowed: 0.25 to 1, or"),
        (init_image(picture(1, (8, 8)), None, 0.5, 8, 8), "image is an array (8, 8, 3), allowed"),
        (begun(1, 0.5, dot), "mask_image has 1 white pixels and reaches no latent pixel, allowed"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            made_by.generate([tiny_request(num_inference_steps=4, init_image=one)], {})
    mixed = people_batch(adapter, ["ada", "bob"], init_images=[begun(1), None])
    with pytest.raises(ValueError, match="begin at different steps, allowed: one for all"):
        sample(base, adapter, mixed)
    nine = tiny_base(in_channels=9)
    with pytest.raises(ValueError, match="the base's UNet takes 9 channels, allowed with image"):
        TextOnlyGenerator(nine, OFF, FOUR, "r").generate(
            [tiny_request(num_inference_steps=4, init_image=begun(1))], {}
        )


@pytest.fixture(scope="module")
def pipe() -> InfiniteIDPipeline:
    made = InfiniteIDPipeline.from_pretrained("pocket").to("cpu")
    made.set_progress_bar_config(disable=True)
    return made


FEW: dict[str, Any] = {"num_inference_steps": 4, "output_type": "np", "seed": 3}


def test_the_call_takes_pictures_in_every_form(pipe: InfiniteIDPipeline, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    scene = Image.open(SAMPLES / "person-3.png").convert("RGB")
    mask = Image.new("L", scene.size)
    mask.paste(255, (0, 0, scene.width // 2, scene.height))
    scene.paste((0, 0, 255), (0, 0), mask)
    scene.save(path)
    mask.save(tmp_path / "mask.png")
    cover = np.asarray(mask)
    images = [str(path), path, path.read_bytes(), scene, np.asarray(scene)]
    masks = [str(tmp_path / "mask.png"), mask.convert("RGB"), mask, cover, cover > 0]
    call = partial(pipe, "a woman", SAMPLES / "person-1.png", strength=1.0, **FEW)
    found, same = call(image=images, mask_image=masks), call(image=scene, mask_image=mask)
    small = np.asarray(scene.resize((64, 64), Image.Resampling.LANCZOS)) / 255
    assert np.abs(same.images[0][:, 40:] - small[:, 40:]).mean() < 0.1
    assert np.abs(same.images[0][:, :24] - small[:, :24]).mean() > 0.2
    for one in found.images[np.array(found.seeds) == 3]:
        assert np.abs(one - same.images[0]).max() * 255 <= 2


def test_the_default_strength_and_rows_without_a_picture(pipe: InfiniteIDPipeline) -> None:
    scene, steps = Image.open(SAMPLES / "person-3.png"), []
    call = partial(pipe, "a man", SAMPLES / "person-2.png", **FEW)
    first = call(image=scene, callback_on_step_end=lambda *given: steps.append(given[1]))
    assert steps == [0, 1, 2]
    assert np.array_equal(first.images, call(image=scene, strength=0.8).images)
    both = call(image=[scene, None], strength=0.8)
    apart = [np.abs(both.images[0] - first.images[0]), np.abs(both.images[1] - call().images[0])]
    assert max(one.max() for one in apart) * 255 <= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strength": 0.5}, "strength is 0.5 without image, allowed: with image"),
        (
            {"image": [picture(1, (64, 64)), None], "strength": [0.5, 0.9]},
            "strength is 0.9 without image, allowed: with image",
        ),
        ({"mask_image": b""}, "mask_image is given without image, allowed: with image"),
        ({"image": 7}, "image is a int, allowed: a path, bytes of a file, a PIL picture, or an"),
        ({"image": "no.png"}, "image 'no.png' cannot be read: No such file or directory"),
        ({"image": b"words"}, "image cannot be used: the 5 bytes are no picture"),
        ({"image": "https://a/b.png"}, "image is 'https://a/b.png', allowed: a file on this mach"),
        ({"image": picture(1, (64, 64)), "strength": "much"}, "strength is 'much', allowed: a num"),
        ({"image": picture(1, (64, 64)), "strength": 0.2}, "strength is 0.2, which leaves none of"),
        ({"image": picture(1, (64, 96))}, "image is 96 x 64 px for a picture of 64 x 64 px, which"),
    ],
)
def test_what_the_call_refuses(pipe: InfiniteIDPipeline, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pipe("a man", SAMPLES / "person-2.png", **FEW, **values)
