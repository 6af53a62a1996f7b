"""A complete SDXL pipeline of real diffusers components, small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from infinite_id.base import BaseModel
from infinite_id.config import AdapterConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.pocket.image_text import load_tokenizer
from infinite_id.types import GenerationRequest, Identity, IdentityEmbedding
from infinite_id.weights.adapter_file import AdapterMetadata, save_adapter

__all__ = [
    "ADAPTER",
    "CLIP_TOKENS",
    "tiny_base",
    "tiny_identity",
    "tiny_pipeline",
    "tiny_request",
    "write_pocket_adapter",
]

CLIP_TOKENS = 5
ADAPTER = AdapterConfig(16, 24, cross_attention_dim=64, face_tokens=2, hidden_width=32)


def tiny_unet(**overrides: Any) -> UNet2DConditionModel:
    """4 transformer blocks a side and SDXL's text_time conditioning; factor 2 inside."""
    torch.manual_seed(1)
    config: dict[str, Any] = {
        "sample_size": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 64,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(config | overrides))


def tiny_pipeline(**unet: Any) -> StableDiffusionXLPipeline:
    """Weights are random, the same each time; pictures 2 px a latent pixel."""
    tokenizer = load_tokenizer()
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
        sample_size=16,
        force_upcast=False,
    )
    text: Any = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=tiny_unet(**unet).eval(),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_base(**unet: Any) -> BaseModel:
    return BaseModel(tiny_pipeline(**unet), "tiny")


def write_pocket_adapter(path: Path) -> Path:
    """Identity weights of the tiny UNet for the pocket's encoders, trained on another base."""
    torch.manual_seed(3)
    made = IdentityAdapter(AdapterConfig(128, 192, 64, 4, 32), tiny_pipeline().unet)
    for parameter in made.image.parameters():
        parameter.data.mul_(3.0)
    metadata = AdapterMetadata("another base", "embedded+pocket", 1, text_active=False)
    save_adapter(path, made, metadata)
    return path


def tiny_identity(name: str, *, photos: int = 1) -> Identity:
    """A made-up person; the same each time."""
    rng = np.random.default_rng(list(name.encode()))
    face = rng.normal(size=ADAPTER.face_width).astype(np.float32)
    clip = rng.normal(size=(photos * CLIP_TOKENS, ADAPTER.clip_width)).astype(np.float16)
    embedding = IdentityEmbedding(face / np.linalg.norm(face), clip, "tiny")
    blank = np.zeros((112, 112, 3), dtype=np.uint8)
    return Identity(name, (blank,) * photos, embedding)


def tiny_request(**values: Any) -> GenerationRequest:
    """A request of two steps at 16 px; `values` override."""
    request: dict[str, Any] = {
        "sample_id": "sample",
        "identity_id": "ada",
        "method": "infinite_id",
        "prompt": "a man on the beach",
        "negative_prompt": "",
        "style": "photo",
        "seed": 7,
        "height": 16,
        "width": 16,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
    }
    return GenerationRequest(**(request | values))
