"""Three ways to compute mixed attention in one layer, in turns: which is quickest, and by how much.

N identity streams of one text attend to the text stream's keys and their own, whose mean is moved
to the text's (`adain_mean`). The sampler (`infinite_id.attention.fusion`) copies both into one
tensor. The rivals avoid that: `buffer` writes both parts into their places of one buffer at once;
`merged` attends to own and to shared keys apart and merges by log-sum-exp, as Hydragen does
(arXiv 2402.05099), with the moved mean folded into the merge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from infinite_id.attention.fusion import KeyValue, fuse
from infinite_id.attention.kernels import attend

__all__ = ["run"]


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Times the ways in turns; each gives what the first gives, to 1e-4.

    Args:
        arguments: layers (each positions, channels, heads, streams), rounds, threads.

    Returns:
        CPU seconds of each way and layer, the least of the rounds; and the ratio to the
        sampler's way, the largest of the layers.

    Raises:
        RuntimeError: a way gives something else.
    """
    torch.set_num_threads(arguments["threads"])
    figures: dict[str, float] = {}
    for layer in arguments["layers"]:
        positions, channels, heads, streams = layer
        torch.manual_seed(0)
        query, key, value = (torch.randn(streams, positions, channels) for _ in range(3))
        text = KeyValue(torch.randn(1, positions, channels), torch.randn(1, positions, channels))
        name, found = f"{positions}x{channels}", dict.fromkeys(_WAYS, float("inf"))
        with torch.inference_mode():
            wanted = _concatenated(query, KeyValue(key, value), text, heads)
            for _ in range(arguments["rounds"]):
                for way, attention in _WAYS.items():
                    begin = time.process_time()
                    given = attention(query, KeyValue(key, value), text, heads)
                    found[way] = min(found[way], time.process_time() - begin)
                    if (given - wanted).abs().max() > 1e-4:
                        raise RuntimeError(f"{way} differs from the sampler's way at {name}")
        for way, seconds in found.items():
            figures[f"{name}/{way}_seconds"] = seconds
            ratio = seconds / found["concatenated"]
            worst = f"{way}_ratio"
            figures[worst] = max(figures.get(worst, 0.0), ratio)
    return figures


def _concatenated(query: Tensor, own: KeyValue, text: KeyValue, heads: int) -> Tensor:
    rows = torch.zeros(len(query), dtype=torch.long)
    fused = fuse(KeyValue(text.key[rows], text.value[rows]), own, "mixed", "adain_mean")
    return attend(query, fused.key, fused.value, heads)


def _buffer(query: Tensor, own: KeyValue, text: KeyValue, heads: int) -> Tensor:
    parts = []
    for mine, shared in ((own.key, text.key), (own.value, text.value)):
        length = mine.shape[1]
        both = mine.new_empty(len(mine), length + shared.shape[1], mine.shape[2])
        torch.add(mine, _moved(mine, shared), out=both[:, :length])
        both[:, length:] = shared
        parts.append(both)
    return attend(query, parts[0], parts[1], heads)


def _merged(query: Tensor, own: KeyValue, text: KeyValue, heads: int) -> Tensor:
    # The only public attention of torch that returns the sum over keys is flex_attention, which a
    # CPU runs compiled alone; this benchmark is no part of the sampler.
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    streams, length, channels = query.shape
    ours, own_sum = kernel(*(_heads(part, heads) for part in (query, own.key, own.value)))
    # A shift of all own keys adds the same number to each of a query's products.
    shift = _heads(_moved(own.key, text.key), heads)
    added = (_heads(query, heads) @ shift.transpose(-1, -2)).squeeze(-1)
    own_sum = own_sum + added * (channels // heads) ** -0.5
    # All streams' queries see the same keys: one batch row, no copy of the keys.
    together = query.reshape(1, streams * length, channels)
    theirs, text_sum = kernel(*(_heads(part, heads) for part in (together, text.key, text.value)))
    theirs = theirs.reshape(heads, streams, length, -1).transpose(0, 1)
    text_sum = text_sum.reshape(heads, streams, length).transpose(0, 1)
    weight = torch.sigmoid(own_sum - text_sum).unsqueeze(-1)
    moved = ours + _heads(_moved(own.value, text.value), heads)
    return torch.lerp(theirs, moved, weight).transpose(1, 2).flatten(2)


def _moved(mine: Tensor, shared: Tensor) -> Tensor:
    return shared.mean(1, keepdim=True) - mine.mean(1, keepdim=True)


def _heads(part: Tensor, heads: int) -> Tensor:
    return part.unflatten(-1, (heads, -1)).transpose(1, 2)


_WAYS: dict[str, Callable[[Tensor, KeyValue, KeyValue, int], Tensor]] = {
    "concatenated": _concatenated,
    "buffer": _buffer,
    "merged": _merged,
}
