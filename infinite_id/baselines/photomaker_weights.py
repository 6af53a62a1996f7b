"""PhotoMaker's identity encoder and the files it comes in.

Three forms share the names of their modules and are told apart by them:

- version 1: `vision_model` (CLIP ViT-L/14), `visual_projection`, `visual_projection_2`,
  `fuse_module`: one token a photo, both projections side by side;
- version 2: `vision_model`, `qformer_perceiver`, `fuse_module`: two tokens a photo, a perceiver
  that starts from the face embedding and reads the last hidden states;
- pocket: as version 1 without `vision_model`; it reads the CLS tokens of the identity embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from infinite_id.base import BaseModel
from infinite_id.identity.encoders import CLIP_MEAN, CLIP_STD
from infinite_id.packages import file_digest
from infinite_id.types import Identity
from infinite_id.weights.pickled import load_pickled

__all__ = ["PhotoMakerEncoder", "load_photomaker", "save_photomaker", "untrained_encoder"]

_HEAD_WIDTH = 64  # of every CLIP image tower
_RESAMPLER_HEAD_WIDTH = 128
_SEED = 20240318


class _Mlp(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(width_in)
        self.fc1, self.fc2 = nn.Linear(width_in, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.layernorm(x))))


class _Fuse(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp1, self.mlp2 = _Mlp(2 * width, width), _Mlp(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        mixed = text + self.mlp1(torch.cat([text, tokens], dim=-1))
        return self.layer_norm(mixed + self.mlp2(mixed))


class _PerceiverAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _RESAMPLER_HEAD_WIDTH)
        inner = self.heads * _RESAMPLER_HEAD_WIDTH
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        image, latents = self.norm1(image), self.norm2(latents)
        key, value = self.to_kv(torch.cat([image, latents], dim=1)).chunk(2, dim=-1)
        split = [
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(latents), key, value)
        ]
        return self.to_out(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


class _Resampler(nn.Module):
    def __init__(self, width: int, image_width: int, depth: int) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(image_width, width), nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _PerceiverAttention(width),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, latents: Tensor, image: Tensor) -> Tensor:
        image = self.proj_in(image)
        block: Any
        for block in self.layers:
            latents = block[0](image, latents) + latents
            latents = block[1](latents) + latents
        return self.norm_out(self.proj_out(latents))


class _Perceiver(nn.Module):
    def __init__(
        self, face_width: int, hidden: int, width: int, tokens: int, image_width: int, depth: int
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.token_proj = nn.Sequential(
            nn.Linear(face_width, hidden), nn.GELU(), nn.Linear(hidden, width * tokens)
        )
        self.token_norm = nn.LayerNorm(width)
        self.perceiver_resampler = _Resampler(width, image_width, depth)

    def forward(self, face: Tensor, image: Tensor) -> Tensor:
        start = self.token_norm(self.token_proj(face).unflatten(-1, (self.tokens, -1)))
        return start + self.perceiver_resampler(start, image)


class PhotoMakerEncoder(nn.Module):
    """Photos -> identity tokens (P * t, D), and their fusion with the class word.

    Args:
        weights: the `id_encoder` of a file; every size is read from it.

    Raises:
        ValueError: keys of none of the three forms, or one missing or surplus.
    """

    visual_projection: nn.Linear
    visual_projection_2: nn.Linear

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Older files hold the constant position numbers too.
        weights = {k: v.float() for k, v in weights.items() if not k.endswith("position_ids")}
        if "fuse_module.layer_norm.weight" not in weights:
            raise ValueError(
                f"PhotoMaker id_encoder has the keys {sorted(weights)[:3]} ..., allowed: those of "
                "version 1, version 2 or pocket, all with fuse_module"
            )
        self.width = len(weights["fuse_module.layer_norm.weight"])
        self.fuse_module = _Fuse(self.width)
        self.vision_model: Any = None
        self.size = 0
        if any(key.startswith("vision_model.") for key in weights):
            config = _vision_config(weights)
            self.size = int(str(config.image_size))
            self.vision_model = CLIPVisionModelWithProjection(config).vision_model
        self.qformer_perceiver = _perceiver(weights, self.width)
        for name in ("visual_projection", "visual_projection_2"):
            # Version 2 files carry version 1's projections along; only version 1 reads them.
            if f"{name}.weight" in weights:
                out, width_in = weights[f"{name}.weight"].shape
                setattr(self, name, nn.Linear(width_in, out, bias=False))
        missing, surplus = self.load_state_dict(weights, strict=False)
        if missing or surplus:
            word, key = ("lacks", missing[0]) if missing else ("has the surplus", surplus[0])
            raise ValueError(f"PhotoMaker id_encoder {word} key {key!r}")

    @property
    def version(self) -> str:
        """ "1", "2" or "pocket"."""
        if self.vision_model is None:
            return "pocket"
        return "1" if self.qformer_perceiver is None else "2"

    def identity_tokens(self, identity: Identity, face_norm: float = 1.0) -> Tensor:
        """(P * t, D): t tokens for each of the P photos.

        Args:
            identity: version 1 and 2 read its aligned faces (and 2 its face embedding, which
                is one for all photos), pocket the CLS tokens of its embedding.
            face_norm: factor of the face embedding (version 2).
        """
        weight = self.fuse_module.layer_norm.weight
        if self.vision_model is None:
            return self.project(self._cls_tokens(identity).to(weight.device, weight.dtype))
        seen = self.vision_model(self._pixels(identity).to(weight.device, weight.dtype))
        if self.qformer_perceiver is None:
            return self.project(seen.pooler_output)
        face = torch.from_numpy(identity.embedding.face).to(weight.device, weight.dtype)
        faces = (face * face_norm).expand(len(identity.images), -1)
        return self.qformer_perceiver(faces, seen.last_hidden_state).flatten(0, 1)

    def project(self, features: Tensor) -> Tensor:
        """(..., C) image features -> (..., D) identity tokens (version 1 and pocket)."""
        return torch.cat(
            [self.visual_projection(features), self.visual_projection_2(features)], dim=-1
        )

    def fuse(self, text: Tensor, tokens: Tensor) -> Tensor:
        """(..., D) class word's embeddings and (..., D) identity tokens -> (..., D)."""
        return self.fuse_module(text, tokens)

    @staticmethod
    def _cls_tokens(identity: Identity) -> Tensor:
        clip = torch.from_numpy(identity.embedding.clip.copy()).float()
        photos = len(identity.images)
        # CLS comes first in each photo's tokens; normalised, as CLIP's own pooling does.
        first = clip.unflatten(0, (photos, -1))[:, 0]
        return F.layer_norm(first, first.shape[-1:])

    def _pixels(self, identity: Identity) -> Tensor:
        faces = torch.stack([torch.from_numpy(image) for image in identity.images])
        pixels = F.interpolate(
            faces.permute(0, 3, 1, 2).float() / 255,
            size=(self.size, self.size),
            mode="bicubic",
            antialias=True,
        ).clamp(0, 1)
        view = (1, 3, 1, 1)
        return (pixels - torch.tensor(CLIP_MEAN).view(view)) / torch.tensor(CLIP_STD).view(view)


def _vision_config(weights: Mapping[str, Tensor]) -> CLIPVisionConfig:
    prefix = "vision_model."
    patches = weights[f"{prefix}embeddings.patch_embedding.weight"]
    positions = weights[f"{prefix}embeddings.position_embedding.weight"]
    layers = {int(m[1]) for k in weights if (m := re.search(r"encoder\.layers\.(\d+)\.", k))}
    hidden, patch = patches.shape[0], patches.shape[-1]
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=weights[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, hidden // _HEAD_WIDTH),
        patch_size=patch,
        image_size=patch * round((positions.shape[0] - 1) ** 0.5),
    )


def _perceiver(weights: Mapping[str, Tensor], width: int) -> _Perceiver | None:
    prefix = "qformer_perceiver."
    if f"{prefix}token_proj.0.weight" not in weights:
        return None
    hidden, face_width = weights[f"{prefix}token_proj.0.weight"].shape
    tokens = weights[f"{prefix}token_proj.2.weight"].shape[0] // width
    image_width = weights[f"{prefix}perceiver_resampler.proj_in.weight"].shape[1]
    layers = {
        int(m[1]) for k in weights if (m := re.search(r"perceiver_resampler\.layers\.(\d+)\.", k))
    }
    return _Perceiver(face_width, hidden, width, tokens, image_width, len(layers))


def untrained_encoder(clip_width: int, base: BaseModel) -> PhotoMakerEncoder:
    """The pocket form with random weights of a fixed seed, in the sizes of a base model."""
    width = int(base.unet.config.cross_attention_dim)
    second = int(base.pipeline.text_encoder_2.config.hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        fuse = {f"fuse_module.{k}": v for k, v in _Fuse(width).state_dict().items()}
        projections = {
            name: nn.Linear(clip_width, out, bias=False).weight.detach()
            for name, out in (
                ("visual_projection.weight", width - second),
                ("visual_projection_2.weight", second),
            )
        }
    return PhotoMakerEncoder({**fuse, **projections})


def save_photomaker(
    path: str | Path, encoder: PhotoMakerEncoder, lora: Mapping[str, Tensor], base: str
) -> None:
    """Writes a safetensors file that `load_photomaker` and diffusers' own form of it read.

    Args:
        path: of the file, ending in .safetensors.
        encoder: written under "id_encoder.".
        lora: written under "lora_weights.", keys beginning with "unet.".
        base: names the base model; in the header.
    """
    tensors = {f"id_encoder.{k}": v for k, v in encoder.state_dict().items()}
    tensors |= {f"lora_weights.{k}": v for k, v in lora.items()}
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(kept, str(path), metadata={"format": "photomaker", "base": base})


def load_photomaker(path: str | Path) -> tuple[PhotoMakerEncoder, dict[str, Tensor], str]:
    """Reads PhotoMaker weights: (encoder, LoRA, revision).

    Args:
        path: the published `photomaker-v1.bin` or `-v2.bin`, a dict with `id_encoder` and
            `lora_weights`, read without executing anything in it; or a safetensors file with
            those two words before its keys.

    Raises:
        ValueError: no such file, or not of that form.
    """
    file = Path(path)
    try:
        if file.suffix == ".safetensors":
            parts: dict[str, dict[str, Tensor]] = {"id_encoder": {}, "lora_weights": {}}
            for key, tensor in load_file(file).items():
                part, _, name = key.partition(".")
                parts.setdefault(part, {})[name] = tensor
        else:
            parts = load_pickled(file)
        digest = file_digest(file)[:12]
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"PhotoMaker weights {path} cannot be read: {reason}") from error
    found = sorted(map(str, parts)) if isinstance(parts, dict) else [type(parts).__name__]
    if found != ["id_encoder", "lora_weights"] or not parts["id_encoder"]:
        raise ValueError(
            f"PhotoMaker weights {path} hold {', '.join(found)}, allowed: id_encoder and "
            "lora_weights"
        )
    encoder = PhotoMakerEncoder(parts["id_encoder"])
    return encoder, parts["lora_weights"], f"photomaker-{encoder.version}-{digest}"
