"""The pocket model through the classes that the large one uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infinite_id.config import preset
from infinite_id.pocket import model as pocket


@pytest.fixture(scope="module")
def pipeline():
    return pocket.load_pipeline()


def test_shapes_agree_with_the_preset(pipeline):
    model, size, _ = pocket.load_clip_image_encoder()
    states = model(torch.zeros(2, 3, size, size)).last_hidden_state
    encoders = preset("pocket").encoders
    assert states.shape == (2, encoders.clip_tokens, encoders.clip_width)
    assert pipeline.unet.config.cross_attention_dim == preset("pocket").adapter.cross_attention_dim
    assert pipeline.vae_scale_factor == 4


def test_the_stock_pipeline_makes_a_picture(pipeline):
    pictures = pipeline(
        ["a man in the snow"] * 2,
        num_inference_steps=2,
        guidance_scale=5.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert pictures.shape == (2, 64, 64, 3)
    assert np.isfinite(pictures).all()


def test_loading_twice_gives_the_same_weights(pipeline):
    again = pocket.load_pipeline()
    for (name, one), (_, other) in zip(
        pipeline.unet.state_dict().items(), again.unet.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("text", ["a man", "Ünïcode 漢字 \U0001f600", "", "word " * 200])
def test_any_text_encodes_without_unknown_tokens(text: str):
    tokenizer = pocket.load_tokenizer()
    ids = tokenizer(text, truncation=True, padding="max_length").input_ids
    assert len(ids) == 64
    shown = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    assert "".join(shown.split()) == "".join(text.lower().split())


def test_the_scorer_shares_no_width_with_the_conditioning_model():
    scorer, tokenizer, _ = pocket.load_scorer()
    model, _, _ = pocket.load_clip_image_encoder()
    assert scorer.config.vision_config.hidden_size != model.config.hidden_size
    ids = tokenizer(["a man"], padding="max_length", return_tensors="pt").input_ids
    scores = scorer(input_ids=ids, pixel_values=torch.zeros(1, 3, 64, 64)).logits_per_image
    assert scores.shape == (1, 1)


def test_an_unknown_adapter_is_named():
    with pytest.raises(ValueError, match="adapter is 'lora', allowed: infinite_id"):
        pocket.adapter_path("lora")


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path):
    from infinite_id.pocket import weights as pocket_weights

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "unet.safetensors").write_bytes(b"damaged")
    (tmp_path / "manifest.json").write_text('{"files": {"base/unet.safetensors": "00"}}')
    monkeypatch.setattr(pocket_weights, "POCKET_DIR", tmp_path)
    pocket_weights.manifest.cache_clear()
    try:
        with pytest.raises(pocket.PocketWeightsError, match="SHA-256"):
            pocket_weights.check_files("base/")
        (tmp_path / "base" / "unet.safetensors").unlink()
        with pytest.raises(pocket.PocketWeightsError, match="lack base/unet"):
            pocket_weights.check_files("base/")
    finally:
        pocket_weights.manifest.cache_clear()


def test_shipped_shards_are_small_enough():
    files = [p for p in pocket.POCKET_DIR.rglob("*") if p.is_file()]
    assert max(p.stat().st_size for p in files) <= 16 * 2**20
    assert sum(p.stat().st_size for p in files) <= 60 * 2**20
