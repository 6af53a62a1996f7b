"""Identity tokens: `c_id = Concat(M_clip(clip), M_face(face))` (docs/method.md), and mixing.

Symbols: B people, T image tokens, F face tokens, D the UNet's cross-attention width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infinite_id.config import AdapterConfig

__all__ = ["ClipMapper", "FaceMapper", "IdentityProjector", "interpolate", "stack"]


class FaceMapper(nn.Module):
    """`M_face`: a face embedding of unit norm becomes a few tokens: MLP, then LayerNorm."""

    def __init__(self, face_width: int, tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.tokens = tokens
        first = nn.Linear(face_width, hidden)
        # torch's own range supposes elements of variance 1: those of a unit vector are so small
        # that the bias would drown the person.
        nn.init.uniform_(first.weight, -1, 1)
        self.mlp = nn.Sequential(first, nn.GELU(), nn.Linear(hidden, tokens * width))
        self.norm = nn.LayerNorm(width)

    def forward(self, face: Tensor) -> Tensor:
        """(B, face_width) -> (B, F, D)."""
        return self.norm(self.mlp(face).unflatten(-1, (self.tokens, -1)))


class ClipMapper(nn.Module):
    """`M_clip`: each image token becomes one token: LayerNorm, MLP, LayerNorm."""

    def __init__(self, clip_width: int, width: int, hidden: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(clip_width)
        self.mlp = nn.Sequential(nn.Linear(clip_width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, clip_width) -> (B, T, D)."""
        return self.norm(self.mlp(self.norm_in(clip)))


class IdentityProjector(nn.Module):
    """Both mappers. The null identity is what they make of zero embeddings."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.cross_attention_dim, config.hidden_width
        self.face = FaceMapper(config.face_width, config.face_tokens, width, hidden)
        self.clip = ClipMapper(config.clip_width, width, hidden)

    def forward(self, face: Tensor, clip: Tensor) -> Tensor:
        """Identity tokens of B people.

        Args:
            face: (B, face_width).
            clip: (B, T, clip_width); T grows with the number of photos.

        Returns:
            (B, T + F, D), image tokens first.

        Raises:
            ValueError: a width differs from the configuration's.
        """
        if face.shape[-1] != self.config.face_width:
            raise ValueError(
                f"face embedding is {face.shape[-1]} wide, allowed: {self.config.face_width}"
            )
        if clip.shape[-1] != self.config.clip_width:
            raise ValueError(
                f"image tokens are {clip.shape[-1]} wide, allowed: {self.config.clip_width}"
            )
        return torch.cat([self.clip(clip), self.face(face)], dim=1)


def interpolate(tokens: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum of identity tokens (docs/method.md); any finite weights.

    Args:
        tokens: of each person, (T, D), equal shapes.
        weights: one a person.

    Raises:
        ValueError: different numbers of people and weights, or of tokens.
    """
    if len(tokens) != len(weights) or not tokens:
        raise ValueError(f"{len(tokens)} people have {len(weights)} weights, allowed: one each")
    shapes = {tuple(one.shape) for one in tokens}
    if len(shapes) > 1:
        raise ValueError(
            f"people have identity tokens of the shapes {sorted(shapes)}, allowed: one shape "
            "(the same number of photos each)"
        )
    total = tokens[0] * weights[0]
    for one, weight in zip(tokens[1:], weights[1:], strict=True):
        total = total + one * weight
    return total


def stack(tokens: Sequence[Tensor]) -> Tensor:
    """Identity tokens of several people along the token axis (docs/method.md)."""
    return torch.cat(list(tokens), dim=0)
