"""Whether the image tower alone tells people apart: what IP-Adapter can see of a person.

IP-Adapter's tokens come from the tower, without a face embedding. Two photos each of held-out
people are embedded; the second one is looked for among the first ones. SFace stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pocket_people import drawn_people
from eval.stats import summarise
from infinite_id.config import preset
from infinite_id.identity.encoders import load_identity_encoder

__all__ = ["found_again", "run"]


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Embeds and compares.

    Args:
        arguments: people, split (theirs: "test", or "validation" for whoever chooses how to
            train), threads.

    Returns:
        For `tower_class` (the class token), `tower_mean` (the mean of all tokens) and `face`
        (SFace): `rank1`, the share of people in [0, 1] whose second photo is nearest to their own
        first one, and the cosine to it minus the mean to other people's, with its 95 % interval
        over people. The tower's features are centred first: they share a large part.

    Raises:
        ValueError: an unknown split, or fewer than two people.
    """
    count = arguments["people"]
    if not isinstance(count, int) or count < 2:
        raise ValueError(f"people is {count!r}, allowed: 2 or more")
    torch.set_num_threads(arguments["threads"])
    encoder = load_identity_encoder(preset("pocket").encoders)
    people = list(drawn_people(count, encoder.faces, arguments["split"]))
    pairs = [encoder.embed_many([[p.portraits[k].aligned] for p in people]) for k in (0, 1)]
    tokens = [np.stack([one.clip for one in side]).astype(np.float32) for side in pairs]
    features = {
        "tower_class": [_centred(side[:, 0]) for side in tokens],
        "tower_mean": [_centred(side.mean(axis=1)) for side in tokens],
        "face": [np.stack([one.face for one in side]) for side in pairs],
    }
    figures: dict[str, float] = {}
    for name, (first, second) in features.items():
        figures |= {f"{name}/{key}": value for key, value in found_again(first, second).items()}
    return figures


def _centred(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors of what differs from the mean of all, (N, D)."""
    own = features - features.mean(axis=0)
    return np.asarray(own / np.linalg.norm(own, axis=1, keepdims=True), np.float32)


def found_again(first: NDArray[np.float32], second: NDArray[np.float32]) -> dict[str, float]:
    """Rank-1 and margin of the second photos (N, D) among the first ones (N, D), unit vectors."""
    similarity = second @ first.T
    right = np.diag(similarity)
    wrong = (similarity.sum(axis=1) - right) / (len(right) - 1)
    margin = summarise(right - wrong, [str(n) for n in range(len(right))])
    return {
        "rank1": float((similarity.argmax(axis=1) == np.arange(len(right))).mean()),
        "margin": margin.mean,
        "margin_low": margin.low,
        "margin_high": margin.high,
    }
