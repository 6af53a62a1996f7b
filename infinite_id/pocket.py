"""The pocket model: SDXL's architecture at a size that a laptop's CPU runs, shipped with the code.

Everything is built from the classes that the large model uses: AutoencoderKL (factor 4, latents
4 x 16 x 16 at 64 px), two CLIP text encoders (penultimate hidden states, widths 96 + 160 = 256;
pooled projection of the second, 160), UNet2DConditionModel with SDXL's "text_time" conditioning,
DDIM on v-prediction; the image tower of a small CLIP for the identity stream (65 tokens x 192);
and a second CLIP, trained apart, that only scores pictures.

Weights lie in `assets/pocket` as half precision safetensors, listed with their SHA-256 in
`manifest.json`. Without that file the networks are built with random weights from a fixed seed:
`is_trained()` tells which, and `revision()` names it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from infinite_id.pocket_weights import (
    ADAPTERS,
    CLIP_MEAN,
    CLIP_STD,
    IMAGE_SIZE,
    POCKET_DIR,
    PROJECTION,
    SCHEDULER,
    SCORER_PROJECTION,
    SCORER_TEXT,
    SCORER_VISION,
    SEED,
    TEXT_1,
    TEXT_2,
    TEXT_TOKENS,
    UNET,
    VAE,
    VISION,
    PocketWeightsError,
    adapter_path,
    check_files,
    is_trained,
    revision,
)

__all__ = [
    "ADAPTERS",
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGE_SIZE",
    "POCKET_DIR",
    "PocketWeightsError",
    "adapter_path",
    "build_clip",
    "build_scheduler",
    "build_scorer",
    "build_text_encoder",
    "build_unet",
    "build_vae",
    "is_trained",
    "load_clip_image_encoder",
    "load_pipeline",
    "load_scorer",
    "load_tokenizer",
    "revision",
    "vision_tower",
]


def load_pipeline(dtype: torch.dtype = torch.float32) -> StableDiffusionXLPipeline:
    """The base model: text to 64 px portraits, on the CPU, in eval mode, progress bar off.

    Raises:
        PocketWeightsError: a shipped file's SHA-256 differs from the manifest.
    """
    if is_trained():
        check_files("base/")
        with _no_bars():
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                POCKET_DIR / "base", dtype=dtype, local_files_only=True, add_watermarker=False
            )
    else:
        networks: dict[str, Any] = {
            "vae": build_vae(),
            "text_encoder": build_text_encoder(first=True),
            "text_encoder_2": build_text_encoder(first=False),
            "unet": build_unet(),
        }
        for network in networks.values():
            torch.nn.Module.to(network, dtype)
        pipeline = StableDiffusionXLPipeline(
            **networks,
            tokenizer=load_tokenizer(),
            tokenizer_2=load_tokenizer(),
            scheduler=build_scheduler(),
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_clip_image_encoder() -> tuple[CLIPVisionModelWithProjection, int, str]:
    """The image tower of the identity stream.

    Returns:
        The model, float32, whose `last_hidden_state` of pictures float (B, 3, 64, 64),
        normalised by `CLIP_MEAN` and `CLIP_STD`, is (B, 65, 192); its picture size in pixels,
        64; its revision.
    """
    if not is_trained():
        return _seeded(lambda: vision_tower(build_clip())).eval(), IMAGE_SIZE, revision()
    check_files("clip/")
    with _no_bars():
        model = CLIPVisionModelWithProjection.from_pretrained(
            POCKET_DIR / "clip", dtype=torch.float32, local_files_only=True
        )
    return model.eval(), IMAGE_SIZE, revision()


def load_scorer() -> tuple[CLIPModel, CLIPTokenizer, str]:
    """The image-text model that only scores, float32, its tokenizer, its revision.

    Pictures are (B, 3, 64, 64) normalised by `CLIP_MEAN` and `CLIP_STD`; texts are padded to
    the tokenizer's `model_max_length`. It shares no weight, width, seed or person with the
    networks that generate.
    """
    if not is_trained():
        return build_scorer().eval(), load_tokenizer(), revision()
    check_files("scorer/")
    with _no_bars():
        model = CLIPModel.from_pretrained(
            POCKET_DIR / "scorer", dtype=torch.float32, local_files_only=True
        )
    return model.eval(), load_tokenizer(), revision()


def load_tokenizer() -> CLIPTokenizer:
    """The byte-level BPE of the pocket captions; any text encodes, padded or cut to 64 tokens."""
    return CLIPTokenizer.from_pretrained(POCKET_DIR / "tokenizer", local_files_only=True)


def build_unet() -> UNet2DConditionModel:
    """The UNet with random weights from the fixed seed; latents (B, 4, 16, 16)."""
    return _seeded(lambda: UNet2DConditionModel(**UNET))


def build_vae() -> AutoencoderKL:
    """The autoencoder with random weights; pictures (B, 3, 64, 64) in [-1, 1]."""
    return _seeded(lambda: AutoencoderKL(**VAE))


def build_scheduler() -> DDIMScheduler:
    """DDIM, v-prediction, SDXL's noise schedule."""
    return DDIMScheduler(**SCHEDULER)


def build_text_encoder(*, first: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    """One of the two text encoders with random weights, input ids (B, 64)."""
    if first:
        return _seeded(lambda: CLIPTextModel(_text_config(TEXT_1)))
    return _seeded(lambda: CLIPTextModelWithProjection(_text_config(TEXT_2)), offset=1)


def build_clip() -> CLIPModel:
    """The conditioning image-text model; its text tower has the second encoder's shape."""
    return _seeded(lambda: CLIPModel(_clip_config(TEXT_2, VISION, PROJECTION)), offset=2)


def build_scorer() -> CLIPModel:
    """The scoring image-text model: other widths, other seed."""
    config = _clip_config(SCORER_TEXT, SCORER_VISION, SCORER_PROJECTION)
    return _seeded(lambda: CLIPModel(config), offset=3)


def _text_config(shape: dict[str, Any]) -> CLIPTextConfig:
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
    text_config = _text_config(text)
    text_config.projection_dim = projection
    vision_config = CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=8,
        num_hidden_layers=4,
        projection_dim=projection,
        **vision,
    )
    return CLIPConfig(
        text_config=text_config.to_dict(),
        vision_config=vision_config.to_dict(),
        projection_dim=projection,
    )


def vision_tower(clip: CLIPModel) -> CLIPVisionModelWithProjection:
    """The image tower of a CLIP as a model of its own, with a copy of the weights."""
    config: Any = clip.config.vision_config
    tower = CLIPVisionModelWithProjection(config)
    tower.vision_model.load_state_dict(clip.vision_model.state_dict())
    tower.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    return tower


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Loads without progress bars; a caller who shows some keeps them."""
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _seeded(build: Callable[[], Any], offset: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED + offset)
        return build().eval()
