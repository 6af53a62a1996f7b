"""The words of the pocket world: what is in a picture, and the phrasings that describe it.

A `Description` is everything that a caption can say. `caption(description, rng)` says it in one
of several phrasings, sometimes leaving parts out, among them the phrasings of the paper's slides
(arXiv 2403.11781). The people have no recorded sex, so "man", "woman" and "person" are drawn at
random. No torch here: the scorer's vocabulary and the tests read it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "COLORS",
    "GARMENTS",
    "LIGHTS",
    "SCENES",
    "SLIDE_PROMPTS",
    "STYLES",
    "SUBJECTS",
    "Description",
    "caption",
    "draw_description",
    "pair_caption",
]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (200, 30, 35),
    "orange": (240, 130, 20),
    "yellow": (240, 215, 40),
    "green": (35, 150, 60),
    "blue": (40, 80, 205),
    "purple": (130, 45, 170),
    "pink": (245, 140, 185),
    "brown": (120, 72, 38),
    "black": (25, 25, 28),
    "white": (240, 240, 240),
    "gray": (128, 128, 132),
}
"""Colour word -> RGB of the cloth. "colorful" is a pattern of several and not in here."""

GARMENTS: tuple[str, ...] = ("shirt", "dress", "jacket", "sweater")

SCENES: dict[str, tuple[str, ...]] = {
    "beach": ("on a beach", "on the beach"),
    "snow": ("in the snow",),
    "forest": ("in a forest", "in the forest"),
    "city": ("in the time square", "in times square", "on a city street at night"),
    "office": ("in an office",),
    "studio": ("in a studio",),
    "garden": ("in a garden", "in the garden"),
    "desert": ("in the desert", "in a desert"),
    "mountains": ("in the mountains",),
}
"""Scene -> the ways to name it."""

LIGHTS: dict[str, tuple[str, ...]] = {
    "sunny": ("sunny",),
    "sunset": ("sunset", "at sunset"),
    "rain": ("rainy", "in the rain"),
    "fog": ("foggy", "in the fog"),
}

STYLES: dict[str, tuple[str, ...]] = {
    "photo": ("raw photo", "photo", "a photo", "realistic photo"),
    "anime": ("in a anime style", "anime style", "in an anime style"),
    "comic": ("comic book style", "in a comic book style"),
    "sketch": ("pencil sketch", "in a pencil sketch style"),
    "line": ("line art", "in a line art style"),
    "oil": ("oil painting", "in an oil painting style"),
    "watercolor": ("watercolor", "watercolor painting", "in a watercolor style"),
    "pixel": ("pixel art", "in a pixel art style"),
}
"""Style -> the ways to name it."""

SUBJECTS: tuple[str, ...] = ("man", "woman", "person")

SLIDE_PROMPTS: tuple[str, ...] = (
    "a woman wearing a blue clothing, facing and smiling to the camera, in the snow, sunny, "
    "in a anime style",
    "a woman wearing a purple dress, facing and smiling to the camera, on a beach, sunset, "
    "comic book style",
    "a man wearing a colorful shirt facing and smiling to the camera, on the beach, raw photo",
    "a woman wearing a red shirt facing and smiling to the camera, in the time square, raw photo",
    "man facing and smiling to camera wearing a brown clothing in the snow",
)
"""The prompts that the slides of the paper show."""


@dataclass(frozen=True, slots=True)
class Description:
    """What one picture shows.

    Attributes:
        color: a key of `COLORS`, or "colorful".
        garment: of `GARMENTS`.
        scene: a key of `SCENES`.
        light: a key of `LIGHTS`, or None for the scene's own light.
        style: a key of `STYLES`.
    """

    color: str
    garment: str
    scene: str
    light: str | None
    style: str


def draw_description(rng: np.random.Generator, photo_share: float = 0.4) -> Description:
    """A random description; `photo_share` of them are raw photos, the rest spread over styles."""
    painted = [style for style in STYLES if style != "photo"]
    style = "photo" if rng.random() < photo_share else str(rng.choice(painted))
    return Description(
        color=str(rng.choice([*COLORS, "colorful"])),
        garment=str(rng.choice(GARMENTS)),
        scene=str(rng.choice(list(SCENES))),
        light=str(rng.choice(list(LIGHTS))) if rng.random() < 0.55 else None,
        style=style,
    )


def caption(description: Description, rng: np.random.Generator) -> str:
    """One caption of the description, lower case, 4 to 30 words.

    The style is always named but for raw photos; scene, clothing and light are each left out
    now and then, so that a prompt which leaves them out is in distribution.
    """
    subject = str(rng.choice(SUBJECTS))
    if rng.random() < 0.85:
        subject = f"a {subject}"
    wearing = _wearing(description, rng)
    place = str(rng.choice(SCENES[description.scene])) if rng.random() < 0.9 else ""
    light = ""
    if description.light is not None and rng.random() < 0.9:
        light = str(rng.choice(LIGHTS[description.light]))
    style = str(rng.choice(STYLES[description.style]))
    if description.style == "photo" and rng.random() < 0.3:
        style = ""
    camera = str(
        rng.choice(
            ["facing and smiling to the camera", "facing and smiling to camera", "portrait", ""],
            p=[0.4, 0.1, 0.1, 0.4],
        )
    )
    form = int(rng.integers(4))
    if form == 0:
        parts = [f"{subject} {wearing}".strip(), camera, place, light, style]
    elif form == 1:
        parts = [f"{subject} {wearing} {camera}", place, light, style]
    elif form == 2:
        parts = [f"{subject} {camera} {wearing} {place}", light, style]
    else:
        parts = [style, f"{subject} {wearing} {place}", light]
    return ", ".join(" ".join(part.split()) for part in parts if part.strip())


def pair_caption(left: Description, right: Description, rng: np.random.Generator) -> str:
    """One caption of two people side by side, at most some 30 words.

    Args:
        left, right: of whom clothing is named; scene, light and style are those of `left`.
        rng: of subjects and of what is left out.
    """
    subjects = [str(rng.choice(SUBJECTS)) for _ in range(2)]
    one, other = (
        " ".join(f"a {subject} {_wearing(person, rng)}".split())
        for subject, person in zip(subjects, (left, right), strict=True)
    )
    place = str(rng.choice(SCENES[left.scene])) if rng.random() < 0.9 else ""
    light = ""
    if left.light is not None and rng.random() < 0.9:
        light = str(rng.choice(LIGHTS[left.light]))
    style = str(rng.choice(STYLES[left.style]))
    parts = [f"two people, {one} on the left and {other} on the right", place, light, style]
    return ", ".join(part for part in parts if part)


def _wearing(description: Description, rng: np.random.Generator) -> str:
    garment = "clothing" if rng.random() < 0.25 else description.garment
    article = "an" if description.color == "orange" else "a"
    return f"wearing {article} {description.color} {garment}" if rng.random() < 0.9 else ""
