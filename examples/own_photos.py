"""Pictures of one person from your own photos: python examples/own_photos.py PHOTO [PHOTO ...]

All photos show the same person. The pictures go to the folder `pictures`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from infinite_id import InfiniteIDPipeline

PROMPTS = ["a {subject} on the beach, sunset", "a {subject} in the snow, sunny"]
STYLES = ["raw_photo", "comic_book", "oil_painting"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--preset", default="pocket", help="or sdxl_plus_face, on a GPU")
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--class-word", default="person", help="what {subject} becomes")
    parser.add_argument("--steps", type=int, help="of denoising; by default the preset's")
    parser.add_argument("--output", type=Path, default=Path("pictures"))
    options = parser.parse_args()
    try:
        pipe = InfiniteIDPipeline.from_pretrained(options.preset).to(options.device)
        person = pipe.identity(options.photos, class_word=options.class_word)
        made = pipe(
            [prompt for prompt in PROMPTS for _ in STYLES],
            person,
            style=STYLES * len(PROMPTS),
            num_inference_steps=options.steps,
            seed=0,
        )
    except ValueError as error:
        parser.error(str(error))
    options.output.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(made.images):
        image.save(options.output / f"{number:02}.png")
    likeness = made.scores()["identity_facenet"]
    print(f"{len(made.images)} pictures in {options.output}")
    print(f"likeness (FaceNet cosine): {', '.join(f'{value:.2f}' for value in likeness)}")


if __name__ == "__main__":
    main()
