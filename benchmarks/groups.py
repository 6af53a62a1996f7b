"""Two people in one picture: whether both are there, in their own halves, and like themselves.

Pairs of the test split of the pocket world, whom no network saw. Beside each picture of a pair
stand two of one person each, with the same words and seed; they are made smaller until their face
is as wide as the one in the pair's picture, for FaceNet sees less in a small face. Its margin is
the cosine to the person less the mean cosine to all others. Intervals are over pairs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.pocket_people import JudgedPerson, synthetic_people
from eval.groups import PersonSeen, people_seen
from eval.judges.networks import Networks
from eval.picture_batch import PictureBatch
from eval.stats import Summary, paired_difference, summarise
from infinite_id.config import preset
from infinite_id.faces.detection import Detection
from infinite_id.identity.encoders import load_identity_encoder
from infinite_id.methods import load_generators
from infinite_id.pocket import model as pocket
from infinite_id.regions import Region
from infinite_id.training.captions import COLORS, GARMENTS, SCENES, STYLES
from infinite_id.types import GenerationRequest, Identity, IdentityGroup

__all__ = ["Couple", "couples_of", "figures_of", "run"]

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]
HALVES: tuple[Region, ...] = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Couple:
    """Two people with what shows them.

    Attributes:
        people: numbers of the left and the right one.
        together: the request of both.
        alone: of each, in the same order.
    """

    people: tuple[int, int]
    together: GenerationRequest
    alone: tuple[GenerationRequest, GenerationRequest]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the judge saw of one couple.

    Attributes:
        couple: the names of both, which is what intervals are over.
        faces: in the picture of both.
        people: of each, in order.
        margins: of each one's matched face, NaN without.
        margins_in_region: of the face in each one's half.
        alone: margins of each one's own picture, the face as small as the matched one.
    """

    couple: str
    faces: int
    people: list[PersonSeen]
    margins: list[float]
    margins_in_region: list[float]
    alone: list[float]


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Generates and measures.

    Args:
        arguments: pairs, split (the people's), prompts (each pair's), method, steps,
            guidance_scale, batch_size, threads, sheet (a PNG of the first pairs; null: none).

    Returns:
        See `figures_of`, besides `trained`, `seconds_a_picture`, and `text_alone/faces_found`: of
        the same prompts without anybody.

    Raises:
        ValueError: an unknown split or method, or too few pairs.
    """
    for name, least in (("pairs", 2), ("prompts", 1)):
        if not isinstance(arguments[name], int) or arguments[name] < least:
            raise ValueError(f"{name} is {arguments[name]!r}, allowed: {least} or more")
    torch.set_num_threads(arguments["threads"])
    method = arguments["method"]
    generators = load_generators([method, "text_only"], preset("pocket"))
    encoder = load_identity_encoder(preset("pocket").encoders)
    networks = Networks(("faces", "facenet"), "pocket", arguments["threads"])
    count = 2 * arguments["pairs"]
    people = synthetic_people(count, encoder, networks.facenet, arguments["split"])
    couples = couples_of(arguments)
    known = {str(number): one.identity for number, one in enumerate(people)}
    size = arguments["batch_size"]
    together = [one.together for one in couples]
    begin = time.perf_counter()
    pictures = _generate(generators[method], together, known, size)
    seconds = (time.perf_counter() - begin) / len(couples)
    singles = _generate(
        generators[method], [one for couple in couples for one in couple.alone], known, size
    )
    by_text = _generate(generators["text_only"], together, known, size)
    seen = judged(networks, people, couples, pictures, singles)
    if arguments["sheet"]:
        _write_sheet(Path(arguments["sheet"]), networks, pictures, singles)
    return {
        "trained": float(pocket.is_trained()),
        **figures_of(seen),
        "text_alone/faces_found": float(np.mean([len(f) >= 2 for f in _faces(networks, by_text)])),
        "seconds_a_picture": seconds,
    }


def couples_of(arguments: Mapping[str, Any]) -> list[Couple]:
    """Person 0 with 1, 2 with 3 ...; colours, places and styles are drawn, half are raw photos."""
    rng = np.random.default_rng(4)
    painted = [style for style in STYLES if style != "photo"]
    couples = []
    for pair in range(arguments["pairs"]):
        for number in range(arguments["prompts"]):
            style = "photo" if number % 2 == 0 else str(rng.choice(painted))
            place = f"{SCENES[str(rng.choice(list(SCENES)))][0]}, {STYLES[style][0]}"
            left, right = (f"a person wearing {_garment(rng)}" for _ in range(2))
            both = GenerationRequest(
                sample_id=f"{pair}-{number}",
                identity_id=f"{2 * pair}&{2 * pair + 1}",
                method="",
                prompt=f"two people, {left} on the left and {right} on the right, {place}",
                negative_prompt="",
                style=style,
                seed=1000 * pair + number,
                height=pocket.shipped_size(),
                width=pocket.shipped_size(),
                num_inference_steps=arguments["steps"],
                guidance_scale=arguments["guidance_scale"],
                group=IdentityGroup((str(2 * pair), str(2 * pair + 1)), HALVES),
            )
            one, other = (
                replace(
                    both,
                    sample_id=f"{pair}-{number}-{side}",
                    identity_id=str(2 * pair + side),
                    prompt=f"{who}, {place}",
                    group=None,
                )
                for side, who in enumerate((left, right))
            )
            couples.append(Couple((2 * pair, 2 * pair + 1), both, (one, other)))
    return couples


def _garment(rng: np.random.Generator) -> str:
    color = str(rng.choice(list(COLORS)))
    return f"{'an' if color == 'orange' else 'a'} {color} {rng.choice(GARMENTS)}"


def _generate(
    generator: Any,
    requests: Sequence[GenerationRequest],
    people: Mapping[str, Identity],
    batch_size: int,
) -> list[Picture]:
    pictures: list[Picture] = []
    for start in range(0, len(requests), batch_size):
        made = generator.generate(requests[start : start + batch_size], people)
        pictures += [one.image for one in made]
    return pictures


def _batch(networks: Networks, pictures: Sequence[Picture]) -> PictureBatch:
    """As runs look at pictures."""
    blank = [""] * len(pictures)
    return PictureBatch(networks, pictures, blank, [[]] * len(pictures), blank)


def _faces(networks: Networks, pictures: Sequence[Picture]) -> list[list[Detection]]:
    return _batch(networks, pictures).faces


def judged(
    networks: Networks,
    people: Sequence[JudgedPerson],
    couples: Sequence[Couple],
    pictures: Sequence[Picture],
    singles: Sequence[Picture],
) -> list[Seen]:
    """What the judge sees of each couple.

    Args:
        networks: with "faces" and "facenet".
        people: all whom a face is told apart from.
        couples: N.
        pictures: N, of both.
        singles: 2 N, of each alone.
    """
    references = np.stack([one.reference for one in people]).astype(np.float64)
    batch = _batch(networks, pictures)
    alone = _faces(networks, singles)
    found = []
    for number, couple in enumerate(couples):
        faces = batch.faces[number]
        cosines = batch.facenet_features[number].astype(np.float64) @ references.T
        height, width = pictures[number].shape[:2]
        seen = people_seen(
            [face.bbox for face in faces], cosines[:, couple.people], HALVES, height, width
        )
        rows = zip(couple.people, seen, strict=True)
        found.append(
            Seen(
                couple=couple.together.identity_id,
                faces=len(faces),
                people=seen,
                margins=[_margin(cosines, one.matched, person) for person, one in rows],
                margins_in_region=[
                    _margin(cosines, one.in_region, person)
                    for person, one in zip(couple.people, seen, strict=True)
                ],
                alone=[
                    _as_small(
                        networks, singles[2 * number + side], alone[2 * number + side],
                        None if one.matched is None else faces[one.matched], references,
                        couple.people[side],
                    )
                    for side, one in enumerate(seen)
                ],
            )
        )  # fmt: skip
    return found


def _margin(cosines: Floats, face: int | None, person: int) -> float:
    """Cosine to the person less the mean to all others, of (faces, people)."""
    if face is None:
        return float("nan")
    return float(cosines[face, person] - np.delete(cosines[face], person).mean())


def _as_small(
    networks: Networks,
    picture: Picture,
    faces: Sequence[Detection],
    other: Detection | None,
    references: Floats,
    person: int,
) -> float:
    """The margin of a picture's largest face, shrunk to the size of another one's."""
    if not faces or other is None:
        return float("nan")
    face = faces[0]
    factor = min(other.size / face.size, 1.0)
    side = [max(1, round(factor * length)) for length in (picture.shape[1], picture.shape[0])]
    small = np.asarray(cv2.resize(picture, side, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    seen = networks.facenet.embed([small], [face.scaled(factor)]).astype(np.float64)
    return _margin(seen @ references.T, 0, person)


def figures_of(seen: Sequence[Seen]) -> dict[str, float]:
    """Shares in [0, 1] and margins, each with a 95 % interval over pairs (_low, _high).

    `faces_found`: both halves show a face. `margin`: of the face that is each person's by identity,
    in pictures with two faces or more, for of a single one it would be the better of two;
    `margin_in_region`: of the face in each one's half; `margin_ratio`, `margin_in_region_ratio`: to
    the same people alone, at equal face size. `mix_ups`: of the pictures with two faces in place,
    those whose faces are each other's. NaN: no picture tells.
    """
    names = [one.couple for one in seen]
    placed = [[person.in_region is not None for person in one.people] for one in seen]
    both = np.array([all(one) for one in placed], dtype=float)
    mixed = np.array([any(person.mixed_up for person in one.people) for one in seen], dtype=float)
    figures = {"pictures": float(len(seen)), "faces": float(np.mean([one.faces for one in seen]))}
    figures |= _told("faces_found", summarise(both, names, rate=True))
    figures |= {
        f"no_face_{side}": float(np.mean([not one[place] for one in placed]))
        for place, side in enumerate(("left", "right"))
    }
    figures |= _told("mix_ups", summarise(np.where(both > 0, mixed, np.nan), names, rate=True))
    alone = np.array([one.alone for one in seen]).ravel()
    for name, margins in (
        ("margin", [one.margins if one.faces > 1 else [float("nan")] * 2 for one in seen]),
        ("margin_in_region", [one.margins_in_region for one in seen]),
    ):
        figures |= _ratio(name, np.array(margins).ravel(), alone, np.repeat(names, 2))
    return figures


def _ratio(name: str, own: Floats, alone: Floats, names: NDArray[np.str_]) -> dict[str, float]:
    """Mean margin, the same people's alone, and the ratio of both with its interval."""
    paired = np.isfinite(own) & np.isfinite(alone)
    own, alone, names = own[paired], alone[paired], names[paired]
    figures = {f"{name}_people": float(len(own)), **_told(name, summarise(own, names))}
    single = summarise(alone, names)
    figures[f"{name}_alone"] = single.mean
    if not single.mean > 0:
        return figures | dict.fromkeys((f"{name}_ratio{end}" for end in ("", "_low", "_high")),
                                       float("nan"))  # fmt: skip
    ratio = float(own.mean()) / single.mean
    # First order: the mean of own - ratio * alone is 0, and its interval is the ratio's, scaled.
    around = paired_difference(own, ratio * alone, names)
    return figures | {
        f"{name}_ratio": ratio,
        f"{name}_ratio_low": ratio + around.low / single.mean,
        f"{name}_ratio_high": ratio + around.high / single.mean,
    }


def _told(name: str, found: Summary) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _write_sheet(
    path: Path, networks: Networks, pictures: Sequence[Picture], singles: Sequence[Picture]
) -> None:
    """Rows of a picture of both, faces framed, and of each alone; four times their size."""
    rows = []
    for number, faces in enumerate(_faces(networks, pictures[:8])):
        shown = [pictures[number], *singles[2 * number : 2 * number + 2]]
        row = Image.fromarray(np.concatenate(shown, axis=1))
        row = row.resize((4 * row.width, 4 * row.height), Image.Resampling.BICUBIC)
        for face in faces:
            corners = [4 * float(side) for side in face.bbox]
            ImageDraw.Draw(row).rectangle(corners, outline="yellow", width=2)
        rows.append(np.asarray(row))
    Image.fromarray(np.concatenate(rows)).save(path)
