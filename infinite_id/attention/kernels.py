"""Kernels of self-attention: torch's own, or one of an installed package by way of diffusers."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

from infinite_id.config import AttentionKind

__all__ = ["attend"]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    mask: Tensor | None = None,
    kind: AttentionKind = "sdpa",
) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, (B, L, C).

    Args:
        query: (B, L, C).
        key, value: (B, M, C).
        heads: that C is divided into.
        mask: bool, broadcast to (B, heads, L, M), False where nothing is seen; None for "flash" and
            "sage", which know none.
        kind: of the kernel.
    """
    split = [part.unflatten(-1, (heads, -1)) for part in (query, key, value)]
    if kind != "sdpa":
        return dispatch_attention_fn(*split, backend=AttentionBackendName(kind)).flatten(2)
    q, k, v = (part.transpose(1, 2) for part in split)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)
