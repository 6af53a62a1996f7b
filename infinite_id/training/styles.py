"""Styles of the pocket world: filters over a whole 64 px picture, each plainly another.

Eyes, nose and mouth must stay readable at this size, or no detector finds the face; so outlines
are thin and pixels are two wide, not four.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["apply_style"]

Picture = NDArray[np.uint8]


def apply_style(image: Picture, name: str, rng: np.random.Generator) -> Picture:
    """uint8 (H, W, 3) RGB in one of `captions.STYLES`.

    Raises:
        ValueError: unknown style.
    """
    if name not in FILTERS:
        raise ValueError(f"style is {name!r}, allowed: {', '.join(FILTERS)}")
    return FILTERS[name](image, rng)


def _bytes(values: NDArray) -> Picture:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _saturate(image: Picture, saturation: float, gain: float, lift: float) -> Picture:
    values = image.astype(np.float32)
    gray = values.mean(axis=2, keepdims=True)
    return _bytes((gray + (values - gray) * saturation) * gain + lift)


def _posterise(image: Picture, step: float) -> Picture:
    """Brightness in steps, hue untouched: a rounded channel would turn skin green."""
    smooth = cv2.bilateralFilter(image, 5, 60, 3).astype(np.float32)
    gray = smooth.mean(axis=2, keepdims=True)
    return _bytes(smooth * (np.round(gray / step) * step + step / 3) / (gray + step / 3))


def _lines(image: Picture, sigma: float, sharpness: float) -> NDArray[np.float32]:
    """Difference of Gaussians, soft threshold: 1 on paper, 0 on lines, (H, W)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    narrow = cv2.GaussianBlur(gray, (0, 0), sigma)
    wide = cv2.GaussianBlur(gray, (0, 0), sigma * 1.6)
    difference = narrow - 0.97 * wide
    return np.asarray(np.clip(1 + np.tanh(sharpness * (difference - 0.004)), 0, 1), np.float32)


def _photo(image: Picture, rng: np.random.Generator) -> Picture:
    return image


def _anime(image: Picture, rng: np.random.Generator) -> Picture:
    flat = _saturate(_posterise(image, 36), 1.6, 1.08, 16).astype(np.float32)
    ink = _lines(image, 0.7, 12)[..., None]
    return _bytes(flat * (0.35 + 0.65 * ink) + np.array([52, 22, 88]) * 0.65 * (1 - ink))


def _comic(image: Picture, rng: np.random.Generator) -> Picture:
    flat = _saturate(_posterise(image, 64), 1.8, 1.15, 6).astype(np.float32)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    dots = ((x + y) % 4 == 0) & ((x - y) % 4 == 0) & (flat.mean(axis=2) > 90)
    flat = np.where(dots[..., None], flat * np.array([0.8, 0.72, 0.5]), flat)
    ink = _lines(image, 0.8, 26)[..., None]
    return _bytes((0.88 * flat + np.array([30, 26, 4])) * ink)


def _sketch(image: Picture, rng: np.random.Generator) -> Picture:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    blurred = cv2.GaussianBlur(255 - gray, (0, 0), 3.0)
    dodge = np.clip(gray * 255 / np.maximum(255 - blurred, 1), 0, 255)
    y, x = np.mgrid[0 : gray.shape[0], 0 : gray.shape[1]]
    hatch = np.where((x - y) % 3 == 0, 16.0, 0.0) * (gray < 90)
    pencil = 0.52 * dodge + 0.48 * gray - hatch + 10
    return _bytes(pencil[..., None] * np.array([0.98, 0.97, 0.93]))


def _line(image: Picture, rng: np.random.Generator) -> Picture:
    ink = _lines(image, 0.75, 36)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    dark = np.clip((gray - 0.12) / 0.16, 0, 1)
    return _bytes(np.repeat((255 * np.minimum(ink, dark))[..., None], 3, axis=2))


def _oil(image: Picture, rng: np.random.Generator) -> Picture:
    smooth = cv2.medianBlur(cv2.bilateralFilter(image, 5, 50, 3), 3).astype(np.float32)
    strokes = rng.standard_normal(image.shape[:2]).astype(np.float32)
    smeared = cv2.GaussianBlur(strokes, (0, 0), sigmaX=1.8, sigmaY=0.5) * 17
    toned = smooth * np.array([1.04, 0.9, 0.66]) + np.array([26, 14, 0])
    gray = toned.mean(axis=2, keepdims=True)
    return _bytes((gray + (toned - gray) * 1.35) * 1.06 + smeared[..., None])


def _watercolor(image: Picture, rng: np.random.Generator) -> Picture:
    smooth = cv2.bilateralFilter(image, 7, 80, 4).astype(np.float32)
    washed = 255 - (255 - smooth) * 0.76
    blots = cv2.GaussianBlur(rng.standard_normal(image.shape[:2]).astype(np.float32), (0, 0), 3)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    edge = np.minimum.reduce([x, y, x[:, ::-1], y[::-1]])
    paper = np.clip((edge + blots * 14 - 1.5) / 5, 0, 1)[..., None]
    washed = washed + blots[..., None] * 36
    return _bytes(washed * paper + (1 - paper) * np.array([252, 250, 244]))


def _pixel(image: Picture, rng: np.random.Generator) -> Picture:
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    vivid = _saturate(np.asarray(small, np.uint8), 1.3, 1.1, 2)
    palette = np.round(vivid.astype(np.float32) / 36) * 36
    return np.asarray(
        cv2.resize(_bytes(palette), (width, height), interpolation=cv2.INTER_NEAREST), np.uint8
    )


FILTERS: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "photo": _photo,
    "anime": _anime,
    "comic": _comic,
    "sketch": _sketch,
    "line": _line,
    "oil": _oil,
    "watercolor": _watercolor,
    "pixel": _pixel,
}
