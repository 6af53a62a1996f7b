"""Public IP-Adapter face weights for SDXL as the identity stream's adapter.

They have what Infinite-ID's identity stream needs, a projector to identity tokens and W'_k, W'_v
of every cross-attention layer, though trained with text (docs/method.md). Formats of
h94/IP-Adapter and h94/IP-Adapter-FaceID, as .bin or .safetensors:

    plus_face      ip-adapter-plus-face_sdxl_vit-h: resampler over CLIP tokens, 16 tokens a photo
    faceid         ip-adapter-faceid_sdxl: MLP of the face embedding, 4 tokens, LoRA
    faceid_plusv2  ip-adapter-faceid-plusv2_sdxl: MLP and resampler, 4 tokens a photo, LoRA

The CLIP tokens that they were trained on are PENULTIMATE hidden states
(`EncoderConfig.clip_layer` = -2), the face embedding is that of insightface's buffalo_l. The LoRA
acts on the identity stream's rows alone: the text stream stays the base model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
    IPAdapterPlusImageProjection,
)
from safetensors import safe_open
from torch import Tensor, nn

from infinite_id.attention.lora import PROJECTIONS, AttentionLora
from infinite_id.attention.processors import attention_layers, cross_attention_layers
from infinite_id.identity.adapter import ImageKeyValues, check_embedding
from infinite_id.model_files.headers import read_header, shapes_of
from infinite_id.types import IdentityEmbedding
from infinite_id.weights.pickled import load_pickled
from infinite_id.weights.places import weights_header

__all__ = ["PublicAdapter", "load_public_adapter"]

_HEAD_WIDTH = 64
# diffusers' module names -> the files'; the first match of a name counts.
_BLOCK = r"(layers\.\d+)\."
_RESAMPLER_NAMES = (
    (_BLOCK + r"ln0\.", r"\1.0.norm1."),
    (_BLOCK + r"ln1\.", r"\1.0.norm2."),
    (_BLOCK + r"attn\.to_q\.", r"\1.0.to_q."),
    (_BLOCK + r"attn\.to_[kv]\.", r"\1.0.to_kv."),
    (_BLOCK + r"attn\.to_out\.0\.", r"\1.0.to_out."),
    (_BLOCK + r"ff\.0\.", r"\1.1.0."),
    (_BLOCK + r"ff\.1\.net\.0\.proj\.", r"\1.1.1."),
    (_BLOCK + r"ff\.1\.net\.2\.", r"\1.1.3."),
)
_MLP_NAMES = ((r"^(?:ff|proj)\.net\.0\.proj\.", "proj.0."), (r"^(?:ff|proj)\.net\.2\.", "proj.2."))
_INSIDE_RESAMPLER = ("layers.", "proj_in.", "proj_out.", "norm_out.")


class _FaceIdPlusV2(IPAdapterFaceIDPlusImageProjection):
    """diffusers' module with both inputs as arguments, not one of them left on the module."""

    def forward(self, face: Tensor, clip: Tensor) -> Tensor:  # type: ignore[override]
        """(P, face_width), (P, T, clip_width) -> (P, tokens, D)."""
        own = self.norm(self.proj(face).reshape(-1, self.num_tokens, self.embed_dim))
        states, latents = self.proj_in(clip), own
        for block in self.layers:
            latents = block(states, latents, latents)
        return own + self.norm_out(self.proj_out(latents))


class PublicAdapter(nn.Module):
    """A public file as `infinite_id.identity.adapter.StreamAdapter`.

    Args:
        kind: "plus_face", "faceid" or "faceid_plusv2".
        projector: of that kind.
        image: W'_k and W'_v.
        lora: of the identity rows, None for none.
        face_width, clip_width: of the encoders' outputs.
        clip_tokens: image tokens of one photo.
    """

    def __init__(
        self,
        kind: str,
        projector: nn.Module,
        image: ImageKeyValues,
        lora: AttentionLora | None,
        *,
        face_width: int,
        clip_width: int,
        clip_tokens: int,
    ) -> None:
        super().__init__()
        self.kind, self.projector, self.image, self.lora = kind, projector, image, lora
        self.face_width, self.clip_width = face_width, clip_width
        self.clip_tokens = clip_tokens
        self.null_clip: Tensor | None = None
        """CLIP tokens (T, clip_width) of a black picture, which stood for nobody in training;
        zeros where None."""

    def tokens(self, embedding: IdentityEmbedding) -> Tensor:
        """Identity tokens of one person, (T, D), those of P photos one after another.

        Raises:
            ValueError: widths that do not fit, or numbers that are not finite.
        """
        check_embedding(embedding, self.face_width, self.clip_width)
        photos = max(len(embedding.clip) // self.clip_tokens, 1)
        clip = torch.tensor(embedding.clip).unflatten(0, (photos, -1))
        return self._project(torch.tensor(embedding.face)[None], clip)

    def null_tokens(self, clip_tokens: int) -> Tensor:
        """Identity tokens of nobody, (T, D)."""
        clip = torch.zeros(clip_tokens, self.clip_width)
        return self._project(
            torch.zeros(1, self.face_width),
            (clip if self.null_clip is None else self.null_clip)[None],
        )

    def _project(self, face: Tensor, clip: Tensor) -> Tensor:
        like = next(self.projector.parameters())
        face, clip = face.to(like), clip.to(like)
        if self.kind == "faceid":
            return self.projector(face).flatten(0, 1)
        if self.kind == "plus_face":
            return self.projector(clip).flatten(0, 1)
        return self.projector(face.expand(len(clip), -1), clip).flatten(0, 1)


def load_public_adapter(
    path: str | Path,
    unet: UNet2DConditionModel,
    *,
    face_width: int,
    clip_width: int,
    clip_tokens: int,
    shapes_only: bool = False,
) -> PublicAdapter:
    """Reads a public file into an adapter for `unet`, float32, on the CPU.

    Args:
        path: .bin (read without unpickling code) or .safetensors. With `shapes_only` also
            hub://OWNER/NAME@REVISION/FILE of a .safetensors.
        unet: the base model's.
        face_width, clip_width, clip_tokens: of the preset's encoders.
        shapes_only: reads keys and shapes and no weights, to check them; within
            `torch.device("meta")` and with a UNet there.

    Raises:
        ValueError: no such format, a missing or surplus key, a wrong shape; names the key.
    """
    image_proj, ip_adapter = _read(path, shapes_only)
    kind = _kind(path, image_proj)
    width = int(unet.config.cross_attention_dim)
    projector = _projector(path, kind, image_proj, face_width, clip_width, width)
    image = ImageKeyValues(unet, width, copy_text=False)
    expected: dict[str, tuple[int, ...]] = {}
    numbers = {name: number for number, name in enumerate(attention_layers(unet))}
    targets: dict[str, Tensor] = {}
    for layer in cross_attention_layers(unet):
        for part, modules in (("k", image.to_k), ("v", image.to_v)):
            key = f"{numbers[layer]}.to_{part}_ip.weight"
            targets[key] = modules[layer.replace(".", "/")].get_parameter("weight")
            expected[key] = tuple(targets[key].shape)
    has_lora = any("_lora." in key for key in ip_adapter)
    if has_lora:
        expected |= _lora_shapes(path, unet, ip_adapter)
    _check(path, "ip_adapter", ip_adapter, expected)
    with torch.no_grad():
        for key, target in targets.items():
            target.copy_(ip_adapter[key])
    return PublicAdapter(
        kind,
        projector,
        image,
        _lora(unet, ip_adapter) if has_lora else None,
        face_width=face_width,
        clip_width=clip_width,
        clip_tokens=clip_tokens,
    ).eval()


def _read(path: str | Path, shapes_only: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    header: Mapping[str, Any] = {}
    if Path(path).suffix == ".safetensors":
        header = (weights_header(path) or {}) if shapes_only else read_header(path)
    try:
        if shapes_only and header:
            for key, shape in shapes_of(header).items():
                part, _, rest = key.partition(".")
                parts.setdefault(part, {})[rest] = torch.empty(shape, device="meta")
        elif header:
            with safe_open(str(path), framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 -- the file object is no mapping
                    part, _, rest = key.partition(".")
                    parts.setdefault(part, {})[rest] = file.get_tensor(key)
        else:
            place = "meta" if shapes_only else "cpu"
            loaded = load_pickled(path, place)
            parts |= loaded if isinstance(loaded, dict) else {"?": {}}
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"adapter {path} cannot be read: {reason}") from error
    surplus = sorted(set(parts) - {"image_proj", "ip_adapter"})
    if surplus:
        raise ValueError(f"adapter {path} has {surplus[0]!r}, allowed: image_proj and ip_adapter")
    return parts["image_proj"], parts["ip_adapter"]


def _kind(path: str | Path, state: Mapping[str, Tensor]) -> str:
    if "latents" in state:
        return "plus_face"
    if any(key.startswith("perceiver_resampler.") for key in state):
        return "faceid_plusv2"
    if "proj.0.weight" in state and "norm.weight" in state:
        return "faceid"
    shown = ", ".join(sorted(state)[:3]) or "nothing"
    raise ValueError(
        f"adapter {path} has image_proj keys {shown} ..., "
        "allowed: those of plus-face, faceid or faceid-plusv2"
    )


def _projector(
    path: str | Path,
    kind: str,
    state: Mapping[str, Tensor],
    face_width: int,
    clip_width: int,
    width: int,
) -> nn.Module:
    prefix = "perceiver_resampler." if kind == "faceid_plusv2" else ""

    def size(key: str, axis: int) -> int:
        if key not in state or state[key].ndim <= axis:
            raise ValueError(f"adapter {path} lacks key {f'image_proj.{key}'!r} (1 such key)")
        return int(state[key].shape[axis])

    def depth() -> int:
        found = [re.match(re.escape(prefix) + r"layers\.(\d+)\.", key) for key in state]
        return max((int(match[1]) + 1 for match in found if match), default=0)

    module: nn.Module
    if kind == "faceid":
        module = IPAdapterFaceIDImageProjection(
            face_width,
            width,
            mult=max(size("proj.0.weight", 0) // face_width, 1),
            num_tokens=max(size("proj.2.weight", 0) // width, 1),
        )
    else:
        heads = max(size(f"{prefix}layers.0.0.to_q.weight", 0) // _HEAD_WIDTH, 1)
        hidden = size(f"{prefix}proj_in.weight", 0)
        ratio = size(f"{prefix}layers.0.1.1.weight", 0) / hidden
        shape: dict[str, Any] = {
            "output_dims": width,
            "depth": depth(),
            "heads": heads,
            "ffn_ratio": ratio,
        }
        if kind == "plus_face":
            module = IPAdapterPlusImageProjection(
                clip_width, hidden_dims=hidden, num_queries=size("latents", 1), **shape
            )
        else:
            module = _FaceIdPlusV2(
                width,
                hidden_dims=clip_width,
                id_embeddings_dim=face_width,
                num_tokens=max(size("proj.2.weight", 0) // width, 1),
                ffproj_ratio=max(size("proj.0.weight", 0) // face_width, 1),
                **shape,
            )
    own = module.state_dict()
    names = {name: _public_name(kind, name) for name in own}
    expected = {}
    for name, key in names.items():
        shape_of = tuple(own[name].shape)
        expected[key] = (2 * shape_of[0], *shape_of[1:]) if ".to_kv." in key else shape_of
    _check(path, "image_proj", state, expected)
    converted = {}
    for name, key in names.items():
        tensor = state[key].float()
        if ".to_kv." in key:
            tensor = tensor.chunk(2)[0 if ".to_k." in name else 1]
        converted[name] = tensor
    module.load_state_dict(converted)
    return module


def _public_name(kind: str, name: str) -> str:
    if kind != "plus_face":
        for pattern, public in _MLP_NAMES:
            name, count = re.subn(pattern, public, name)
            if count:
                return name
    inside = name.startswith(_INSIDE_RESAMPLER)
    for pattern, public in _RESAMPLER_NAMES:
        name, count = re.subn(pattern, public, name)
        if count:
            break
    return f"perceiver_resampler.{name}" if inside and kind == "faceid_plusv2" else name


def _lora_keys(number: int, projection: str) -> tuple[str, str]:
    return tuple(f"{number}.{projection}_lora.{side}.weight" for side in ("down", "up"))  # type: ignore[return-value]


def _linear(unet: UNet2DConditionModel, layer: str, projection: str) -> nn.Linear:
    attn = unet.get_submodule(layer)
    return attn.to_out[0] if projection == "to_out" else getattr(attn, projection)


def _lora_shapes(
    path: str | Path, unet: UNet2DConditionModel, state: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number, layer in enumerate(attention_layers(unet)):
        for projection in PROJECTIONS:
            down, up = _lora_keys(number, projection)
            if down not in state:
                raise ValueError(f"adapter {path} lacks key {f'ip_adapter.{down}'!r}")
            rank, linear = int(state[down].shape[0]), _linear(unet, layer, projection)
            shapes[down] = (rank, linear.in_features)
            shapes[up] = (linear.out_features, rank)
    return shapes


def _lora(unet: UNet2DConditionModel, state: Mapping[str, Tensor]) -> AttentionLora:
    weights = {}
    for number, layer in enumerate(attention_layers(unet)):
        for projection in PROJECTIONS:
            down, up = _lora_keys(number, projection)
            weights[layer, projection] = (state[down].float(), state[up].float())
    return AttentionLora(weights)


def _check(
    path: str | Path,
    part: str,
    found: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    for word, keys in (
        ("lacks", expected.keys() - found.keys()),
        ("has the surplus", found.keys() - expected.keys()),
    ):
        if keys:
            name = f"{part}.{min(keys)}"
            raise ValueError(f"adapter {path} {word} key {name!r} ({len(keys)} such keys)")
    for key, shape in expected.items():
        if tuple(found[key].shape) != shape:
            raise ValueError(
                f"adapter {path}, key {f'{part}.{key}'!r} has the shape "
                f"{tuple(found[key].shape)}, the base model and encoders need {shape}"
            )
