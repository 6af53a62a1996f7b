"""How much identity the pocket autoencoder lets through: the ceiling of every method over it.

Raw photos of held-out people are composed, encoded and decoded without any noise. What FaceNet
does not know again afterwards, no UNet can keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pocket_people import drawn_people, find_face
from eval.judges.facenet import FaceNet
from eval.stats import summarise
from infinite_id.faces.detection import FaceBackend, FaceError
from infinite_id.faces.loading import load_face_backend
from infinite_id.pocket import model as pocket
from infinite_id.training.captions import draw_description
from infinite_id.training.context import pixels_of
from infinite_id.training.world import compose

__all__ = ["run"]


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Measures composed photos before and after the autoencoder.

    Args:
        arguments: people, split (theirs: "test", or "validation" for whoever chooses how to
            train), threads.

    Returns:
        For `photo` and `decoded`: share of faces found in [0, 1], FaceNet's cosine to other
        pictures of the right person minus the mean to wrong ones, with its 95 %
        interval over people; the cosine of both to each other; mean absolute error in [0, 1].
    """
    torch.set_num_threads(arguments["threads"])
    backend, judge = load_face_backend("embedded"), FaceNet()
    rng = np.random.default_rng(5)
    photos, references = [], []
    for person in drawn_people(arguments["people"], backend, arguments["split"]):
        given, *others = person.portraits
        description = replace(draw_description(rng), style="photo")
        photos.append(compose(given, description, rng, pocket.shipped_size()).image)
        seen = judge.embed([p.image for p in others], [p.detection for p in others]).mean(axis=0)
        references.append(seen / np.linalg.norm(seen))
    vae: Any = pocket.load_pipeline().vae
    pixels = pixels_of(np.stack(photos), torch.device("cpu"))
    with torch.no_grad():
        made = (vae.decode(vae.encode(pixels * 2 - 1).latent_dist.mean).sample + 1) / 2
    error = float((made - pixels).abs().mean())
    decoded = (made.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    features = {
        name: _features(pictures, backend, judge)
        for name, pictures in (("photo", photos), ("decoded", list(decoded)))
    }
    figures = {"error": error}
    for name, own in features.items():
        similarity = own @ np.stack(references).T
        right = np.diag(similarity)
        wrong = (similarity.sum(axis=1) - right) / (len(right) - 1)
        margin = summarise(right - wrong, [str(n) for n in range(len(right))])
        figures |= {
            f"{name}/face_found": float(np.isfinite(right).mean()),
            f"{name}/identity_margin": margin.mean,
            f"{name}/identity_margin_low": margin.low,
            f"{name}/identity_margin_high": margin.high,
        }
    both = (features["photo"] * features["decoded"]).sum(axis=1)
    return figures | {"photo_to_decoded": float(np.nanmean(both))}


def _features(
    pictures: Sequence[NDArray[np.uint8]], backend: FaceBackend, judge: FaceNet
) -> NDArray[np.float32]:
    """FaceNet's (N, 512); a row of NaN where no face is found."""
    rows = np.full((len(pictures), 512), np.nan, dtype=np.float32)
    for row, picture in enumerate(pictures):
        try:
            face = find_face(picture, backend)
        except FaceError:
            continue
        rows[row] = judge.embed([picture], [face])[0]
    return rows
