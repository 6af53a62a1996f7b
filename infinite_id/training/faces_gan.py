"""Synthetic people: faces that belong to nobody, several pictures of each (issue: pocket world).

The generator is the DCGAN `G: R^100 -> 3 x 64 x 64` of the package gan-face-generate, trained by
its author on the synthetic DigiFace-1M. A PERSON is a latent centre z ~ N(0, I); pictures of that
person are latent neighbours `z' = sqrt(1 - e^2) z + e n`, n ~ N(0, I), e in [0.3, 0.5], which
differ in light, expression, hair and background. Every picture is checked: one face, detected
with certainty, eyes well apart, and SFace must know it for the centre's person. FaceNet, the
judge of the evaluation, selects nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from infinite_id.faces.detection import Detection, FaceBackend, align_face
from infinite_id.packages import PackageFile, package_file

__all__ = [
    "GAN_WEIGHTS",
    "FaceGenerator",
    "Person",
    "Portrait",
    "draw_people",
    "is_frontal",
    "latent_neighbours",
    "load_face_generator",
]

GAN_WEIGHTS = PackageFile(
    distribution="gan-face-generate",
    version="1.1.1",
    path="gan_face_generate/weights.tar",
    sha256="0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f",
    licence="MIT (code); trained on DigiFace-1M: non-commercial research",
)
LATENT_WIDTH = 100
_LEAST_SCORE = 0.8  # of the detector
# SFace cosine of a picture to the centre's picture; 99.9 % of pairs of different people lie below
# 0.52.
_LEAST_SIMILARITY = 0.5
FACE_SIZE = 64
# YuNet misses faces that fill a 64 px picture; four times as large it finds 85 % of them.
DETECTION_SIZE = 192


class FaceGenerator(nn.Module):
    """The DCGAN generator: five transposed convolutions, 1 -> 4 -> 8 -> 16 -> 32 -> 64 px."""

    def __init__(self) -> None:
        super().__init__()
        widths = (LATENT_WIDTH, 512, 256, 128, 64)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            stride, padding = (1, 0) if i == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, 64, 64) in [-1, 1] of latents (B, 100)."""
        return self.main(z[:, :, None, None])

    @torch.no_grad()
    def render(self, z: NDArray[np.float32]) -> NDArray[np.uint8]:
        """uint8 (B, 64, 64, 3) RGB of latents float32 (B, 100)."""
        pictures = self(torch.from_numpy(z)).permute(0, 2, 3, 1)
        return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


@dataclass(frozen=True, slots=True)
class Portrait:
    """One accepted picture of a person.

    Attributes:
        image: uint8 (64, 64, 3) RGB.
        detection: the face, in pixels of `image`.
        aligned: uint8 (112, 112, 3) RGB.
        face: float32 (128,), SFace embedding, unit norm.
    """

    image: NDArray[np.uint8]
    detection: Detection
    aligned: NDArray[np.uint8]
    face: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Person:
    """A synthetic person: `index` names it for ever, whatever else is drawn."""

    index: int
    portraits: tuple[Portrait, ...]


def load_face_generator() -> FaceGenerator:
    """The generator with the package's weights, on the CPU, in eval mode.

    Raises:
        PackageFileError: gan-face-generate is not installed, or its file is another one.
    """
    state = torch.load(package_file(GAN_WEIGHTS), map_location="cpu", weights_only=True)
    generator = FaceGenerator()
    generator.load_state_dict(state["netG_state_dict"])
    return generator.eval()


def latent_neighbours(
    centre: NDArray[np.float32], count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """float32 (count, 100): `sqrt(1 - e^2) z + e n`, e uniform in 0.3 to 0.5."""
    e = rng.uniform(0.3, 0.5, size=(count, 1))
    noise = rng.standard_normal((count, LATENT_WIDTH))
    return (np.sqrt(1 - e**2) * centre + e * noise).astype(np.float32)


def draw_people(
    indices: Iterable[int],
    portraits: int,
    generator: FaceGenerator,
    backend: FaceBackend,
    *,
    frontal: bool = False,
) -> Iterator[Person]:
    """The people of those indices that have enough accepted pictures; others are left out.

    Each person depends on its index alone, so any range can be drawn anywhere and again.

    Args:
        indices: >= 0; disjoint ranges are disjoint people.
        portraits: accepted pictures a person.
        generator: from `load_face_generator`.
        backend: the face networks that check.
        frontal: only pictures that `is_frontal` accepts; up to three times as many are drawn.
    """
    for index in indices:
        rng = np.random.default_rng((7, index))
        centre = rng.standard_normal(LATENT_WIDTH).astype(np.float32)
        reference = accept(generator.render(centre[None])[0], backend)
        if reference is None:
            continue
        kept: list[Portrait] = []
        for _ in range(3 if frontal else 1):
            for image in generator.render(latent_neighbours(centre, 2 * portraits + 2, rng)):
                portrait = accept(image, backend, frontal=frontal)
                if (
                    portrait is not None
                    and float(portrait.face @ reference.face) >= _LEAST_SIMILARITY
                ):
                    kept.append(portrait)
                if len(kept) == portraits:
                    break
            # A person who looks aside does so in nearly every picture.
            if len(kept) in (0, portraits):
                break
        if len(kept) == portraits:
            yield Person(index, tuple(kept))


def accept(
    image: NDArray[np.uint8],
    backend: FaceBackend,
    *,
    frontal: bool = False,
) -> Portrait | None:
    """The portrait, or None unless exactly one clear face with open distance of the eyes is seen.

    Eyes nearer than a third of the face box belong to profiles and to faces that fell apart.

    Args:
        image: uint8 (64, 64, 3) RGB.
        backend: the face networks that check.
        frontal: faces that `is_frontal` does not accept are none.
    """
    factor = DETECTION_SIZE / FACE_SIZE
    scaled = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    found = backend.detect(np.asarray(scaled, dtype=np.uint8))
    if len(found) != 1 or found[0].det_score < _LEAST_SCORE:
        return None
    face = found[0].scaled(1 / factor)
    eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    if eyes < (face.bbox[2] - face.bbox[0]) / 3:
        return None
    if frontal and not is_frontal(image, face.landmarks):
        return None
    aligned = align_face(image, face.landmarks)
    return Portrait(image, face, aligned, backend.embed(aligned[None])[0])


def is_frontal(image: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> bool:
    """Whether the face looks at the camera, upright and in enough light.

    The nose lies within 0.13 eye distances of the line from the middle of the eyes to that of the
    mouth, which is 0.8 to 1.45 eye distances long; the eyes lie level within 17 degrees; the mean
    of the face is above 70 of 255. 27 % of the generator's accepted faces are so.

    Args:
        image: uint8 (H, W, 3) RGB.
        landmarks: (5, 2), x y in its pixels, in the order of `Detection`.
    """
    eyes = landmarks[1] - landmarks[0]
    distance = float(np.linalg.norm(eyes))
    middle, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    axis, nose = mouth - middle, landmarks[2] - middle
    length = float(np.linalg.norm(axis))
    off = abs(float(axis[0] * nose[1] - axis[1] * nose[0])) / max(length, 1e-6)
    x0, y0 = np.maximum(landmarks.min(axis=0).astype(int) - 2, 0)
    x1, y1 = landmarks.max(axis=0).astype(int) + 3
    return bool(
        off < 0.13 * distance
        and 0.8 < length / distance < 1.45
        and abs(eyes[1]) < 0.3 * max(eyes[0], 1.0)
        and float(image[y0:y1, x0:x1].mean()) > 70
    )
