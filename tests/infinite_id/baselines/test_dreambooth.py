"""DreamBooth: what is fitted, what prior preservation keeps, one LoRA a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from infinite_id.baselines.config import DreamBoothConfig
from infinite_id.baselines.dreambooth import (
    DreamBoothGenerator,
    class_latents,
    fit_lora,
    is_fitted,
    lora_path,
    personal_prompt,
    save_lora,
)
from infinite_id.baselines.rows import RowBatch, denoise_rows
from infinite_id.config import SamplerConfig
from infinite_id.types import IdentityMix
from tests.infinite_id.baselines.conftest import request

CONFIG = DreamBoothConfig(class_pictures=4, rank=4, steps=15, learning_rate=5e-3)
SAMPLER = SamplerConfig(num_inference_steps=2)
MADE_FROM = {"class_word": "man", "photos": "digest"}


@pytest.fixture(scope="module")
def latents(base):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    photos = base.encode_pictures(list(blocks.repeat(8, axis=1).repeat(8, axis=2)))
    return photos, class_latents(base, "man", CONFIG, SAMPLER, 32, 32)


@pytest.fixture(scope="module")
def fits(base, latents):
    """(weights, losses) with and without prior preservation."""
    found = {}
    for weight in (1.0, 0.0):
        losses: list[float] = []
        config = replace(CONFIG, prior_weight=weight)
        weights = fit_lora(
            base, *latents, "man", config, on_step=lambda _, x, to=losses: to.append(x)
        )
        found[weight] = (weights, losses)
    return found


@pytest.fixture(scope="module")
def folder(base, fits, tmp_path_factory):
    place = tmp_path_factory.mktemp("loras")
    for weight, (weights, _) in fits.items():
        config = replace(CONFIG, prior_weight=weight)
        for name, factor in (("a", 1.0), ("b", -1.0)):
            scaled = {key: tensor * factor for key, tensor in weights.items() if "lora_A" in key}
            save_lora(
                lora_path(place, name, config), {**weights, **scaled}, config,
                base=base.revision, **MADE_FROM,
            )  # fmt: skip
    return place


def generator(base, folder, **values):
    return DreamBoothGenerator(base, folder, CONFIG, SAMPLER, "r", **values)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a man on the beach", "a sks man on the beach"),
        ("Man, a man", "sks Man, a man"),
        ("portrait on a beach", "sks man, portrait on a beach"),
        ("a manor", "sks man, a manor"),
    ],
)
def test_the_rare_word_stands_before_the_class_word(prompt, expected):
    assert personal_prompt(prompt, "man", "sks") == expected


def test_photos_come_back_from_their_latents_as_the_vae_makes_them(base, latents):
    photos = base.encode_pictures(base.decode(latents[0]))
    assert photos.shape == latents[0].shape
    assert torch.isfinite(photos).all()


def test_prior_preservation_keeps_the_class_closer_to_the_base(base, latents, folder):
    """Pictures of the bare class, with each LoRA, against the base's own from equal noise."""
    made = {}
    for weight in (1.0, 0.0):
        config = replace(CONFIG, prior_weight=weight)
        own = DreamBoothGenerator(base, folder, config, SAMPLER, "r")
        text, negative = base.encode(["a photo of man"] * 4), base.encode_negative([""] * 4)
        batch = RowBatch(text, negative, [1, 2, 3, 4], [5.0] * 4, 32, 32)
        with own._personalised([request("a")] * 4):
            made[weight] = denoise_rows(own.base, batch, SAMPLER)
        made["base"] = denoise_rows(base, batch, SAMPLER)
    kept, drifted = ((made[w] - made["base"]).square().mean() for w in (1.0, 0.0))
    assert kept < drifted


def test_the_fit_learns_the_photos(base, latents, fits):
    """Noise and timesteps of a step depend on the seed alone: losses compare step by step."""
    idle: list[float] = []
    config = replace(CONFIG, prior_weight=0.0, learning_rate=1e-12)
    fit_lora(base, *latents, "man", config, on_step=lambda _, loss: idle.append(loss))
    learnt = fits[0.0][1]
    assert learnt[0] == pytest.approx(idle[0], rel=1e-4)
    assert np.mean(learnt[-5:]) < 0.98 * np.mean(idle[-5:])


def test_a_fit_repeats_and_leaves_the_base_alone(base, latents):
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    config = replace(CONFIG, steps=2)
    first, second = (fit_lora(base, *latents, "man", config) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    after = base.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_each_row_has_its_own_lora_whatever_is_beside_it(base, folder, people):
    made = generator(base, folder)
    both = made.generate([request("a"), request("b")], people)
    alone = generator(base, folder).generate([request("b")], people)[0].image.astype(int)
    assert np.abs(both[1].image - alone).max() <= 1
    assert (both[0].image != both[1].image).any()


def test_loras_make_room_for_others(base, folder, people):
    made = generator(base, folder, most=1)
    first = made.generate([request("a")], people)[0].image
    made.generate([request("b")], people)
    assert list(made._loaded) == ["b"]
    assert (made.generate([request("a")], people)[0].image == first).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"identity_id": "two"}, "identity 'two' has no DreamBooth LoRA at .*jobs/dreambooth.py"),
        ({"mix": IdentityMix((("a", 0.5), ("b", 0.5)))}, "is a mix, allowed with DreamBooth"),
    ],
)
def test_people_without_a_lora_are_named(base, folder, people, changed, words):
    with pytest.raises(ValueError, match=words):
        generator(base, folder).generate([replace(request("a"), **changed)], people)


def test_a_lora_of_another_base_is_refused(base, fits, tmp_path, people):
    path = lora_path(tmp_path, "a", CONFIG)
    save_lora(path, fits[1.0][0], CONFIG, base="another", **MADE_FROM)
    with pytest.raises(ValueError, match="is for the base another, allowed: "):
        generator(base, tmp_path).generate([request("a")], people)


@pytest.mark.parametrize(
    ("config", "photos", "expected"),
    [(CONFIG, "digest", True), (replace(CONFIG, steps=16), "digest", False), (CONFIG, "x", False)],
)
def test_a_fit_is_known_by_what_it_was_made_from(base, folder, config, photos, expected):
    values = {"base": base.revision, "class_word": "man", "photos": photos}
    assert is_fitted(lora_path(folder, "a", CONFIG), config, **values) is expected


def test_names_stay_inside_the_folder(tmp_path):
    path = lora_path(tmp_path, "../../etc/passwd", CONFIG)
    assert path.resolve().parent == (tmp_path / "prior").resolve()
