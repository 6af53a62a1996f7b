"""The identity adapter: mappers and image key/value projections (docs/method.md).

It is all that Infinite-ID trains. Its modules are keyed by the UNet's own layer names, so weights
never depend on the order of a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from infinite_id.attention.fusion import KeyValue
from infinite_id.attention.lora import AttentionLora
from infinite_id.attention.processors import cross_attention_layers
from infinite_id.attention.regions import GroupTokens
from infinite_id.config import AdapterConfig
from infinite_id.identity.mappers import IdentityProjector, interpolate, stack
from infinite_id.types import GenerationRequest, Identity, IdentityEmbedding

__all__ = [
    "IdentityAdapter",
    "ImageKeyValues",
    "StreamAdapter",
    "check_embedding",
    "request_tokens",
]


class StreamAdapter(Protocol):
    """What the sampler needs of identity weights, ours or public ones."""

    image: ImageKeyValues
    lora: AttentionLora | None

    def tokens(self, embedding: IdentityEmbedding) -> Tensor:
        """Identity tokens of one person, (T, D)."""
        ...

    def null_tokens(self, clip_tokens: int) -> Tensor:
        """Identity tokens of nobody, (T, D)."""
        ...


def check_embedding(embedding: IdentityEmbedding, face_width: int, clip_width: int) -> None:
    """Raises a ValueError that names both sides unless widths fit and all numbers are finite."""
    for name, values, wanted in (
        ("face embedding", embedding.face, face_width),
        ("image tokens", embedding.clip, clip_width),
    ):
        if values.shape[-1] != wanted:
            raise ValueError(
                f"{name} of encoder {embedding.revision} is {values.shape[-1]} wide, "
                f"allowed: {wanted}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinity, allowed: finite numbers")


def _key(layer: str) -> str:
    # nn.ModuleDict refuses dots.
    return layer.replace(".", "/")


class ImageKeyValues(nn.Module):
    """`W'_k` and `W'_v` of every cross-attention layer.

    Args:
        unet: whose layers they belong to; only names and shapes are read.
        width: of the identity tokens.
        copy_text: begin with the layers' own text projections, else with random weights.
    """

    def __init__(self, unet: UNet2DConditionModel, width: int, *, copy_text: bool = True) -> None:
        super().__init__()
        self.layers = cross_attention_layers(unet)
        self.to_k, self.to_v = nn.ModuleDict(), nn.ModuleDict()
        for layer in self.layers:
            attn = unet.get_submodule(layer)
            for mine, own in ((self.to_k, attn.to_k), (self.to_v, attn.to_v)):
                linear = nn.Linear(width, own.out_features, bias=False)
                if copy_text and own.in_features == width:
                    with torch.no_grad():
                        linear.weight.copy_(own.weight.float())
                mine[_key(layer)] = linear

    def forward(self, tokens: Tensor) -> list[KeyValue]:
        """(B, T, D) -> K'_id, V'_id of each layer, (B, T, C of the layer)."""
        return [
            KeyValue(self.to_k[_key(layer)](tokens), self.to_v[_key(layer)](tokens))
            for layer in self.layers
        ]


class IdentityAdapter(nn.Module):
    """Mappers and image projections for one UNet."""

    lora: AttentionLora | None = None

    def __init__(self, config: AdapterConfig, unet: UNet2DConditionModel) -> None:
        """Raises ValueError if the identity tokens' width is not the UNet's."""
        super().__init__()
        width = unet.config.cross_attention_dim
        if config.cross_attention_dim != width:
            raise ValueError(
                f"adapter makes identity tokens {config.cross_attention_dim} wide, "
                f"allowed: {width}, the base model's cross-attention width"
            )
        self.config = config
        self.projector = IdentityProjector(config)
        self.image = ImageKeyValues(unet, width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    def tokens(self, embedding: IdentityEmbedding) -> Tensor:
        """Identity tokens of one person, (T + F, D); T grows with the number of photos."""
        check_embedding(embedding, self.config.face_width, self.config.clip_width)
        face = torch.tensor(embedding.face, device=self.device, dtype=self.dtype)
        clip = torch.tensor(embedding.clip, device=self.device, dtype=self.dtype)
        return self.projector(face[None], clip[None])[0]

    def null_tokens(self, clip_tokens: int) -> Tensor:
        """Identity tokens of nobody, (clip_tokens + F, D): of zero embeddings."""
        config = self.config
        face = torch.zeros(1, config.face_width, device=self.device, dtype=self.dtype)
        clip = torch.zeros(1, clip_tokens, config.clip_width, device=self.device, dtype=self.dtype)
        return self.projector(face, clip)[0]


def request_tokens(
    adapter: StreamAdapter,
    requests: Sequence[GenerationRequest],
    identities: Mapping[str, Identity],
) -> list[Tensor | GroupTokens]:
    """Identity tokens of each request, (T, D), mixes made, or of its group; each person is
    projected once. Between people of fewer and of more photos those of the former are repeated.

    Raises:
        ValueError: a person is missing or has a bad embedding, a mix does not fit, or a group has
            no regions yet.
    """
    known: dict[str, Tensor] = {}

    def person(key: str) -> Tensor:
        if key not in known:
            if key not in identities:
                raise ValueError(
                    f"identity is {key!r}, allowed: {', '.join(sorted(identities)) or 'none given'}"
                )
            known[key] = adapter.tokens(identities[key].embedding)
        return known[key]

    tokens: list[Tensor | GroupTokens] = []
    for request in requests:
        if request.group is not None:
            people, regions = request.group.people, request.group.regions
            if regions is None or not people:
                raise ValueError(
                    f"group {request.identity_id!r} has {len(people)} people and the regions "
                    f"{regions}, allowed here: a region for each of one person or more"
                )
            tokens.append(GroupTokens(tuple(person(key) for key in people), regions))
            continue
        if request.mix is None:
            tokens.append(person(request.identity_id))
            continue
        parts = [person(key) for key, _ in request.mix.parts]
        weights = [weight for _, weight in request.mix.parts]
        if not np.isfinite(weights).all():
            raise ValueError(f"mix weights are {weights}, allowed: finite numbers")
        if request.mix.mode == "stack":
            tokens.append(stack(parts))
            continue
        parents = [identities[key] for key, _ in request.mix.parts]
        if len({part.shape for part in parts}) > 1 and all(one.images for one in parents):
            most = max(len(one.images) for one in parents)
            parts = [adapter.tokens(_repeated(one, most)) for one in parents]
        tokens.append(interpolate(parts, weights))
    return tokens


def _repeated(person: Identity, photos: int) -> IdentityEmbedding:
    """The embedding as if of so many photos: the person's own, from the first again."""
    clip = person.embedding.clip
    rows = len(clip) // len(person.images) * photos
    return replace(person.embedding, clip=np.resize(clip, (rows, clip.shape[1])))
