"""What the pocket model makes of held-out people: `python -m benchmarks.pocket_sheet OUT.png`.

A row a person: the photo that conditions, then two raw photos, comic, anime, oil, watercolour and
sketch, at twice their size. `--blind FOLDER` writes the rows without photos, the photos in another
order, and which belongs to which, so that somebody who has not seen the sheet can match them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pocket_people import drawn_people
from infinite_id.config import preset
from infinite_id.identity.encoders import load_identity_encoder
from infinite_id.methods import METHODS, load_generators
from infinite_id.training.captions import STYLES
from infinite_id.training.dataset import SPLITS
from infinite_id.types import GenerationRequest, Identity

__all__ = ["main"]

Picture = NDArray[np.uint8]
COLUMNS = ("photo", "photo", "comic", "anime", "oil", "watercolor", "sketch")
PROMPTS = (
    "a person wearing a red shirt, facing and smiling to the camera, on the beach",
    "a person wearing a blue jacket, in a studio",
    "a person wearing a green sweater, in a garden",
    "a person wearing a purple dress, in the snow",
    "a person wearing a brown jacket, in the mountains",
    "a person wearing a yellow shirt, on a beach",
    "a person wearing a white shirt, in an office",
)
TWICE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; writes one PNG, and a folder where blind sheets are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--split", default="test", choices=sorted(SPLITS))
    parser.add_argument("--method", default="infinite_id")
    parser.add_argument("--guidance", type=float, default=preset("pocket").sampler.guidance_scale)
    steps = preset("pocket").sampler.num_inference_steps
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--blind", type=Path, help="folder of results, photos and answers")
    options = parser.parse_args(arguments)
    if options.method not in METHODS:
        parser.error(f"method is {options.method!r}, allowed: {', '.join(sorted(METHODS))}")
    if options.people < 1:
        parser.error(f"people is {options.people}, allowed: 1 or more")
    encoder = load_identity_encoder(preset("pocket").encoders)
    generator = load_generators([options.method], preset("pocket"))[options.method]
    photos, rows = [], []
    for person in drawn_people(options.people, encoder.faces, options.split):
        given = person.portraits[0]
        key = str(person.index)
        identity = Identity(key, (given.aligned,), encoder.embed([given.aligned]))
        requests = [_request(key, options, number) for number in range(len(COLUMNS))]
        rows.append([made.image for made in generator.generate(requests, {key: identity})])
        photos.append(given.image)
    size = rows[0][0].shape[0]
    shown = [_resized(photo, size) for photo in photos]
    _write(options.out, [[photo, *row] for photo, row in zip(shown, rows, strict=True)])
    if options.blind is not None:
        order = np.random.default_rng(9).permutation(len(photos))
        _write(options.blind / "results.png", rows)
        _write(options.blind / "photos.png", [[shown[number] for number in order]])
        places = [int(np.flatnonzero(order == row)[0]) + 1 for row in range(len(rows))]
        (options.blind / "answers.json").write_text(
            json.dumps({"photo of each row, counted from the left": places}) + "\n", "utf-8"
        )
    return 0


def _request(key: str, options: argparse.Namespace, number: int) -> GenerationRequest:
    settings, style = preset("pocket"), COLUMNS[number]
    return GenerationRequest(
        sample_id=f"{key}-{number}",
        identity_id=key,
        method=options.method,
        prompt=f"{PROMPTS[number]}, {STYLES[style][0]}",
        negative_prompt="",
        style=style,
        seed=1000 * int(key) + number,
        height=settings.height,
        width=settings.width,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
    )


def _resized(picture: Picture, size: int) -> Picture:
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def _write(path: Path, rows: Sequence[Sequence[Picture]]) -> None:
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    twice = (TWICE * sheet.width, TWICE * sheet.height)
    sheet.resize(twice, Image.Resampling.BICUBIC).save(path, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main())
