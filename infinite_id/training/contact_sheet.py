"""A contact sheet of the pocket world: `python -m infinite_id.training.contact_sheet OUT.png`.

Rows are styles, columns scenes; people of the test split, so that no picture of it is trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from infinite_id.faces.loading import load_face_backend
from infinite_id.pocket.weights import EDITIONS
from infinite_id.training.captions import COLORS, GARMENTS, LIGHTS, SCENES, STYLES, Description
from infinite_id.training.dataset import SPLITS
from infinite_id.training.faces_gan import draw_people, load_face_generator
from infinite_id.training.world import compose

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; writes one PNG, each picture twice its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=18)
    parser.add_argument("--size", type=int, default=64, choices=sorted(EDITIONS))
    options = parser.parse_args(arguments)
    indices = [i for i in range(80 * options.people) if i % 20 in SPLITS["test"]]
    frontal = EDITIONS[options.size].level_heads
    backend = load_face_backend("embedded")
    drawn = draw_people(indices, 2, load_face_generator(), backend, frontal=frontal)
    people = [person for person, _ in zip(drawn, range(options.people), strict=False)]
    rng = np.random.default_rng(3)
    lights = [None, *LIGHTS]
    rows = []
    for row, style in enumerate(STYLES):
        tiles = []
        for column, scene in enumerate(SCENES):
            person = people[(row * len(SCENES) + column) % len(people)]
            description = Description(
                color=str(rng.choice([*COLORS, "colorful"])),
                garment=GARMENTS[(row + column) % len(GARMENTS)],
                scene=scene,
                light=lights[(row + column) % len(lights)],
                style=style,
            )
            tiles.append(compose(person.portraits[row % 2], description, rng, options.size).image)
        rows.append(np.concatenate(tiles, axis=1))
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    sheet = sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.BICUBIC)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
