"""PhotoMaker: the file formats, the fusion, the rows."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from infinite_id.baselines.config import PhotoMakerConfig
from infinite_id.baselines.photomaker import PhotoMakerGenerator, class_token_ids
from infinite_id.baselines.photomaker_weights import (
    load_photomaker,
    save_photomaker,
    untrained_encoder,
)
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.generator import TextOnlyGenerator
from infinite_id.pocket.image_text import load_tokenizer
from infinite_id.types import IdentityMix, PreviewHook
from tests.infinite_id.baselines.conftest import request

WIDTH = 256


def linear(generator, out, width_in):
    return torch.randn(out, width_in, generator=generator) * width_in**-0.5


def mlp(generator, name, width_in, width):
    return {
        f"{name}.layernorm.weight": torch.ones(width_in),
        f"{name}.layernorm.bias": torch.zeros(width_in),
        f"{name}.fc1.weight": linear(generator, width, width_in),
        f"{name}.fc1.bias": torch.randn(width, generator=generator),
        f"{name}.fc2.weight": linear(generator, width, width),
        f"{name}.fc2.bias": torch.randn(width, generator=generator),
    }


@pytest.fixture(scope="module")
def vision():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1,
        patch_size=14, image_size=56, projection_dim=96,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def published(vision, version: int) -> dict:
    """Weights with the published files' names, made here from scratch."""
    generator = torch.Generator().manual_seed(version)
    weights = dict(vision.state_dict())
    weights |= mlp(generator, "fuse_module.mlp1", 2 * WIDTH, WIDTH)
    weights |= mlp(generator, "fuse_module.mlp2", WIDTH, WIDTH)
    weights["fuse_module.layer_norm.weight"] = torch.ones(WIDTH)
    weights["fuse_module.layer_norm.bias"] = torch.zeros(WIDTH)
    weights["visual_projection_2.weight"] = linear(generator, WIDTH - 96, 64)
    if version == 2:
        p = "qformer_perceiver."
        weights |= {
            f"{p}token_proj.0.weight": linear(generator, 512, 128),
            f"{p}token_proj.0.bias": torch.zeros(512),
            f"{p}token_proj.2.weight": linear(generator, 2 * WIDTH, 512),
            f"{p}token_proj.2.bias": torch.zeros(2 * WIDTH),
            f"{p}token_norm.weight": torch.ones(WIDTH),
            f"{p}token_norm.bias": torch.zeros(WIDTH),
        }
        r = f"{p}perceiver_resampler."
        weights |= {
            f"{r}proj_in.weight": linear(generator, WIDTH, 64),
            f"{r}proj_in.bias": torch.zeros(WIDTH),
            f"{r}proj_out.weight": linear(generator, WIDTH, WIDTH),
            f"{r}proj_out.bias": torch.zeros(WIDTH),
            f"{r}norm_out.weight": torch.ones(WIDTH),
            f"{r}norm_out.bias": torch.zeros(WIDTH),
        }
        for layer in range(4):
            a, f = f"{r}layers.{layer}.0.", f"{r}layers.{layer}.1."
            for norm in (f"{a}norm1", f"{a}norm2", f"{f}0"):
                weights[f"{norm}.weight"] = torch.ones(WIDTH)
                weights[f"{norm}.bias"] = torch.zeros(WIDTH)
            weights[f"{a}to_q.weight"] = linear(generator, WIDTH, WIDTH)
            weights[f"{a}to_kv.weight"] = linear(generator, 2 * WIDTH, WIDTH)
            weights[f"{a}to_out.weight"] = linear(generator, WIDTH, WIDTH)
            weights[f"{f}1.weight"] = linear(generator, 4 * WIDTH, WIDTH)
            weights[f"{f}3.weight"] = linear(generator, WIDTH, 4 * WIDTH)
    return weights


def reference_mlp(weights, name, x):
    x = F.layer_norm(x, x.shape[-1:])
    x = F.gelu(F.linear(x, weights[f"{name}.fc1.weight"], weights[f"{name}.fc1.bias"]))
    return F.linear(x, weights[f"{name}.fc2.weight"], weights[f"{name}.fc2.bias"])


@pytest.fixture(scope="module")
def files(tmp_path_factory, vision):
    folder = tmp_path_factory.mktemp("photomaker")
    paths = {}
    for version in (1, 2):
        paths[version] = folder / f"photomaker-v{version}.bin"
        torch.save({"id_encoder": published(vision, version), "lora_weights": {}}, paths[version])
    return paths


@pytest.mark.parametrize(("version", "tokens"), [(1, 2), (2, 4)])
def test_published_files_load_and_give_their_tokens_a_photo(files, people, version, tokens):
    encoder, lora, revision = load_photomaker(files[version])
    assert encoder.version == str(version)
    assert revision.startswith(f"photomaker-{version}-")
    assert lora == {}
    assert encoder.eval().identity_tokens(people["two"]).shape == (tokens, WIDTH)


def test_version_1_tokens_and_fusion_follow_the_formula(files, vision, people):
    weights = published(vision, 1)
    encoder = load_photomaker(files[1])[0].eval()
    pixels = torch.from_numpy(people["a"].images[0]).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, size=(56, 56), mode="bicubic", antialias=True).clamp(0, 1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        seen = vision((pixels - mean) / std)
        pooled = vision.vision_model((pixels - mean) / std).pooler_output
        second = pooled @ weights["visual_projection_2.weight"].T
        expected = torch.cat([seen.image_embeds, second], dim=-1)
        found = encoder.identity_tokens(people["a"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        text = torch.randn(1, WIDTH)
        mixed = text + reference_mlp(
            weights, "fuse_module.mlp1", torch.cat([text, expected], dim=-1)
        )
        fused = F.layer_norm(mixed + reference_mlp(weights, "fuse_module.mlp2", mixed), (WIDTH,))
        torch.testing.assert_close(encoder.fuse(text, found), fused, rtol=1e-4, atol=1e-4)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def damaged(path, kind):
    if kind == "code":
        path.write_bytes(pickle.dumps({"id_encoder": Evil(), "lora_weights": {}}, protocol=2))
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "other":
        torch.save({"state_dict": {}}, path)
    elif kind == "keys":
        torch.save({"id_encoder": {"a": torch.ones(1)}, "lora_weights": {}}, path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("code", "cannot be read: it holds something else than tensors, or is not whole"),
        ("text", "cannot be read"),
        ("missing", "cannot be read: No such file or directory"),
        ("other", "state_dict"),
        ("keys", "fuse_module"),
    ],
)
def test_files_of_another_form_are_refused_and_nothing_runs(tmp_path, capsys, kind, words):
    path = tmp_path / "file.bin"
    damaged(path, kind)
    with pytest.raises(ValueError, match=words):
        load_photomaker(path)
    assert capsys.readouterr().out == ""


def test_the_pocket_file_comes_back_as_written(tmp_path, base, people):
    encoder = untrained_encoder(192, base).eval()
    save_photomaker(tmp_path / "p.safetensors", encoder, {}, "pocket")
    again = load_photomaker(tmp_path / "p.safetensors")[0].eval()
    assert again.version == "pocket"
    torch.testing.assert_close(
        again.identity_tokens(people["two"]), encoder.identity_tokens(people["two"])
    )


@pytest.mark.parametrize("prompt", ["a man img on the beach", "a man on the beach"])
def test_the_class_word_stands_once_for_each_token(prompt):
    tokenizer = load_tokenizer()
    ids, mask = class_token_ids(tokenizer, prompt, "man", "img", 3)
    kept = ids[~mask].tolist()
    assert tokenizer.decode(ids[mask]).split() == ["man", "man", "man"]
    without = tokenizer("a on the beach", padding="max_length", truncation=True).input_ids
    # Same text without the class word, with three fewer paddings.
    assert kept == without[: len(kept)]
    assert len(ids) == tokenizer.model_max_length


@pytest.mark.parametrize(
    ("prompt", "count", "words"),
    [
        ("a dog", 1, "neither the trigger 'img' nor the class word 'man'"),
        ("a man img and img", 1, "2 times"),
        ("img of a man", 1, "no word before"),
        ("a man", 90, "allowed: 64"),
    ],
)
def test_prompts_without_a_place_for_the_identity_are_refused(prompt, count, words):
    with pytest.raises(ValueError, match=words):
        class_token_ids(load_tokenizer(), prompt, "man", "img", count)


def generator(base, lora=None, **config):
    encoder = untrained_encoder(192, base)
    return PhotoMakerGenerator(
        base, encoder, lora or {}, PhotoMakerConfig(**config), SamplerConfig(), "r"
    )


def test_previews_show_the_rows_of_those_who_ask(base, people):
    shown = {}
    hook = PreviewHook(
        wanted=lambda step, steps: [1],
        show=lambda position, step, picture: shown.update({(position, step): picture.astype(int)}),
    )
    made = generator(base).generate([request("a"), request("b", seed=2)], people, previews=hook)
    assert sorted(shown) == [(1, 1), (1, 2)]
    errors = [np.abs(shown[1, step] - made[1].image).mean() for step in (1, 2)]
    assert errors[1] < errors[0]
    assert errors[1] < np.abs(shown[1, 2] - made[0].image).mean()


def test_each_row_has_its_own_identity_whatever_is_beside_it(base, people):
    made = generator(base)
    both = made.generate([request("a"), request("two", seed=2)], people)
    alone = made.generate([request("two", seed=2)], people)
    other = made.generate([request("b", seed=2)], people)
    assert np.abs(both[1].image.astype(int) - alone[0].image).max() <= 1
    assert (both[1].image != other[0].image).any()


def test_until_the_merging_step_it_is_the_base_model(base, people):
    plain = TextOnlyGenerator(base, FusionConfig(), SamplerConfig(), "r")
    expected = plain.generate([request("a")], people)[0].image.astype(int)
    late = generator(base, merge_from=1.0).generate([request("a")], people)[0].image
    early = generator(base, merge_from=0.0).generate([request("a")], people)[0].image
    assert np.abs(late - expected).max() <= 1
    assert (early != late).any()


def test_the_lora_acts_here_and_nowhere_else(base, people):
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    seeded = torch.Generator().manual_seed(0)
    lora = {
        f"{name}.lora_A.weight": torch.randn(4, 32, generator=seeded),
        f"{name}.lora_B.weight": torch.randn(32, 4, generator=seeded),
    }
    plain = TextOnlyGenerator(base, FusionConfig(), SamplerConfig(), "r")
    before = plain.generate([request("a")], people)[0].image
    without = generator(base).generate([request("a")], people)[0].image
    with_lora = generator(base, lora).generate([request("a")], people)[0].image
    assert (with_lora != without).any()
    assert (plain.generate([request("a")], people)[0].image == before).all()


def test_mixes_stack_and_interpolate(base, people):
    made = generator(base)
    ends = [IdentityMix((("a", 1.0), ("b", 0.0))), IdentityMix((("a", 1.0), ("b", 1.0)), "stack")]
    first = made.generate([replace(request("mix"), mix=ends[0])], people)[0].image
    stacked = made.generate([replace(request("mix"), mix=ends[1])], people)[0].image
    alone = made.generate([request("a")], people)[0].image
    assert np.abs(first.astype(int) - alone).max() <= 1
    assert (stacked != alone).any()


def test_a_missing_person_is_named(base, people):
    with pytest.raises(ValueError, match="identity is 'nobody', allowed: a, b, two"):
        generator(base).generate([request("nobody")], people)
