"""How the identity stream takes keys and values from the text stream (docs/method.md).

Symbols: x = K or V of the identity stream, y = of the text stream, mu and sigma their mean and
deviation over tokens, per channel.

    AdaIN-mean:  x - mu(x) + mu(y)
    AdaIN:       (x - mu(x)) / sigma(x) * sigma(y) + mu(y)
    mixed:       K = [norm(K_id, K_t); K_t],  V = [norm(V_id, V_t); V_t]   along tokens
    mutual:      K = K_t,  V = V_t
    none:        K = K_id, V = V_id

All functions are pure; tensors are (..., L, C) with tokens in the second-to-last place, so they
work before and after the split into heads.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from infinite_id.config import FusionKind, NormKind, check_choice

__all__ = ["KeyValue", "adain", "adain_mean", "fuse", "normalise"]

_EPSILON = 1e-5


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each (B, L, C) or (B, heads, L, d)."""

    key: Tensor
    value: Tensor


def adain_mean(x: Tensor, y: Tensor) -> Tensor:
    """`x` (..., L, C) with the token mean of `y` (..., M, C)."""
    return x + (y.mean(dim=-2, keepdim=True) - x.mean(dim=-2, keepdim=True))


def adain(x: Tensor, y: Tensor) -> Tensor:
    """`x` (..., L, C) with the token mean and deviation (population) of `y` (..., M, C)."""
    variance, mean = torch.var_mean(x, dim=-2, correction=0, keepdim=True)
    wanted, centre = torch.var_mean(y, dim=-2, correction=0, keepdim=True)
    scale = torch.sqrt(wanted + _EPSILON) * torch.rsqrt(variance + _EPSILON)
    return (x - mean) * scale + centre


_NORMS = {"adain_mean": adain_mean, "adain": adain, "none": lambda x, y: x}


def normalise(identity: KeyValue, text: KeyValue, norm: NormKind) -> KeyValue:
    """The identity's keys and values normalised towards the text's.

    Raises:
        ValueError: unknown `norm`.
    """
    check_choice("norm", norm, NormKind)
    function = _NORMS[norm]
    return KeyValue(function(identity.key, text.key), function(identity.value, text.value))


def fuse(text: KeyValue, identity: KeyValue, fusion: FusionKind, norm: NormKind) -> KeyValue:
    """Keys and values that the identity stream attends to in self-attention.

    Args:
        text: K_t, V_t of the rows' text streams, (B, M, C).
        identity: K_id, V_id, (B, L, C).
        fusion: "mixed" gives (B, L + M, C), "mutual" (B, M, C), "none" (B, L, C).
        norm: applied to the identity's in "mixed"; the others leave nothing of it to normalise
            ("mutual") or nothing to normalise towards ("none").

    Raises:
        ValueError: unknown `fusion` or `norm`.
    """
    if fusion not in get_args(FusionKind):
        check_choice("fusion", fusion, FusionKind)
    if fusion == "none":
        return identity
    if fusion == "mutual":
        return text
    normed = normalise(identity, text, norm)
    return KeyValue(
        torch.cat([normed.key, text.key], dim=-2), torch.cat([normed.value, text.value], dim=-2)
    )
