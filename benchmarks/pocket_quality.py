"""What the pocket model shows: faces, identity, semantics, and the directions of the paper.

People are the test split of the pocket world (no network saw them) and the photos that insightface
ships. The judge of identity is FaceNet, which training never saw. Synthetic people are judged by
other pictures than the one that conditions; real ones, of whom there is one photo each, by that
very photo. All methods answer the same requests.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pocket_people import JudgedPerson, find_face, real_people, synthetic_people
from eval.distributions import kernel_distance
from eval.judges.facenet import FaceNet
from eval.judges.pocket_score import PocketImageText
from eval.stats import paired_difference, summarise
from infinite_id.config import preset
from infinite_id.faces.detection import FaceBackend, FaceError
from infinite_id.identity.encoders import load_identity_encoder
from infinite_id.methods import METHODS, load_generators
from infinite_id.pocket import model as pocket
from infinite_id.training.captions import COLORS, SCENES, STYLES
from infinite_id.types import GenerationRequest, Identity

__all__ = ["Case", "Picture", "cases_of", "face_distance", "generate", "measure", "run"]

Picture = NDArray[np.uint8]
# Drawn without colour, so that a colour cannot be told.
GRAY_STYLES = ("sketch", "line")
SHOULDERS = ((14, 24), (40, 50))
"""Columns of 64 that show cloth below the face."""
COMPARISONS = {
    "enhanced_minus_text_trained": ("infinite_id_text_trained", ("identity", "margin")),
    "mixed_minus_mutual": ("infinite_id_mutual", ("identity", "margin")),
    "adain_mean_minus_none": ("infinite_id_no_adain", ("style",)),
    "adain_mean_minus_adain": ("infinite_id_adain", ("identity", "margin")),
    "self_minus_both_norms": ("infinite_id_cross_adain_mean", ("identity", "margin", "text")),
    "ours_minus_ip_adapter": ("ip_adapter", ("identity", "margin", "text")),
    "ours_minus_photomaker": ("photomaker", ("identity", "margin", "text")),
}
"""Figure's begin -> (method that Infinite-ID is compared with, scores)."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request with what it asks for."""

    request: GenerationRequest
    person: int
    color: str
    scene: str
    style: str


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Generates for every method and measures.

    Args:
        arguments: people, split (theirs: "test", or "validation" for whoever chooses how to
            train), prompts (each person's), methods (the first one is judged absolutely), steps,
            guidance_scale, batch_size, threads, real_photos (bool).

    Returns:
        Shares in [0, 1], cosines, seconds; names ending in _low and _high are 95 %
        intervals over people. `trained` is 0 where the pictures are noise. `detector_score_photo`
        is the detector's own, of raw photos, 0 where it found no face. `kernel_distance` is from
        the faces of raw photos to those of the judging pictures of the same people
        (`face_distance`).

    Raises:
        ValueError: an unknown split or method, or so few people or methods that there is nothing
            to compare.
    """
    _check(arguments)
    torch.set_num_threads(arguments["threads"])
    encoder = load_identity_encoder(preset("pocket").encoders)
    judge, scorer = FaceNet(), PocketImageText()
    held_out = synthetic_people(arguments["people"], encoder, judge, arguments["split"])
    groups = {"synthetic": held_out}
    if arguments["real_photos"]:
        groups["real"] = real_people(encoder, judge)
    names = list(arguments["methods"])
    generators = load_generators(names, preset("pocket"))
    figures: dict[str, float] = {"trained": float(pocket.is_trained())}
    for group, people in groups.items():
        cases = cases_of(people, arguments)
        tables = {}
        for name in names if group == "synthetic" else names[:1]:
            pictures, seconds = generate(generators[name], cases, people, arguments["batch_size"])
            tables[name] = measure(pictures, cases, people, encoder.faces, judge, scorer)
            if group == "synthetic":
                figures[f"{name}/seconds_a_picture"] = seconds
                figures |= {
                    f"{name}/{key}": float(np.nanmean(tables[name][key]))
                    for key in ("face", "identity", "margin", "text", "style")
                }
                figures |= _photos(tables[name], cases, people, name)
        figures |= {
            f"{group}/{key}": value
            for key, value in _absolute(tables[names[0]], cases, people).items()
        }
        if group == "synthetic":
            figures |= _directions(tables, cases)
    return figures


def _check(arguments: Mapping[str, Any]) -> None:
    """Before anybody is drawn, which takes minutes."""
    if not arguments["methods"]:
        raise ValueError("methods are none, allowed: one or more")
    for name in arguments["methods"]:
        if name not in METHODS:
            raise ValueError(f"method is {name!r}, allowed: {', '.join(sorted(METHODS))}")
    # A margin needs somebody else.
    for name, least in (("people", 2), ("prompts", 1)):
        if not isinstance(arguments[name], int) or arguments[name] < least:
            raise ValueError(f"{name} is {arguments[name]!r}, allowed: {least} or more")


def cases_of(people: Sequence[JudgedPerson], arguments: Mapping[str, Any]) -> list[Case]:
    """Every person's prompts: half raw photos, half in the styles, all parts drawn."""
    rng = np.random.default_rng(4)
    painted = [style for style in STYLES if style != "photo"]
    cases = []
    for number, _ in enumerate(people):
        for k in range(arguments["prompts"]):
            color, scene = str(rng.choice(list(COLORS))), str(rng.choice(list(SCENES)))
            style = "photo" if k % 2 == 0 else str(rng.choice(painted))
            article = "an" if color == "orange" else "a"
            text = (
                f"a person wearing {article} {color} shirt, facing and smiling to the camera, "
                f"{SCENES[scene][0]}, {STYLES[style][0]}"
            )
            request = GenerationRequest(
                sample_id=f"{number}-{k}",
                identity_id=str(number),
                method="",
                prompt=text,
                negative_prompt="",
                style=style,
                seed=1000 * number + k,
                height=pocket.shipped_size(),
                width=pocket.shipped_size(),
                num_inference_steps=arguments["steps"],
                guidance_scale=arguments["guidance_scale"],
            )
            cases.append(Case(request, number, color, scene, style))
    return cases


def generate(
    generator: Any, cases: Sequence[Case], people: Sequence[JudgedPerson], batch_size: int
) -> tuple[list[Picture], float]:
    identities: dict[str, Identity] = {str(n): one.identity for n, one in enumerate(people)}
    pictures: list[Picture] = []
    begin = time.perf_counter()
    for start in range(0, len(cases), batch_size):
        part = [case.request for case in cases[start : start + batch_size]]
        pictures += [made.image for made in generator.generate(part, identities)]
    return pictures, (time.perf_counter() - begin) / len(cases)


def measure(
    pictures: Sequence[Picture],
    cases: Sequence[Case],
    people: Sequence[JudgedPerson],
    backend: FaceBackend,
    judge: FaceNet,
    scorer: PocketImageText,
) -> dict[str, NDArray]:
    """Per picture: face found, the detector's score, FaceNet's embedding (NaN without a face),
    cosine to every person, semantic scores and choices."""
    references = np.stack([one.reference for one in people])
    embedded = np.full((len(pictures), references.shape[1]), np.nan)
    detector = np.zeros(len(pictures))
    for row, picture in enumerate(pictures):
        with contextlib.suppress(FaceError):
            face = find_face(picture, backend)
            embedded[row], detector[row] = judge.embed([picture], [face])[0], face.det_score
    images = scorer.embed_images(pictures)
    texts = scorer.embed_texts([case.request.prompt for case in cases])
    styles = scorer.embed_texts([STYLES[case.style][0] for case in cases])
    return {
        **_identity(embedded @ references.T, [case.person for case in cases]),
        "detector": detector,
        "embedded": embedded,
        "text": (images * texts).sum(axis=1),
        "style": (images * styles).sum(axis=1),
        "color_choice": _choose(images, scorer, [f"a person wearing a {c} shirt" for c in COLORS]),
        "scene_choice": _choose(
            images, scorer, [f"a person {ways[0]}" for ways in SCENES.values()]
        ),
        "style_choice": _choose(images, scorer, [f"a person, {w[0]}" for w in STYLES.values()]),
        "color_rule": np.array([_cloth_color(picture) for picture in pictures]),
    }


def _identity(similarity: NDArray, right: Sequence[int]) -> dict[str, NDArray]:
    """Scores of cosines (N, P) to P people, of whom `right` (N,) were asked for; a picture without
    a face has a row of NaN, and NaN scores."""
    own = similarity[np.arange(len(right)), right]
    others = (similarity.sum(axis=1) - own) / (similarity.shape[1] - 1)
    return {
        "face": np.isfinite(own).astype(float),
        "similarity": similarity,
        "identity": own,
        "margin": own - others,
    }


def face_distance(made: NDArray, seen: NDArray) -> float:
    """The kernel distance of two sets of faces, 0 where they are alike.

    The kernel is (cosine + 1) ^ 3: `kernel_distance` divides by the width, of which unit rows have
    nothing left.

    Args:
        made, seen: FaceNet's embeddings of unit norm, (N, D) and (M, D); rows of NaN are left out.

    Returns:
        NaN where fewer than two faces were found.
    """
    made = made[np.isfinite(made).all(axis=1)]
    if len(made) < 2:
        return float("nan")
    width = np.sqrt(made.shape[1])
    return kernel_distance(seen * width, made * width)[0]


def _photos(
    table: Mapping[str, NDArray], cases: Sequence[Case], people: Sequence[JudgedPerson], name: str
) -> dict[str, float]:
    photo = np.array([case.style == "photo" for case in cases])
    seen = np.concatenate([one.faces for one in people])
    return {
        f"{name}/detector_score_photo": float(table["detector"][photo].mean()),
        f"{name}/kernel_distance": face_distance(table["embedded"][photo], seen),
    }


def _choose(images: NDArray, scorer: PocketImageText, texts: list[str]) -> NDArray[np.int64]:
    return (images @ scorer.embed_texts(texts).T).argmax(axis=1)


def _cloth_color(picture: Picture) -> int:
    """Number of the colour word nearest to the shoulders' median."""
    k = len(picture) / 64
    left, right = (picture[round(57 * k) :, round(a * k) : round(b * k)] for a, b in SHOULDERS)
    sides = np.concatenate([left.reshape(-1, 3), right.reshape(-1, 3)])
    seen = np.median(sides, axis=0)
    return int(np.argmin([np.linalg.norm(seen - np.array(rgb)) for rgb in COLORS.values()]))


def _absolute(
    table: Mapping[str, NDArray], cases: Sequence[Case], people: Sequence[JudgedPerson]
) -> dict[str, float]:
    person = np.array([case.person for case in cases])
    names = person.astype(str)
    photo = np.array([case.style == "photo" for case in cases])
    colored = np.array([case.style not in GRAY_STYLES for case in cases])
    similarity = table["similarity"]
    found = table["face"] > 0
    interval = summarise(table["margin"], names)
    first = np.where(found, np.nan_to_num(similarity, nan=-1).argmax(axis=1) == person, False)
    color = np.array([list(COLORS).index(case.color) for case in cases])
    scene = np.array([list(SCENES).index(case.scene) for case in cases])
    style = np.array([list(STYLES).index(case.style) for case in cases])
    return {
        "face_found_photo": float(table["face"][photo].mean()),
        "face_found_styled": float(table["face"][~photo].mean()),
        "identity_margin": interval.mean,
        "identity_margin_low": interval.low,
        "identity_margin_high": interval.high,
        "rank1": float(first.mean()),
        "rank1_over_chance": float(first.mean()) * len(people),
        "color_by_scorer": float((table["color_choice"] == color)[colored].mean()),
        "color_by_rule": float((table["color_rule"] == color)[photo].mean()),
        "scene_by_scorer": float((table["scene_choice"] == scene).mean()),
        "style_by_scorer": float((table["style_choice"] == style).mean()),
        "style_by_scorer_styled": float((table["style_choice"] == style)[~photo].mean()),
    }


def _directions(
    tables: Mapping[str, Mapping[str, NDArray]], cases: Sequence[Case]
) -> dict[str, float]:
    names = [str(case.person) for case in cases]
    figures: dict[str, float] = {}
    for begin, (reference, scores) in COMPARISONS.items():
        for score in scores if {"infinite_id", reference} <= set(tables) else ():
            own, other = tables["infinite_id"][score], tables[reference][score]
            found = paired_difference(own, other, names)
            figure = f"{begin}_{score}"
            figures |= {
                figure: found.mean,
                f"{figure}_low": found.low,
                f"{figure}_high": found.high,
            }
    return figures
