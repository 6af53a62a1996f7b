"""The pocket world: a synthetic person in named clothing, before a named scene, in a named style.

`compose` puts a head (hair included, feathered ellipse) on a neck and shoulders of a garment,
before a painted background, lights it and applies the style. What a caption says is thus true by
construction. Pictures are drawn at twice their size and scaled down; bodies and scenes are painted
on `CANVAS` px and brought to that size.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from infinite_id.pocket.weights import EDITIONS
from infinite_id.training.captions import COLORS, Description
from infinite_id.training.faces_gan import Portrait
from infinite_id.training.scenes import CANVAS, apply_light, paint_scene
from infinite_id.training.styles import apply_style

__all__ = ["Composition", "compose", "compose_far", "compose_pair"]

DRAWN = 2
"""Times the size of a picture at which it is drawn."""
FACE_WIDTH = (30.5 / 64, 33.5 / 64)
"""Width of the face box as a share of the picture's; recognition wants 28 px or more."""
EYE_DISTANCE = 0.215
"""Of the picture's width, where heads are level: near the face generator's own pixels at 96 px."""
PAIR_SCALE = 0.62
"""Of a person in a picture of two, to one alone."""
PAIR_CENTRES = (0.27, 0.73)
"""Of the two, as shares of the picture's width."""

Canvas = NDArray[np.float32]


class Composition(NamedTuple):
    """A picture and where its face is.

    Attributes:
        image: uint8 (S, S, 3) RGB.
        landmarks: float32 (5, 2), x y in pixels of `image`, in the order of `Detection`.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


class _Head(NamedTuple):
    """A face on the drawing.

    Attributes:
        image: (2 S, 2 S, 3) in [0, 255].
        mask: (2 S, 2 S, 1) in [0, 1].
        skin: (3,), RGB.
        landmarks: (5, 2), x y in pixels of the picture.
    """

    image: Canvas
    mask: Canvas
    skin: NDArray[np.float32]
    landmarks: NDArray[np.float32]


def compose(
    portrait: Portrait, description: Description, rng: np.random.Generator, size: int = 64
) -> Composition:
    """That face under that description.

    Args:
        portrait: whose face; mirrored in half of the calls would change the person, so it is not.
        description: every part is drawn; what a caption leaves out is there nevertheless.
        rng: of placement, shades and textures.
        size: of the picture in pixels, one of `EDITIONS`, which says how heads are placed.
    """
    canvas = apply_light(paint_scene(description.scene, rng), description.light, rng)
    place = _level_placement if EDITIONS[size].level_heads else _placement
    head = _head(portrait, *place(portrait, size, rng), size)
    canvas = _body(canvas, description, head.skin, rng)
    canvas = _enlarged(canvas, size)
    canvas = canvas * (1 - head.mask) + head.image * head.mask
    return Composition(_finished(canvas, description, size, rng), head.landmarks)


def compose_pair(
    portraits: tuple[Portrait, Portrait],
    descriptions: tuple[Description, Description],
    rng: np.random.Generator,
    size: int,
) -> Composition:
    """Two people side by side, each `PAIR_SCALE` as large as one alone; `landmarks` are the left's.

    Args:
        portraits: of the left and of the right person.
        descriptions: of their clothing; scene, light and style are those of the left.
        rng: of placement, shades and textures.
        size: of the picture in pixels, of an edition with level heads.
    """
    shared, drawn = descriptions[0], DRAWN * size
    canvas = apply_light(paint_scene(shared.scene, rng), shared.light, rng)
    canvas = _enlarged(canvas, size)
    placed: list[NDArray[np.float32]] = []
    for portrait, description, centre in zip(portraits, descriptions, PAIR_CENTRES, strict=True):
        head = _head(portrait, *_level_placement(portrait, size, rng), size)
        matrix = _smaller(PAIR_SCALE, centre, drawn)
        canvas = _stood(canvas, head, description, matrix, size, rng)
        placed.append(_moved(head.landmarks, matrix))
    return Composition(_finished(canvas, shared, size, rng), placed[0])


def compose_far(
    portrait: Portrait, description: Description, rng: np.random.Generator, size: int, scale: float
) -> tuple[Composition, NDArray[np.bool_]]:
    """One person farther away, `scale` times as large as `compose` makes them, and where the head
    is, (S, S).

    Args:
        portrait, description, rng, size: as of `compose`.
        scale: in (0, 1].
    """
    drawn = DRAWN * size
    canvas = apply_light(paint_scene(description.scene, rng), description.light, rng)
    place = _level_placement if EDITIONS[size].level_heads else _placement
    head = _head(portrait, *place(portrait, size, rng), size)
    matrix = _smaller(scale, 0.5, drawn)
    canvas = _stood(_enlarged(canvas, size), head, description, matrix, size, rng)
    mask = cv2.warpAffine(head.mask[..., 0], matrix, (drawn, drawn), flags=cv2.INTER_AREA)
    mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    picture = _finished(canvas, description, size, rng)
    return Composition(picture, _moved(head.landmarks, matrix)), np.asarray(mask > 0.05)


def _smaller(scale: float, centre: float, drawn: int) -> NDArray[np.float64]:
    """Drawing to a smaller one around `centre`, a share of its width; the bottom edge stays."""
    return np.array(
        [[scale, 0, (centre - scale / 2) * drawn], [0, scale, (1 - scale) * drawn]], np.float64
    )


def _stood(
    canvas: Canvas,
    head: _Head,
    description: Description,
    matrix: NDArray[np.float64],
    size: int,
    rng: np.random.Generator,
) -> Canvas:
    """The drawing with that person in it, moved by `matrix`."""
    drawn = DRAWN * size
    person, cover = (
        np.asarray(cv2.warpAffine(part, matrix, (drawn, drawn), flags=cv2.INTER_AREA), np.float32)
        for part in _cut_out(head, description, size, rng)
    )
    # Colours were multiplied by their cover, so that edges do not darken.
    return np.asarray(canvas * (1 - cover[..., None]) + person, np.float32)


def _moved(landmarks: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    centred = (landmarks + 0.5) * DRAWN * float(matrix[0, 0]) + matrix[:, 2]
    return (centred / DRAWN - 0.5).astype(np.float32)


def _finished(
    canvas: Canvas, description: Description, size: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    canvas = _grade(canvas, description.light)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    picture = np.clip(np.round(small), 0, 255).astype(np.uint8)
    return apply_style(picture, description.style, rng)


def _cut_out(
    head: _Head, description: Description, size: int, rng: np.random.Generator
) -> tuple[Canvas, Canvas]:
    """A person before nothing: colours times cover (2 S, 2 S, 3), cover (2 S, 2 S) in [0, 1]."""
    seed = int(rng.integers(2**31))
    black, white = (
        _body(
            np.full((CANVAS, CANVAS, 3), value, np.float32),
            description,
            head.skin,
            np.random.default_rng(seed),
        )
        for value in (0.0, 255.0)
    )
    # What shows through is background.
    cover = np.clip(1 - (white - black).mean(axis=2) / 255, 0, 1).astype(np.float32)
    body, cover = _enlarged(black, size), _enlarged(cover, size)
    mask = head.mask[..., 0]
    person = body * (1 - head.mask) + head.image * head.mask
    return person.astype(np.float32), np.clip(cover * (1 - mask) + mask, 0, 1)


def _enlarged(canvas: Canvas, size: int) -> Canvas:
    """What was painted on `CANVAS` px at the size of the drawing."""
    drawn = DRAWN * size
    if drawn == CANVAS:
        return canvas
    larger = cv2.resize(canvas.astype(np.float32), (drawn, drawn), interpolation=cv2.INTER_CUBIC)
    return np.asarray(larger, np.float32)


_Placement = tuple[NDArray[np.float64], tuple[int, int], tuple[int, int]]
"""Portrait to drawing (2, 3); centre and half axes of the head's ellipse, pixels of the drawing."""


def _placement(portrait: Portrait, size: int, rng: np.random.Generator) -> _Placement:
    """The face box at one width, its centre near one place."""
    k = DRAWN * size / CANVAS
    x0, y0, x1, y1 = portrait.detection.bbox
    scale = DRAWN * size * rng.uniform(*FACE_WIDTH) / (x1 - x0)
    target = np.array([64 + rng.uniform(-3, 3), 53 + rng.uniform(-2.5, 2.5)]) * k
    shift = target - scale * np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], dtype=np.float64)
    middle = (int(target[0]), int(target[1] - 0.045 * scale * (y1 - y0)))
    return matrix, middle, (int(0.60 * scale * (x1 - x0)), int(0.585 * scale * (y1 - y0)))


def _level_placement(portrait: Portrait, size: int, rng: np.random.Generator) -> _Placement:
    """The eyes level, at one distance, within a pixel of one place."""
    k = DRAWN * size / CANVAS
    left, right = portrait.detection.landmarks[:2]
    across = right - left
    scale = DRAWN * size * EYE_DISTANCE * rng.uniform(0.98, 1.02) / float(np.linalg.norm(across))
    angle = -np.arctan2(across[1], across[0])
    turn = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float64
    )
    target = np.array([64 + rng.uniform(-1, 1), 47 + rng.uniform(-1, 1)]) * k
    matrix = np.c_[turn, target - turn @ ((left + right) / 2)]
    return matrix, (int(target[0]), int(target[1] + 3 * k)), (int(36 * k), int(44.46 * k))


def _head(
    portrait: Portrait,
    matrix: NDArray[np.float64],
    middle: tuple[int, int],
    axes: tuple[int, int],
    size: int,
) -> _Head:
    drawn = DRAWN * size
    head = cv2.warpAffine(
        portrait.image,
        matrix,
        (drawn, drawn),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)
    mask = np.zeros((drawn, drawn), np.float32)
    cv2.ellipse(mask, middle, axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    feathered = cv2.GaussianBlur(mask, (0, 0), 2.2 if drawn == CANVAS else 1.76 * drawn / CANVAS)
    landmarks = portrait.detection.landmarks
    nose, mouth = landmarks[2], landmarks[3:].mean(axis=0)
    cheeks = portrait.image[int((nose[1] + mouth[1]) / 2), int(nose[0]) - 9 : int(nose[0]) + 10]
    skin = np.median(cheeks.reshape(-1, 3), axis=0).astype(np.float32)
    # Pixel centres: x of the drawing is (x + 1/2) / DRAWN - 1/2 of the picture.
    placed = (landmarks @ matrix[:, :2].T + matrix[:, 2] + 0.5) / DRAWN - 0.5
    return _Head(head, feathered[..., None].astype(np.float32), skin, placed.astype(np.float32))


def _cloth(color: str, rng: np.random.Generator) -> Canvas:
    """A canvas full of cloth of that colour, shaded towards the sides."""
    x = np.abs(np.linspace(-1, 1, CANVAS, dtype=np.float32))[None, :, None]
    if color == "colorful":
        names = rng.permutation(["red", "yellow", "green", "blue", "pink", "orange", "white"])
        cloth = np.zeros((CANVAS, CANVAS, 3), np.float32)
        width = int(rng.integers(9, 13))
        for k in range(CANVAS // width + 1):
            cloth[:, k * width : (k + 1) * width] = COLORS[str(names[k % len(names)])]
    else:
        shade = np.array(COLORS[color], np.float32) * rng.uniform(0.88, 1.06)
        cloth = np.broadcast_to(shade + rng.uniform(-9, 9, 3), (CANVAS, CANVAS, 3))
    return np.asarray(np.clip(cloth * (1.04 - 0.25 * x**2), 0, 255), np.float32)


def _filled(points: list[tuple[float, float]]) -> Canvas:
    mask = np.zeros((CANVAS, CANVAS), np.float32)
    cv2.fillPoly(mask, [np.round(np.array(points)).astype(np.int32)], 1.0, cv2.LINE_AA)
    return mask[..., None]


def _body(
    canvas: Canvas, description: Description, skin: NDArray[np.float32], rng: np.random.Generator
) -> Canvas:
    """Neck, shoulders and garment painted over the background."""
    cloth = _cloth(description.color, rng)
    neck = _filled([(50, 80), (78, 80), (80, 106), (48, 106)])
    canvas = canvas * (1 - neck) + neck * skin * 0.86
    top = 96 + rng.uniform(-2, 2)
    shoulders = _filled([(46, top), (82, top), (112, top + 9), (124, 128), (4, 128), (16, top + 9)])
    if description.garment == "dress":
        canvas = canvas * (1 - shoulders) + shoulders * skin
        gown = _filled(
            [(28, 128), (25, 118), (50, 120), (64, 123), (78, 120), (103, 118), (100, 128)]
        )
        for x, inner in ((27, 44), (101, 84)):
            strap = _filled(
                [
                    (x, 119),
                    (x + (inner - x) * 0.55, top + 2),
                    (inner, top + 3),
                    (x + (inner - x) * 0.6, 120),
                ]
            )
            gown = np.maximum(gown, strap)
        side = np.maximum(
            _filled([(14, 128), (24, 112), (50, 118), (50, 128)]),
            _filled([(114, 128), (104, 112), (78, 118), (78, 128)]),
        )
        gown = np.maximum(gown, side)
        return canvas * (1 - gown) + gown * cloth
    canvas = canvas * (1 - shoulders) + shoulders * cloth
    if description.garment == "shirt":
        opening = _filled([(52, top), (76, top), (64, top + 15)])
        canvas = canvas * (1 - opening) + opening * skin * 0.92
        for points in (
            [(50, top - 3), (64, top + 17), (50, top + 12)],
            [(78, top - 3), (64, top + 17), (78, top + 12)],
        ):
            collar = _filled([(float(x), float(y)) for x, y in points])
            canvas = canvas * (1 - collar) + collar * np.clip(cloth * 0.78 + 22, 0, 255)
        _line_down(canvas, cloth, top + 17)
    elif description.garment == "jacket":
        under = _filled([(52, top), (76, top), (70, 128), (58, 128)])
        undershirt = 70.0 if description.color == "white" else 238.0
        canvas = canvas * (1 - under) + under * undershirt
        for sign in (-1, 1):
            lapel = _filled(
                [
                    (64 + sign * 11, top - 2),
                    (64 + sign * 26, top + 4),
                    (64 + sign * 21, top + 17),
                    (64 + sign * 7, 128),
                ]
            )
            canvas = canvas * (1 - lapel) + lapel * cloth * 0.66
    else:
        collar = _filled([(49, top - 9), (79, top - 9), (82, top + 4), (46, top + 4)])
        canvas = canvas * (1 - collar) + collar * np.clip(cloth * 0.82 + 14, 0, 255)
        rows = (np.arange(CANVAS) % 6 < 2)[:, None, None] * shoulders
        canvas = canvas * (1 - 0.2 * rows)
    return canvas


def _line_down(canvas: Canvas, cloth: Canvas, top: float) -> None:
    canvas[int(top) :, 63:65] = cloth[int(top) :, 63:65] * 0.6


def _grade(canvas: Canvas, light: str | None) -> Canvas:
    """The light's tint over everything, weak enough to leave colours and faces recognisable."""
    gain = {
        "sunny": (1.06, 1.03, 0.96),
        "sunset": (1.06, 0.93, 0.86),
        "rain": (0.86, 0.9, 0.97),
        "fog": (0.97, 0.98, 1.0),
    }.get(light or "", (1.0, 1.0, 1.0))
    lift = 12.0 if light == "fog" else 0.0
    return np.clip(canvas * np.array(gain, np.float32) + lift, 0, 255).astype(np.float32)
