"""Writes the synthetic faces beside this file: `python tests/assets/make_faces.py`.

They belong to nobody: the DCGAN of gan-face-generate drew them (`training/faces_gan.py`), three
latent neighbours for each of six people.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from PIL import Image

from infinite_id.faces.loading import load_face_backend
from infinite_id.training.faces_gan import draw_people, load_face_generator

PEOPLE, PORTRAITS = 6, 3
# Above all that the pocket preset trains on.
FIRST = 5_000_000


def main() -> None:
    folder = Path(__file__).parent
    backend = load_face_backend("embedded")
    drawn = draw_people(range(FIRST, FIRST + 100), PORTRAITS, load_face_generator(), backend)
    for number, person in enumerate(islice(drawn, PEOPLE)):
        for index, portrait in enumerate(person.portraits):
            path = folder / f"person{number}_{index}.png"
            Image.fromarray(portrait.image).save(path, optimize=True)


if __name__ == "__main__":
    main()
