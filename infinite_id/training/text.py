"""Texts of the pocket world as token ids and as the two encoders' embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from infinite_id.pocket import model as pocket

__all__ = ["encode_texts", "tokenize"]

_TEXTS_AT_ONCE = 256


def tokenize(texts: Iterable[str]) -> Tensor:
    """int64 (B, 64): padded or cut to the tokenizer's length."""
    tokenizer = pocket.load_tokenizer()
    encoded = tokenizer(
        [str(text) for text in texts],
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
    )
    return torch.tensor(encoded.input_ids)


@torch.no_grad()
def encode_texts(
    first: Any, second: Any, ids: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What SDXL's pipeline makes of texts, half precision, on `device`.

    Args:
        first: CLIPTextModel.
        second: CLIPModel whose text tower and projection are the second encoder's.
        ids: (B, L).
        device: of the encoders.

    Returns:
        Penultimate hidden states of both, joined, (B, L, D); pooled projection (B, P).
    """
    hidden, pooled = [], []
    for part in ids.split(_TEXTS_AT_ONCE):
        own = part.to(device)
        one = first(own, output_hidden_states=True)
        two = second.text_model(own, output_hidden_states=True)
        hidden.append(torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1).half())
        pooled.append(second.text_projection(two.pooler_output).half())
    return torch.cat(hidden), torch.cat(pooled)
