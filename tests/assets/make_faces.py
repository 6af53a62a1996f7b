"""Writes the synthetic faces beside this file, and the control people of the judges.

`python tests/assets/make_faces.py`.

They belong to nobody: the DCGAN of gan-face-generate drew them (`training/faces_gan.py`), three
latent neighbours for each of six people.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from infinite_id.faces.detection import find_faces
from infinite_id.faces.loading import load_face_backend
from infinite_id.training.faces_gan import draw_people, load_face_generator

PEOPLE, PORTRAITS = 6, 3
# Above all that the pocket preset trains on.
FIRST = 5_000_000


def main() -> None:
    folder = Path(__file__).parent
    backend = load_face_backend("embedded")
    drawn = draw_people(range(FIRST, FIRST + 100), PORTRAITS, load_face_generator(), backend)
    rows = []
    for number, person in enumerate(islice(drawn, PEOPLE)):
        for index, portrait in enumerate(person.portraits):
            path = folder / f"person{number}_{index}.png"
            Image.fromarray(portrait.image).save(path, optimize=True)
        images = [portrait.image for portrait in person.portraits]
        found = [find_faces(image, backend, select="largest", sizes=(256, 512)) for image in images]
        rows.append(np.concatenate([crop for ((_, crop),) in found], axis=1))
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.save(folder.parents[1] / "eval/data/control_people.webp", quality=95, method=6)


if __name__ == "__main__":
    main()
