"""Painted backgrounds of the pocket world: nine scenes and four lights, none like another.

Each painter fills a canvas of `CANVAS` px (twice the final size, so that edges come out smooth
when it is scaled down) from a random generator; `paint_scene` picks by name. The middle is hidden
by the head, so what identifies a scene lies at the sides and at the top.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CANVAS", "apply_light", "paint_scene"]

CANVAS = 128

Canvas = NDArray[np.float32]
Color = tuple[float, float, float]


def paint_scene(name: str, rng: np.random.Generator) -> Canvas:
    """float32 (128, 128, 3) RGB in [0, 255] of one of `captions.SCENES`.

    Raises:
        ValueError: unknown scene.
    """
    if name not in PAINTERS:
        raise ValueError(f"scene is {name!r}, allowed: {', '.join(PAINTERS)}")
    canvas = PAINTERS[name](rng)
    return cv2.flip(canvas, 1).astype(np.float32) if rng.random() < 0.5 else canvas


def apply_light(canvas: Canvas, light: str | None, rng: np.random.Generator) -> Canvas:
    """The background in the light of one of `captions.LIGHTS`; None leaves it alone."""
    rows = np.linspace(0, 1, CANVAS, dtype=np.float32)[:, None, None]
    if light == "sunny":
        lit = canvas * 1.12 + np.array([14, 12, 0], np.float32)
        centre = (int(rng.choice([14, 112])), int(rng.integers(10, 18)))
        glow = _disc_glow(centre, 22)
        return np.clip(lit * (1 - glow) + glow * np.array([255, 246, 170], np.float32), 0, 255)
    if light == "sunset":
        sky = np.array([255, 120, 50], np.float32) * (1 - rows) + rows * np.array(
            [255, 150, 110], np.float32
        )
        lit = canvas * np.array([0.95, 0.68, 0.62], np.float32)
        strength = np.clip(0.72 - 0.95 * rows, 0.06, 0.62)
        lit = lit * (1 - strength) + sky * strength
        glow = _disc_glow((int(rng.choice([16, 110])), int(rng.integers(38, 52))), 15)
        return np.clip(lit * (1 - glow) + glow * np.array([255, 225, 90], np.float32), 0, 255)
    if light == "rain":
        gray = canvas.mean(axis=2, keepdims=True)
        lit = (0.35 * canvas + 0.65 * gray) * np.array([0.62, 0.7, 0.84], np.float32)
        for _ in range(42):
            x, y = (int(v) for v in rng.integers(0, CANVAS, 2))
            cv2.line(lit, (x, y), (x - 5, y + 16), (196, 208, 226), 1, cv2.LINE_AA)
        return np.clip(lit, 0, 255)
    if light == "fog":
        strength = np.clip(0.78 - 0.25 * rows, 0, 1)
        return canvas * (1 - strength) + strength * np.array([214, 218, 222], np.float32)
    return canvas


def _gradient(top: Color, bottom: Color, rng: np.random.Generator, jitter: float = 12) -> Canvas:
    rows = np.linspace(0, 1, CANVAS, dtype=np.float32)[:, None, None]
    shift = rng.uniform(-jitter, jitter, 3).astype(np.float32)
    column = np.array(top, np.float32) * (1 - rows) + np.array(bottom, np.float32) * rows + shift
    return np.ascontiguousarray(np.broadcast_to(np.clip(column, 0, 255), (CANVAS, CANVAS, 3)))


def _disc_glow(centre: tuple[int, int], radius: int) -> Canvas:
    disc = np.zeros((CANVAS, CANVAS), np.float32)
    cv2.circle(disc, centre, radius * 2 // 3, 1.0, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(disc, (0, 0), radius / 5).astype(np.float32)[..., None]


def _rect(canvas: Canvas, x: float, y: float, w: float, h: float, color: Color) -> None:
    cv2.rectangle(canvas, (int(x), int(y)), (int(x + w), int(y + h)), color, -1)


def _polygon(canvas: Canvas, points: list[tuple[float, float]], color: Color) -> None:
    corners = np.round(np.array(points)).astype(np.int32)
    cv2.fillPoly(canvas, [corners], color, cv2.LINE_AA)


def _beach(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((70, 160, 235), (190, 225, 250), rng)
    horizon = int(rng.integers(50, 60))
    _rect(canvas, 0, horizon, CANVAS, 22, (25, 110, 170))
    for y in (horizon + 7, horizon + 15):
        _rect(canvas, 0, y, CANVAS, 1, (150, 215, 230))
    _rect(canvas, 0, horizon + 21, CANVAS, CANVAS, (236, 208, 150))
    if rng.random() < 0.6:
        x = float(rng.integers(6, 18))
        _polygon(canvas, [(x, 100), (x + 5, 100), (x + 12, 30), (x + 8, 30)], (110, 75, 40))
        for angle in np.linspace(-2.9, 0.2, 6):
            tip = (x + 10 + 24 * np.cos(angle), 32 + 17 * np.sin(angle) + 6)
            cv2.line(canvas, (int(x + 10), 31), (int(tip[0]), int(tip[1])), (40, 130, 50), 4)
    return canvas


def _snow(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((178, 200, 224), (226, 236, 246), rng, 6)
    _rect(canvas, 0, int(rng.integers(76, 86)), CANVAS, CANVAS, (248, 250, 255))
    for x in (float(rng.integers(4, 20)), float(rng.integers(104, 124))):
        for k in range(3):
            top, half = 22 + 20 * k, 12 + 5 * k
            _polygon(canvas, [(x, top), (x - half, top + 26), (x + half, top + 26)], (40, 82, 68))
            _polygon(
                canvas, [(x, top), (x - half / 2, top + 12), (x + half / 2, top + 12)], (240,) * 3
            )
    for _ in range(60):
        x, y = (int(v) for v in rng.integers(0, CANVAS, 2))
        cv2.circle(canvas, (x, y), int(rng.integers(1, 3)), (255, 255, 255), -1, cv2.LINE_AA)
    return canvas


def _forest(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((38, 88, 34), (22, 52, 24), rng, 8)
    for _ in range(110):
        x, y = (int(v) for v in rng.integers(0, CANVAS, 2))
        color = (int(rng.integers(20, 70)), int(rng.integers(80, 150)), int(rng.integers(20, 50)))
        cv2.circle(canvas, (x, y), int(rng.integers(3, 8)), color, -1, cv2.LINE_AA)
    for left, right in ((2, 12), (20, 30), (98, 106), (115, 118)):
        _rect(
            canvas,
            int(rng.integers(left, right)),
            0,
            float(rng.integers(5, 9)),
            CANVAS,
            (74, 48, 28),
        )
    return canvas


def _city(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((12, 14, 40), (42, 34, 62), rng, 5)
    for x in (0, 22, 84, 106):
        top = int(rng.integers(4, 34))
        _rect(canvas, x, top, 20, CANVAS, (24, 26, 46))
        for row in range(top + 4, CANVAS, 8):
            for column in range(x + 3, x + 19, 6):
                if rng.random() < 0.5:
                    _rect(canvas, column, row, 2, 3, (255, 214, 110))
    neon = [(255, 40, 90), (30, 220, 255), (255, 225, 40), (70, 255, 120), (190, 70, 255)]
    for x, y in ((0, 24), (106, 18), (4, 62), (100, 58)):
        color = neon[int(rng.integers(len(neon)))]
        _rect(canvas, x, y + int(rng.integers(-6, 7)), 22, 26, color)
        _rect(canvas, x + 4, y + 8, 12, 5, (255, 255, 255))
    return canvas


def _office(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((222, 214, 198), (206, 196, 178), rng, 6)
    _rect(canvas, 4, 12, 34, 50, (120, 130, 140))
    for y in range(15, 60, 6):
        _rect(canvas, 7, y, 28, 3, (214, 232, 244))
    _rect(canvas, 92, 8, 34, 4, (110, 78, 50))
    for y in (34, 62):
        _rect(canvas, 92, y, 34, 4, (110, 78, 50))
        for x in range(93, 124, 5):
            color = tuple(float(v) for v in rng.integers(40, 190, 3))
            _rect(canvas, x, y - 17, 3, 16, (color[0], color[1], color[2]))
    _rect(canvas, 0, 92, CANVAS, CANVAS, (134, 96, 62))
    return canvas


def _studio(rng: np.random.Generator) -> Canvas:
    hue = rng.uniform(-10, 10, 3).astype(np.float32)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / CANVAS - 0.5
    light = np.exp(-((x**2 + (y + 0.05) ** 2) / 0.16))[..., None]
    base = np.array([70, 78, 92], np.float32) + hue
    return np.asarray(base * (1 - light) + light * (base + 105), np.float32)


def _garden(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((150, 205, 240), (200, 230, 240), rng)
    _rect(canvas, 0, int(rng.integers(26, 36)), CANVAS, CANVAS, (88, 170, 62))
    for _ in range(60):
        x, y = int(rng.integers(0, CANVAS)), int(rng.integers(34, CANVAS))
        color = (int(rng.integers(70, 120)), int(rng.integers(150, 205)), 60)
        cv2.circle(canvas, (x, y), 5, color, -1, cv2.LINE_AA)
    petals = [(250, 70, 90), (255, 220, 60), (250, 120, 210), (255, 255, 255)]
    for _ in range(34):
        x, y = int(rng.integers(0, CANVAS)), int(rng.integers(40, 118))
        cv2.circle(canvas, (x, y), 4, petals[int(rng.integers(4))], -1, cv2.LINE_AA)
    return canvas


def _desert(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((120, 185, 230), (245, 225, 170), rng)
    top = float(rng.integers(52, 64))
    _polygon(
        canvas, [(0, top), (44, top + 18), (128, top - 8), (128, 128), (0, 128)], (226, 150, 70)
    )
    _polygon(
        canvas,
        [(0, top + 34), (80, top + 20), (128, top + 34), (128, 128), (0, 128)],
        (198, 118, 48),
    )
    x = float(rng.integers(8, 16))
    for box in (
        (x, 42, 7, 52),
        (x - 8, 54, 4, 18),
        (x - 8, 68, 10, 4),
        (x + 12, 48, 4, 20),
        (x + 5, 64, 10, 4),
    ):
        _rect(canvas, *box, (44, 112, 58))
    return canvas


def _mountains(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((90, 150, 225), (205, 225, 245), rng)
    for x, top in ((18.0, 30.0), (64.0, 12.0), (108.0, 24.0)):
        x += float(rng.integers(-6, 7))
        top += float(rng.integers(-6, 7))
        _polygon(canvas, [(x, top), (x - 44, 92), (x + 44, 92)], (98, 100, 116))
        _polygon(
            canvas,
            [
                (x, top),
                (x - 14, top + 20),
                (x - 4, top + 15),
                (x + 5, top + 22),
                (x + 14, top + 20),
            ],
            (246, 248, 252),
        )
    _rect(canvas, 0, 88, CANVAS, CANVAS, (74, 112, 70))
    return canvas


PAINTERS: dict[str, Callable[[np.random.Generator], Canvas]] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "city": _city,
    "office": _office,
    "studio": _studio,
    "garden": _garden,
    "desert": _desert,
    "mountains": _mountains,
}
