from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.generator import InfiniteIdGenerator, TextOnlyGenerator
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.types import CancelledError, Generator, Identity, IdentityMix
from tests.infinite_id.tiny import CLIP_TOKENS, tiny_identity, tiny_request


@pytest.fixture(scope="module")
def generator(base: BaseModel, adapter: IdentityAdapter) -> InfiniteIdGenerator:
    return InfiniteIdGenerator(
        base, adapter, FusionConfig(), SamplerConfig(), "tiny", clip_tokens=CLIP_TOKENS
    )


def picture(generator: Generator, people: dict[str, Identity], **values: Any) -> NDArray[np.int16]:
    (made,) = generator.generate([tiny_request(**values)], people)
    return made.image.astype(np.int16)


MATES: list[dict[str, Any]] = [
    {},
    {"identity_id": "bob"},
    {"identity_id": "cy", "prompt": "a woman in the snow", "seed": 9},
    {"height": 24},
    {"num_inference_steps": 3},
    {"guidance_scale": 1.0},
    {"guidance_scale": 2.5, "identity_id": "dee"},
    {"identity_id": "two"},
    {"negative_prompt": "blurry"},
    {"identity_id": "mix", "mix": IdentityMix((("ada", 0.5), ("bob", 0.5)))},
    {"identity_id": "mix", "mix": IdentityMix((("ada", 1.0), ("bob", 1.0)), "stack")},
]


@pytest.fixture(scope="module")
def in_one_call(generator: InfiniteIdGenerator) -> list[NDArray[np.int16]]:
    requests = [tiny_request(sample_id=str(n), **mate) for n, mate in enumerate(MATES)]
    made = generator.generate(requests, everybody())
    assert [one.sample_id for one in made] == [str(n) for n in range(len(MATES))]
    return [one.image.astype(np.int16) for one in made]


def everybody() -> dict[str, Identity]:
    people = {name: tiny_identity(name) for name in ("ada", "bob", "cy", "dee")}
    return people | {"two": tiny_identity("two", photos=2)}


@pytest.mark.parametrize("number", range(len(MATES)))
def test_a_picture_does_not_depend_on_its_batch(
    generator: InfiniteIdGenerator, in_one_call: list[NDArray[np.int16]], number: int
) -> None:
    alone = picture(generator, everybody(), **MATES[number])
    assert alone.shape == (MATES[number].get("height", 16), 16, 3)
    assert np.abs(alone - in_one_call[number]).max() <= 2


def test_pictures_of_different_requests_differ(in_one_call: list[NDArray[np.int16]]) -> None:
    square = [one.ravel() for one in in_one_call if one.shape[0] == 16]
    distances = [np.abs(a - b).max() for n, a in enumerate(square) for b in square[:n]]
    assert min(distances) > 2


def test_the_same_request_twice_is_the_same_picture(
    generator: InfiniteIdGenerator, people: dict[str, Identity]
) -> None:
    torch.manual_seed(123)
    first = picture(generator, people)
    torch.manual_seed(456)
    np.testing.assert_array_equal(picture(generator, people), first)


@pytest.mark.parametrize(("weight", "name"), [(1.0, "ada"), (0.0, "bob")])
def test_a_mix_ends_at_each_persons_picture(
    generator: InfiniteIdGenerator, people: dict[str, Identity], weight: float, name: str
) -> None:
    mix = IdentityMix((("ada", weight), ("bob", 1 - weight)))
    found = picture(generator, people, identity_id="mix", mix=mix)
    expected = picture(generator, people, identity_id=name)
    assert np.abs(found - expected).max() <= 2


def test_a_person_stacked_on_itself_is_that_person_without_normalisation(
    base: BaseModel, adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    """Twice the same keys and values leave a softmax average as it is."""
    made = InfiniteIdGenerator(
        base, adapter, FusionConfig(), SamplerConfig(), "", clip_tokens=CLIP_TOKENS
    )
    mix = IdentityMix((("ada", 1.0), ("ada", 1.0)), "stack")
    found = picture(made, people, identity_id="mix", mix=mix)
    assert np.abs(found - picture(made, people)).max() <= 2


def test_text_only_ignores_the_person(base: BaseModel, people: dict[str, Identity]) -> None:
    made = TextOnlyGenerator(base, FusionConfig(), SamplerConfig(), "")
    np.testing.assert_array_equal(picture(made, people), picture(made, {}, identity_id="bob"))


def test_decoding_in_slices_changes_nothing(base: BaseModel) -> None:
    latents = torch.randn(5, 4, 8, 8)
    whole = base.decode(latents)
    former, base.decode_slice = base.decode_slice, 2
    try:
        sliced = base.decode(latents)
    finally:
        base.decode_slice = former
    assert np.abs(np.stack(whole).astype(int) - np.stack(sliced)).max() <= 1


def test_two_methods_at_once_on_one_base(
    base: BaseModel, adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    before = dict(base.unet.attn_processors)
    made: list[Any] = [
        InfiniteIdGenerator(base, adapter, config, SamplerConfig(), "", clip_tokens=CLIP_TOKENS)
        for config in (FusionConfig(), FusionConfig(fusion="mutual"))
    ]
    made.append(TextOnlyGenerator(base, FusionConfig(), SamplerConfig(), ""))
    values: dict[str, Any] = {"num_inference_steps": 6}
    alone = [picture(one, people, **values) for one in made]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda one: picture(one, people, **values), made * 3))
    difference = [np.abs(a - b).max() for a, b in zip(together, alone * 3, strict=True)]
    assert max(difference) <= 1
    assert base.unet.attn_processors == before


def test_stopping(generator: InfiniteIdGenerator, people: dict[str, Identity]) -> None:
    with pytest.raises(CancelledError, match="after 0 of 2 steps"):
        generator.generate([tiny_request()], people, should_stop=lambda: True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0, allowed: 1 or more"),
        ({"num_inference_steps": -3}, "num_inference_steps is -3, allowed: 1 or more"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan, allowed: finite, >= 0"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0, allowed: finite, >= 0"),
        ({"seed": -1}, r"seed is -1, allowed: 0 to 2\*\*63 - 1"),
        ({"height": 17}, "height is 17, allowed: a multiple of 4"),
        ({"identity_id": "zoe"}, "identity is 'zoe', allowed: ada, bob, cy, dee"),
        ({"prompt": "very " * 80}, r"has \d+ tokens, allowed: 64 with begin and end"),
    ],
)
def test_bad_requests(
    generator: InfiniteIdGenerator,
    people: dict[str, Identity],
    values: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        generator.generate([tiny_request(**values)], people)


def test_nothing_to_do(generator: InfiniteIdGenerator) -> None:
    assert generator.generate([], {}) == []


def test_it_is_a_generator(generator: InfiniteIdGenerator, people: dict[str, Identity]) -> None:
    assert isinstance(generator, Generator)
    request = replace(tiny_request(), prompt="a woman")
    seen: list[tuple[int, int]] = []
    generator.generate([request], people, on_step=lambda step, steps: seen.append((step, steps)))
    assert seen == [(1, 2), (2, 2)]
