"""What a scenario makes of its prompts: the same text in several poses, or in several pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from eval.pose import turned_landmarks
from infinite_id.faces.detection import Detection, FaceError, find_faces
from infinite_id.faces.loading import embedded_faces
from infinite_id.faces.photos import decode_photo
from pipelines.settings import BenchmarkConfig
from pipelines.tables.addresses import read_uri
from pipelines.tables.storage import Store

__all__ = ["posed_prompts", "scene_prompts"]

_EYES_APART = 0.22
"""Of a picture's shorter side, of a head that looks at the viewer."""
_EYES = (0.5, 0.42)
"""Their middle, in fractions of the picture."""
_EYES_MM = 63.0
_HEAD = (0.75, 0.8)
"""Half axes of the head's ellipse, in widths and heights of the face's box; hair reaches higher."""


def posed_prompts(
    prompts: Sequence[Mapping[str, Any]],
    poses: Sequence[Sequence[float]],
    config: BenchmarkConfig,
) -> list[dict[str, Any]]:
    """Each prompt in each pose, as keypoints in InstantID's order.

    Args:
        prompts: rows of the manifest.
        poses: yaw, pitch and roll in degrees (`eval.pose`).
        config: of the run.

    Raises:
        ValueError: the run has no ControlNet.
    """
    if config.controlnet is None:
        raise ValueError(
            "controlnet is None, allowed with a scenario of poses: --set controlnet=ADDRESS, a "
            "folder or a hub id"
        )
    family = config.family()
    size = np.array([family.width, family.height])
    scale = _EYES_APART / _EYES_MM * size.min() / size
    rows = []
    for prompt in prompts:
        for yaw, pitch, roll in poses:
            points = turned_landmarks(yaw, pitch, roll) * scale + _EYES
            name = f"{prompt['prompt_id']}_{yaw:+.0f}_{pitch:+.0f}_{roll:+.0f}"
            rows.append({**prompt, "prompt_id": name, "control_keypoints": points.tolist()})
    return rows


def scene_prompts(
    prompts: Sequence[Mapping[str, Any]],
    scenes: pa.Table,
    strengths: Sequence[float],
    config: BenchmarkConfig,
    inputs: Store,
) -> list[dict[str, Any]]:
    """Each prompt in the photo of each of some people, whose heads are made anew.

    Args:
        prompts: rows of the manifest.
        scenes: people, schema IDENTITIES; their first photos are the pictures.
        strengths: of the inpainting.
        config: of the run.
        inputs: beside its folder; the pictures and their masks are written there.

    Raises:
        ValueError: no face is found in a photo.
    """
    family = config.family()
    made = []
    for number, person in enumerate(scenes.to_pylist()):
        photo = person["photos"][0]
        data = photo["bytes"] or read_uri(photo["uri"], config.storage_options)
        picture = _cropped(decode_photo(data), family.height, family.width)
        try:
            face = find_faces(np.asarray(picture), embedded_faces(), select="largest")[0][0]
        except FaceError as error:
            raise ValueError(
                f"identity {person['identity_id']!r} gives no scene: {error}, allowed: a photo "
                "with a face"
            ) from None
        names = f"scene-{number}.png", f"scene-{number}-mask.png"
        for name, image in zip(names, (picture, _head(picture, face)), strict=True):
            stream = io.BytesIO()
            image.save(stream, "PNG")
            inputs.write_bytes(name, stream.getvalue())
        made += [
            {
                **prompt,
                "prompt_id": f"{prompt['prompt_id']}_{number}_{strength:g}",
                "image": names[0],
                "mask_image": names[1],
                "strength": strength,
            }
            for prompt in prompts
            for strength in strengths
        ]
    return made


def _cropped(photo: np.ndarray, height: int, width: int) -> Image.Image:
    """The middle of the photo in these proportions."""
    image = Image.fromarray(photo)
    factor = min(image.width / width, image.height / height)
    wide, high = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))


def _head(picture: Image.Image, face: Detection) -> Image.Image:
    """White where the head is."""
    x0, y0, x1, y1 = (float(side) for side in face.bbox)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2 - 0.08 * (y1 - y0)
    across, along = _HEAD[0] * (x1 - x0), _HEAD[1] * (y1 - y0)
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((x - across, y - along, x + across, y + along), fill=255)
    return mask
