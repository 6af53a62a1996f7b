"""The pocket model's image-text networks and tokenizer: what needs transformers alone.

Apart from `pocket`, so that actors which only embed or score never import diffusers, which takes
seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from infinite_id.pocket.weights import (
    CLIP_SIZE,
    POCKET_DIR,
    PROJECTION,
    SCORER_PROJECTION,
    SCORER_TEXT,
    SCORER_VISION,
    SEED,
    TEXT_2,
    TEXT_TOKENS,
    VISION,
    check_files,
    is_trained,
    revision,
)

__all__ = [
    "build_clip",
    "build_scorer",
    "load_clip_image_encoder",
    "load_scorer",
    "load_tokenizer",
    "no_bars",
    "seeded",
    "text_config",
    "vision_tower",
]


def load_clip_image_encoder() -> tuple[CLIPVisionModelWithProjection, int, str]:
    """The image tower of the identity stream.

    Returns:
        The model, float32, whose `last_hidden_state` of pictures float (B, 3, 64, 64),
        normalised by `CLIP_MEAN` and `CLIP_STD`, is (B, 65, 192); its picture size in pixels,
        64; its revision.
    """
    if not is_trained():
        return seeded(lambda: vision_tower(build_clip())).eval(), CLIP_SIZE, revision()
    check_files("clip/")
    with no_bars():
        model = CLIPVisionModelWithProjection.from_pretrained(
            POCKET_DIR / "clip", dtype=torch.float32, local_files_only=True
        )
    return model.eval(), CLIP_SIZE, revision()


def load_scorer() -> tuple[CLIPModel, CLIPTokenizer, str]:
    """The image-text model that only scores, float32, its tokenizer, its revision.

    Pictures are (B, 3, 64, 64) normalised by `CLIP_MEAN` and `CLIP_STD`; texts are padded to
    the tokenizer's `model_max_length`. It shares no weight, width, seed or person with the
    networks that generate.
    """
    if not is_trained():
        return build_scorer().eval(), load_tokenizer(), revision()
    check_files("scorer/")
    with no_bars():
        model = CLIPModel.from_pretrained(
            POCKET_DIR / "scorer", dtype=torch.float32, local_files_only=True
        )
    return model.eval(), load_tokenizer(), revision()


def load_tokenizer() -> CLIPTokenizer:
    """The byte-level BPE of the pocket captions; any text encodes, padded or cut to 64 tokens."""
    return CLIPTokenizer.from_pretrained(POCKET_DIR / "tokenizer", local_files_only=True)


def build_clip() -> CLIPModel:
    """The conditioning image-text model; its text tower has the second encoder's shape."""
    return seeded(lambda: CLIPModel(_clip_config(TEXT_2, VISION, PROJECTION)), offset=2)


def build_scorer() -> CLIPModel:
    """The scoring image-text model: other widths, other seed."""
    config = _clip_config(SCORER_TEXT, SCORER_VISION, SCORER_PROJECTION)
    return seeded(lambda: CLIPModel(config), offset=3)


def vision_tower(clip: CLIPModel) -> CLIPVisionModelWithProjection:
    """The image tower of a CLIP as a model of its own, with a copy of the weights."""
    config: Any = clip.config.vision_config
    tower = CLIPVisionModelWithProjection(config)
    tower.vision_model.load_state_dict(clip.vision_model.state_dict())
    tower.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    return tower


def text_config(shape: dict[str, Any]) -> CLIPTextConfig:
    """A text tower of the given widths, input ids (B, 64)."""
    tokenizer = load_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=3,
        max_position_embeddings=TEXT_TOKENS,
        projection_dim=PROJECTION,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )


def _clip_config(text: dict[str, int], vision: dict[str, Any], projection: int) -> CLIPConfig:
    text_part = text_config(text)
    text_part.projection_dim = projection
    vision_config = CLIPVisionConfig(
        image_size=CLIP_SIZE,
        patch_size=8,
        num_hidden_layers=4,
        projection_dim=projection,
        **vision,
    )
    return CLIPConfig(
        text_config=text_part.to_dict(),
        vision_config=vision_config.to_dict(),
        projection_dim=projection,
    )


@contextlib.contextmanager
def no_bars(*logging: Any) -> Iterator[None]:
    """Loads without progress bars; a caller who shows some keeps them.

    Args:
        logging: modules such as `diffusers.utils.logging`, besides that of transformers.
    """
    libraries = [transformers.utils.logging, *logging]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def seeded(build: Callable[[], Any], offset: int = 0) -> Any:
    """What `build` makes under the fixed seed plus `offset`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED + offset)
        return build().eval()
