"""What the pocket model is made of and which weights of it are shipped. Light: no torch.

Weights lie in `assets/pocket` as half precision safetensors, listed with their SHA-256 in
`manifest.json`. Without that file the networks are built with random weights from a fixed seed:
`is_trained()` tells which, and `revision()` names it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = [
    "ADAPTERS",
    "CLIP_SIZE",
    "EDITIONS",
    "POCKET_DIR",
    "Edition",
    "PocketWeightsError",
    "adapter_path",
    "check_files",
    "is_trained",
    "manifest",
    "revision",
    "shipped_size",
]

POCKET_DIR = Path(__file__).parents[1] / "assets" / "pocket"
CLIP_SIZE = 64
"""Width and height of pictures, in pixels, as both image-text models read them."""
TEXT_TOKENS = 64
SEED = 20240318
ADAPTERS = ("infinite_id", "infinite_id_text_trained", "ip_adapter", "photomaker")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""RGB mean that both pocket CLIP models subtract from pictures in [0, 1]: OpenAI CLIP's."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""RGB deviation that both divide by."""

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (64, 128, 192),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4, 6),
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 256,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 160 + 6 * 32,
}
VAE: dict[str, Any] = {
    "sample_size": 64,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (24, 48, 96),
    "norm_num_groups": 12,
    "layers_per_block": 1,
    "latent_channels": 4,
    "force_upcast": False,
    "scaling_factor": 1.0,
}
UNET_96: dict[str, Any] = {
    **UNET,
    "sample_size": 12,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (64, 160, 256),
    "attention_head_dim": (2, 5, 8),
    # On a CPU the backward pass of groups of fewer than 16 channels takes up to thirty times as
    # long.
    "norm_num_groups": 4,
}
VAE_96: dict[str, Any] = {
    **VAE,
    "sample_size": 96,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 64, 128),
    "norm_num_groups": 1,
    "latent_channels": 8,
}


@dataclass(frozen=True, slots=True)
class Edition:
    """A size of the pocket world with the networks of that size.

    Attributes:
        unet, vae: configurations of UNet2DConditionModel and AutoencoderKL.
        window: (top, bottom), (left, right): rows and columns of a picture that hold every face,
            in pixels, multiples of the autoencoder's factor; not those of two people.
        level_heads: eyes are level and in one place, faces look at the camera.
        photo_share: of the pictures trained on, raw photos; the rest is spread over the styles.
        pair_share: of the pictures trained on, those of two people side by side.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    window: tuple[tuple[int, int], tuple[int, int]]
    level_heads: bool
    photo_share: float
    pair_share: float

    @property
    def size(self) -> int:
        """Width and height of a picture in pixels."""
        return int(self.vae["sample_size"])

    @property
    def factor(self) -> int:
        """Pixels a latent, in each direction."""
        return self.size // int(self.unet["sample_size"])

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.vae["latent_channels"])

    @property
    def latent_window(self) -> tuple[slice, slice]:
        """Rows and columns of the latents that show `window`."""
        rows, columns = (slice(a // self.factor, b // self.factor) for a, b in self.window)
        return rows, columns


EDITIONS: dict[int, Edition] = {
    64: Edition(UNET, VAE, ((8, 48), (12, 52)), level_heads=False, photo_share=0.4, pair_share=0.0),
    96: Edition(
        UNET_96, VAE_96, ((8, 72), (16, 80)), level_heads=True, photo_share=0.6, pair_share=0.1
    ),
}
"""Picture size -> edition."""

SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
}
TEXT_1: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 3}
TEXT_2: dict[str, Any] = {"hidden_size": 160, "intermediate_size": 320, "num_attention_heads": 5}
SCORER_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
}
VISION: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 6}
SCORER_VISION: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 320,
    "num_attention_heads": 5,
}
PROJECTION = 160
SCORER_PROJECTION = 128


class PocketWeightsError(RuntimeError):
    """A shipped weight file is missing or damaged."""


def adapter_path(name: str) -> Path | None:
    """File of a shipped adapter, one of `ADAPTERS`; None where none was trained.

    Raises:
        ValueError: unknown name.
        PocketWeightsError: the file's SHA-256 differs from the manifest.
    """
    if name not in ADAPTERS:
        raise ValueError(f"adapter is {name!r}, allowed: {', '.join(ADAPTERS)}")
    file = f"adapters/{name}.safetensors"
    if file not in manifest().get("files", {}):
        return None
    check_files(file)
    return POCKET_DIR / file


def shipped_size() -> int:
    """Picture size of the shipped weights, of `EDITIONS`; 64 where none are shipped."""
    return int(manifest().get("size", 64))


def is_trained() -> bool:
    """True where trained weights are shipped; False: pictures are noise."""
    return bool(manifest())


def revision() -> str:
    """Names the weights: "pocket-<digest>", or "untrained-<digest of the architecture>"."""
    if is_trained():
        return f"pocket-{_digest(manifest()['files'])}"
    own = EDITIONS[shipped_size()]
    architecture = [
        own.unet,
        own.vae,
        SCHEDULER,
        TEXT_1,
        TEXT_2,
        SCORER_TEXT,
        VISION,
        SCORER_VISION,
        SEED,
    ]
    return f"untrained-{_digest(architecture)}"


@lru_cache(maxsize=1)
def manifest() -> dict[str, Any]:
    """The shipped `manifest.json`, empty where nothing trained is shipped."""
    path = POCKET_DIR / "manifest.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def check_files(prefix: str) -> None:
    """Raises PocketWeightsError unless the shipped files under `prefix` are whole."""
    for name, expected in manifest()["files"].items():
        if not name.startswith(prefix):
            continue
        path = POCKET_DIR / name
        if not path.is_file():
            raise PocketWeightsError(f"pocket weights lack {name}; check out the repository again")
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            raise PocketWeightsError(f"{name} has SHA-256 {found}, the manifest says {expected}")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
