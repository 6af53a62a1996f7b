"""Cost of scoring: the default metrics on crops of the photos that insightface ships."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eval.metrics import DEFAULT_METRICS
from eval.suite import load_suite
from infinite_id.faces.detection import find_faces
from infinite_id.faces.loading import load_face_backend

__all__ = ["run"]


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Scores pictures in batches and measures.

    Args:
        arguments: preset; pictures, batch_size (counts); size (pixels); threads.

    Returns:
        ms_a_picture of all metrics but nsfw together, ms_a_picture_METRIC of each one alone (with
        what it shares with others), load_seconds, faces_found (share).
    """
    torch.set_num_threads(arguments["threads"])
    begin = time.perf_counter()
    together = [name for name in DEFAULT_METRICS if name != "nsfw"]
    suite = load_suite(together, arguments["preset"], threads=arguments["threads"])
    load_seconds = time.perf_counter() - begin
    people = _people(arguments["size"])
    rows = [people[n % len(people)] for n in range(arguments["pictures"])]
    rng = np.random.default_rng(0)
    # No two pictures are equal: what is cached by content must not look faster than it is.
    pictures = [
        np.clip(picture + rng.integers(-3, 4, picture.shape), 0, 255).astype(np.uint8)
        for picture, _ in rows
    ]
    references = [[crop] for _, crop in rows]

    def score(names: list[str] | None) -> tuple[float, list[dict[str, NDArray[np.float32]]]]:
        chosen = suite
        if names is not None:
            chosen = load_suite(names, arguments["preset"], threads=arguments["threads"])
        step = arguments["batch_size"]
        results, seconds = [], 0.0
        # The first batch warms up: it loads code and embeds the references once.
        for number, start in enumerate([0, *range(0, len(pictures), step)]):
            part = slice(start, start + step)
            texts = [f"a person on the beach, number {n}" for n in range(len(pictures[part]))]
            begin = time.perf_counter()
            found = chosen.score(pictures[part], texts, references[part], ["anime"] * len(texts))
            if number:
                seconds += time.perf_counter() - begin
                results.append(found)
        return 1000 * seconds / len(pictures), results

    total, results = score(None)
    found = np.concatenate([result["face_found"] for result in results])
    figures = {"ms_a_picture": total, "load_seconds": load_seconds}
    figures["faces_found"] = float(found.mean())
    return figures | {f"ms_a_picture_{name}": score([name])[0] for name in DEFAULT_METRICS}


def _people(size: int) -> list[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """(picture of `size` pixels, aligned face) of the six people of t1.jpg."""
    package = find_spec("insightface")
    if package is None or package.origin is None:
        raise ValueError("package insightface is not installed, its photos are needed")
    folder = Path(package.origin).parent / "data/images"
    photo = np.asarray(Image.open(folder / "t1.jpg").convert("RGB"))
    found = []
    for face, crop in find_faces(photo, load_face_backend("embedded"), select="all"):
        x0, y0, x1, y1 = face.bbox
        half, (x, y) = 0.9 * max(x1 - x0, y1 - y0), ((x0 + x1) / 2, (y0 + y1) / 2)
        box = photo[max(0, int(y - half)) : int(y + half), max(0, int(x - half)) : int(x + half)]
        picture = cv2.resize(box, (size, size), interpolation=cv2.INTER_AREA)
        found.append((picture.astype(np.int64), crop))
    return found
