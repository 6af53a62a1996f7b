"""The stages "clip" and "scorer": pictures and captions in one space."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infinite_id.pocket import model as pocket
from infinite_id.training.context import (
    Context,
    Stage,
    load_stage,
    pixels_of,
)
from infinite_id.training.loop_config import LoopConfig
from infinite_id.training.text import encode_texts, tokenize

__all__ = ["ImageText", "build_image_text", "clip_tokens_of", "texts_of"]


class ImageText(nn.Module):
    """A CLIP with what only its training needs.

    Args:
        model: image tower and text tower.
        first: a further text tower aligned to the same pictures (the base's first encoder).
    """

    def __init__(self, model: Any, first: Any | None) -> None:
        super().__init__()
        self.model, self.first = model, first
        width = model.config.projection_dim
        if first is not None:
            self.first_head = nn.Linear(first.config.hidden_size, width, bias=False)
            self.face_head = nn.Linear(width, width, bias=False)

    def forward(self, pixels: Tensor, ids: Tensor, faces: Tensor | None) -> Tensor:
        """Symmetric InfoNCE of pictures and texts, and of two photos (2 B faces) of a person."""
        images = self.model.visual_projection(self.model.vision_model(pixels).pooler_output)
        texts = self.model.text_projection(self.model.text_model(ids).pooler_output)
        scale = self.model.logit_scale.exp().clamp(max=100)
        loss = _contrast(images, texts, scale)
        if self.first is not None:
            loss = loss + _contrast(images, self.first_head(self.first(ids).pooler_output), scale)
        if faces is not None:
            tokens = self.model.vision_model(faces)
            seen = self.face_head(self.model.visual_projection(tokens.pooler_output))
            one, other = seen.chunk(2)
            loss = loss + 0.5 * _contrast(one, other, scale)
        return loss


def _contrast(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def build_image_text(context: Context, stage: str) -> Stage:
    """The stages "clip", which conditions, and "scorer", which judges and saw none of its pictures.

    Pictures are (B, 3, 64, 64), normalised by CLIP's mean and deviation; captions are token ids
    (B, 64). "clip" sees two aligned faces each of some people as well.

    Args:
        context: data and device.
        stage: "clip" or "scorer".

    Returns:
        An `ImageText`, all of whose parameters are trained; its loss, a scalar of 0 or more (log B
        a contrast where nothing is known); how to optimise.
    """
    scorer = stage == "scorer"
    pictures = context.scorer_pictures if scorer else context.pictures
    first = None if scorer else pocket.build_text_encoder(first=True)
    model = ImageText(pocket.build_scorer() if scorer else pocket.build_clip(), first)
    model.to(context.device)
    if not len(pictures.images):
        raise ValueError(f"stage {stage} has 0 pictures, allowed: 1 or more")
    ids = tokenize(pictures.captions)
    people, size = context.people, 64 * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((3 if scorer else 2, step, part))
        chosen = rng.integers(len(ids), size=size)
        pixels = clip_pixels(pictures.images[chosen], context.device)
        faces = None
        if not scorer:
            some = rng.choice(
                len(people.face), size=min(size // 4, len(people.face)), replace=False
            )
            both = np.concatenate([people.aligned[some, 0], people.aligned[some, 1]])
            faces = clip_pixels(both, context.device)
        return model(pixels, ids[chosen].to(context.device), faces)

    config = LoopConfig(
        learning_rate=1e-3,
        total_steps=context.total_steps(size),
        weight_decay=0.05,
        ema_decay=0.99,
        precision=context.precision,
    )
    return model, loss, config


def load_clip(context: Context) -> ImageText:
    """The trained conditioning image-text model with both text towers."""
    model = ImageText(pocket.build_clip(), pocket.build_text_encoder(first=True))
    return load_stage(context.state, "clip", model).to(context.device)


def texts_of(context: Context, captions: NDArray[np.str_]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden (U, L, D) and pooled (U, P) of the unique captions, half precision; row of each.

    They are kept in the state folder, for these captions and these encoders, and read as a file
    that workers share.
    """
    unique, rows = np.unique(captions, return_inverse=True)
    path = context.state / "texts.safetensors"
    words = hashlib.sha256("\n".join(unique).encode()).hexdigest()
    key = f"{(context.state / 'clip.safetensors').stat().st_mtime_ns}-{words}"
    if not path.is_file() or _key(path) != key:
        clip = load_clip(context)
        hidden, pooled = encode_texts(clip.first, clip.model, tokenize(unique), context.device)
        temporary = context.state / ".texts.tmp"
        tensors = {"hidden": hidden.cpu(), "pooled": pooled.cpu()}
        save_file(tensors, temporary, metadata={"key": key})
        temporary.replace(path)
    cached = load_file(path)
    hidden, pooled = (cached[name].to(context.device) for name in ("hidden", "pooled"))
    return hidden, pooled, torch.from_numpy(rows)


def _key(path: Path) -> str | None:
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("key")


@torch.no_grad()
def clip_tokens_of(context: Context, aligned: NDArray[np.uint8]) -> Tensor:
    """Half precision (N, P, T, C): image tokens of aligned faces uint8 (N, P, 112, 112, 3)."""
    tower = load_clip(context).model.vision_model
    flat = aligned.reshape(-1, *aligned.shape[2:])
    parts = [
        tower(clip_pixels(flat[i : i + 64], context.device)).last_hidden_state.half()
        for i in range(0, len(flat), 64)
    ]
    return torch.cat(parts).unflatten(0, aligned.shape[:2])


def clip_pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, 3, 64, 64) as both image towers read them."""
    pixels = pixels_of(images, device)
    size = pocket.CLIP_SIZE
    if pixels.shape[-1] != size:
        pixels = F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)
    mean = torch.tensor(pocket.CLIP_MEAN, device=device).view(1, 3, 1, 1)
    deviation = torch.tensor(pocket.CLIP_STD, device=device).view(1, 3, 1, 1)
    return (pixels.clamp(0, 1) - mean) / deviation
