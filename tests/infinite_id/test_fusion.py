"""Fusion against a reference written from the paper's equations in loops of Python floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infinite_id.attention.fusion import KeyValue, adain, adain_mean, fuse

SHAPES = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4)
)
DTYPES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.15}


def slow_norm(x: np.ndarray, y: np.ndarray, norm: str) -> np.ndarray:
    """(L, C), (M, C) -> (L, C), channel by channel."""
    out = np.array(x, dtype=np.float64)
    for channel in range(x.shape[1]):
        own = [float(value) for value in x[:, channel]]
        other = [float(value) for value in y[:, channel]]
        mu_x, mu_y = sum(own) / len(own), sum(other) / len(other)
        sigma_x = math.sqrt(sum((v - mu_x) ** 2 for v in own) / len(own) + 1e-5)
        sigma_y = math.sqrt(sum((v - mu_y) ** 2 for v in other) / len(other) + 1e-5)
        for row, value in enumerate(own):
            if norm == "adain_mean":
                out[row, channel] = value - mu_x + mu_y
            elif norm == "adain":
                out[row, channel] = (value - mu_x) / sigma_x * sigma_y + mu_y
    return out


def slow_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(L, d), (M, d), (M, d) -> (L, d)."""
    out = np.zeros((len(query), value.shape[1]))
    for row, q in enumerate(query):
        scores = [sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q)) for k in key]
        weights = [math.exp(score - max(scores)) for score in scores]
        for weight, v in zip(weights, value, strict=True):
            out[row] += weight / sum(weights) * v
    return out


@settings(max_examples=40, deadline=None)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(list(DTYPES)),
    fusion=st.sampled_from(["mixed", "mutual", "none"]),
    norm=st.sampled_from(["adain_mean", "adain", "none"]),
    seed=st.integers(0, 1000),
)
def test_fused_attention_equals_the_equations(
    shape: tuple[int, ...], dtype: torch.dtype, fusion: Any, norm: Any, seed: int
) -> None:
    # A deviation near zero turns the rounding of half precision into anything.
    assume(not (norm == "adain" and dtype == torch.bfloat16))
    batch, heads, own, other, width = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> torch.Tensor:
        wide = torch.randn((batch, heads, length, width), generator=generator, dtype=torch.float64)
        return wide.to(dtype)

    query, identity, text = (
        draw(own),
        KeyValue(draw(own), draw(own)),
        KeyValue(*map(draw, [other] * 2)),
    )
    fused = fuse(text, identity, fusion, norm)
    found = F.scaled_dot_product_attention(query, fused.key, fused.value)
    for b in range(batch):
        for h in range(heads):
            q, k, v, k_t, v_t = (x[b, h].double().numpy() for x in (query, *identity, *text))
            if fusion == "mixed":
                k = np.concatenate([slow_norm(k, k_t, norm), k_t])
                v = np.concatenate([slow_norm(v, v_t, norm), v_t])
            elif fusion == "mutual":
                k, v = k_t, v_t
            expected = slow_attention(q, k, v)
            np.testing.assert_allclose(
                found[b, h].double().numpy(), expected, atol=DTYPES[dtype], rtol=DTYPES[dtype]
            )


@pytest.mark.parametrize("function", [adain_mean, adain])
def test_result_has_the_other_sides_mean(function: Any) -> None:
    x, y = torch.randn(2, 7, 5) * 3 + 1, torch.randn(2, 9, 5) - 4
    torch.testing.assert_close(function(x, y).mean(1), y.mean(1))


def test_adain_mean_keeps_the_deviation_and_adain_takes_the_other_one() -> None:
    x, y = torch.randn(2, 70, 5) * 3, torch.randn(2, 90, 5) * 0.5
    torch.testing.assert_close(adain_mean(x, y).std(1), x.std(1))
    torch.testing.assert_close(
        adain(x, y).std(1, correction=0), y.std(1, correction=0), atol=1e-4, rtol=1e-4
    )


def test_normalising_per_head_equals_normalising_the_whole_width() -> None:
    x, y = torch.randn(2, 7, 12), torch.randn(2, 5, 12)
    whole = adain(x, y).unflatten(-1, (3, 4)).transpose(1, 2)
    heads = adain(*(part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (x, y)))
    torch.testing.assert_close(whole, heads)


@pytest.mark.parametrize(
    ("fusion", "norm", "message"),
    [
        ("blend", "none", "fusion is 'blend', allowed: mixed, mutual, none"),
        ("mixed", "mean", "norm is 'mean', allowed: adain_mean, adain, none"),
    ],
)
def test_unknown_names(fusion: Any, norm: Any, message: str) -> None:
    pair = KeyValue(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=message):
        fuse(pair, pair, fusion, norm)
