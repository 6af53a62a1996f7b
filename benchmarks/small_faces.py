"""Small faces with and without the detail pass, in pairs: likeness, and what it costs.

Held-out synthetic people are put into pictures of the pocket world in which somebody stands so far
away that the face is 16 to 24 px wide: the model inpaints the head. The same pictures then go
through the detail pass. FaceNet judges both, by other pictures of the person than the one that
conditions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pocket_people import JudgedPerson, drawn_people, find_face, judged_people
from eval.judges.facenet import FaceNet
from eval.stats import paired_difference, summarise
from infinite_id.config import preset
from infinite_id.details import with_details
from infinite_id.details_config import DetailsConfig
from infinite_id.faces.detection import Detection, FaceError
from infinite_id.faces.loading import embedded_faces
from infinite_id.generator import LatentGenerator
from infinite_id.identity.encoders import load_identity_encoder
from infinite_id.init_image import InitImage
from infinite_id.methods import load_generators
from infinite_id.pocket import model as pocket
from infinite_id.training.captions import COLORS, SCENES, Description
from infinite_id.training.faces_gan import Person
from infinite_id.training.world import FACE_WIDTH, compose_far
from infinite_id.types import GeneratedImage, GenerationRequest

__all__ = ["run", "scenes"]

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Made:
    """Pictures with what each cost in rows of the UNet, and faces made again."""

    pictures: list[Picture]
    rows: int
    details: list[int]


def scenes(
    people: Sequence[Person], arguments: Mapping[str, Any], size: int
) -> list[tuple[int, GenerationRequest]]:
    """Each person `pictures` times in the place of the next one of them: (number, request).

    Args:
        people: two or more.
        arguments: of `run`.
        size: of a picture in pixels.
    """
    rng = np.random.default_rng(12)
    usual = sum(FACE_WIDTH) / 2 * size
    made = []
    for number, _ in enumerate(people):
        for k in range(arguments["pictures"]):
            color, scene = str(rng.choice(list(COLORS))), str(rng.choice(list(SCENES)))
            seen = Description(color, "shirt", scene, None, "photo")
            scale = rng.uniform(*arguments["face_px"]) / usual
            other = people[(number + 1) % len(people)].portraits[0]
            picture, head = compose_far(other, seen, rng, size, scale)
            # A little more than the head: hair and ears are the other person's too.
            head = cv2.dilate(head.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            article = "an" if color == "orange" else "a"
            request = GenerationRequest(
                sample_id=f"{number}-{k}",
                identity_id=str(number),
                method="",
                prompt=f"a person wearing {article} {color} shirt, {SCENES[scene][0]}, raw photo",
                negative_prompt="",
                style="photo",
                seed=1000 * number + k,
                height=size,
                width=size,
                num_inference_steps=arguments["steps"],
                guidance_scale=arguments["guidance_scale"],
                init_image=InitImage(picture.image, arguments["strength"], head),
            )
            made.append((number, request))
    return made


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Makes the pictures, makes their faces again, and measures.

    Args:
        arguments: people, split, pictures (of each), face_px (least and largest width of the face
            that is replaced), strength (of the inpainting), details (fields of `DetailsConfig`),
            method, steps, guidance_scale, batch_size, threads, sheet (a PNG of some pictures
            before and after, or None).

    Returns:
        trained; pictures; faces_made_again, a share; face_without, face_with: share of pictures
        with a face; margin_without, margin_with and gain of the pictures with a face in both,
        `pairs` many, with 95 % intervals over people (`_low`, `_high`); changed_outside: largest
        change, of 255, that the pass makes outside the inpainted head; rows_without, rows_with:
        UNet rows a picture; rows_ratio; rows_a_face: of a face made again, in those of a picture
        from noise.

    Raises:
        ValueError: fewer than two people, or a setting out of range.
    """
    if arguments["people"] < 2 or arguments["pictures"] < 1:
        raise ValueError(
            f"people is {arguments['people']} and pictures {arguments['pictures']}, allowed: 2 or "
            "more and 1 or more"
        )
    torch.set_num_threads(arguments["threads"])
    config = DetailsConfig(**arguments["details"])
    encoder, judge = load_identity_encoder(preset("pocket").encoders), FaceNet()
    drawn = list(drawn_people(arguments["people"], encoder.faces, arguments["split"]))
    people = judged_people(drawn, encoder, judge)
    generator = load_generators([arguments["method"]], preset("pocket"))[arguments["method"]]
    if not isinstance(generator, LatentGenerator):
        raise ValueError(f"method is {arguments['method']!r}, allowed: one that takes pictures")
    cases = scenes(drawn, arguments, pocket.shipped_size())
    before, after = _made(generator, cases, people, config, arguments["batch_size"])
    if arguments["sheet"]:
        begun = [request.init_image.image for _, request in cases if request.init_image]
        _sheet(begun[:8], before.pictures[:8], after.pictures[:8]).save(arguments["sheet"])
    numbers = [number for number, _ in cases]
    return {
        "trained": float(pocket.is_trained()),
        **_likeness(before, after, numbers, people, judge),
        "changed_outside": max(map(_changed, cases, before.pictures, after.pictures)),
        **_cost(before, after, arguments["steps"]),
    }


def _made(
    generator: LatentGenerator,
    cases: Sequence[tuple[int, GenerationRequest]],
    people: Sequence[JudgedPerson],
    config: DetailsConfig,
    batch_size: int,
) -> tuple[_Made, _Made]:
    """Without and with the pass; the rows of the second are those of the pass alone."""
    identities = {str(number): one.identity for number, one in enumerate(people)}
    made: list[GeneratedImage] = []
    again: list[GeneratedImage] = []
    rows = [0, 0]
    for begin in range(0, len(cases), batch_size):
        part = [request for _, request in cases[begin : begin + batch_size]]
        with _counted(generator, rows, 0):
            pictures = generator.generate(part, identities)
        with _counted(generator, rows, 1):
            again += with_details(generator, part, pictures, identities, config)
        made += pictures
    images = [one.image for one in made], [one.image for one in again]
    return (
        _Made(images[0], rows[0], [0] * len(made)),
        _Made(images[1], rows[1], [one.details for one in again]),
    )


@contextlib.contextmanager
def _counted(generator: LatentGenerator, rows: list[int], place: int) -> Iterator[None]:
    def count(module: Any, args: Any) -> None:
        rows[place] += len(args[0])

    handle = generator.base.unet.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _likeness(
    before: _Made,
    after: _Made,
    numbers: Sequence[int],
    people: Sequence[JudgedPerson],
    judge: FaceNet,
) -> dict[str, float]:
    references = np.stack([one.reference for one in people])
    first, second = (_margins(one.pictures, numbers, references, judge) for one in (before, after))
    both = np.isfinite(first) & np.isfinite(second)
    names = [str(number) for number in numbers]
    figures: dict[str, float] = {
        "pictures": float(len(numbers)),
        "faces_made_again": float(np.mean(after.details)),
        "face_without": float(np.isfinite(first).mean()),
        "face_with": float(np.isfinite(second).mean()),
        "pairs": float(both.sum()),
    }
    if not both.any():
        return figures
    own = [name for name, kept in zip(names, both, strict=True) if kept]
    for name, values in (("margin_without", first[both]), ("margin_with", second[both])):
        figures |= _told(name, summarise(values, own))
    figures |= _told("gain", paired_difference(second[both], first[both], own))
    return figures


def _told(name: str, found: Any) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _margins(
    pictures: Sequence[Picture], numbers: Sequence[int], references: NDArray, judge: FaceNet
) -> NDArray[np.float64]:
    """(N,) cosine to the person less the mean cosine to the others; NaN without a face."""
    found: dict[int, Detection] = {}
    for row, picture in enumerate(pictures):
        with contextlib.suppress(FaceError):
            found[row] = find_face(picture, embedded_faces())
    margins = np.full(len(pictures), np.nan)
    if not found:
        return margins
    seen = judge.embed([pictures[row] for row in found], list(found.values())) @ references.T
    for cosines, row in zip(seen, found, strict=True):
        own = cosines[numbers[row]]
        margins[row] = own - (cosines.sum() - own) / (len(references) - 1)
    return margins


def _changed(case: tuple[int, GenerationRequest], before: Picture, after: Picture) -> float:
    begun = case[1].init_image
    if begun is None or begun.mask_image is None:
        raise AssertionError("every picture of `scenes` has a mask")
    apart = np.abs(before.astype(int) - after).max(axis=2)
    return float(apart[~begun.mask_image].max())


def _cost(before: _Made, after: _Made, steps: int) -> dict[str, float]:
    count, again = len(before.pictures), sum(after.details)
    # Guidance doubles a row, and a person alone has a text stream of their own.
    whole = 4 * steps
    return {
        "rows_without": before.rows / count,
        "rows_with": (before.rows + after.rows) / count,
        "rows_ratio": (before.rows + after.rows) / before.rows,
        "rows_a_face": after.rows / again / whole if again else 0.0,
    }


def _sheet(*rows: Sequence[Picture]) -> Image.Image:
    """What was begun with, without, and with, one below the other."""
    made = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0))
    return made.resize((made.width * 2, made.height * 2), Image.Resampling.NEAREST)
