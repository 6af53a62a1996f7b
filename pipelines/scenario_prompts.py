"""What a scenario makes of its prompts: the same text in several poses, or in several pictures."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from eval.places import shown
from eval.pose import turned_landmarks
from infinite_id.faces.detection import Detection
from infinite_id.faces.loading import embedded_faces
from infinite_id.faces.photo_faces import photo_faces
from infinite_id.faces.photos import PhotoLimits, decode_photo
from infinite_id.faces.upright import stand_upright
from pipelines.settings import BenchmarkConfig
from pipelines.tables.addresses import read_uri
from pipelines.tables.storage import Store

__all__ = ["Scene", "check_free", "posed_prompts", "scene_prompts", "scenes_of"]

logger = logging.getLogger(__name__)

_EYES_APART = 0.22
"""Of a picture's shorter side, of a head that looks at the viewer."""
_EYES = (0.5, 0.42)
"""Their middle, in fractions of the picture."""
_EYES_MM = 63.0
_HEAD = (0.75, 0.8)
"""Half axes of the head's ellipse, in widths and heights of the face's box; hair reaches higher."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A photo whose head is made anew.

    Attributes:
        person: row of IDENTITIES, whose first photo it is.
        picture: RGB, in the proportions of the run's pictures.
        mask: L, as large, white where the head is.
    """

    person: Mapping[str, Any]
    picture: Image.Image
    mask: Image.Image

    @staticmethod
    def name(number: int) -> str:
        """Of the file of the scene of that number."""
        return f"scene-{number}.png"


def check_free(prompts: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Raises a ValueError that names the first prompt with one of these columns, which the scenario
    gives its prompts itself."""
    for prompt in prompts:
        for name in columns:
            if prompt.get(name) is not None:
                given = shown(repr(prompt[name]))
                raise ValueError(
                    f"prompt {prompt['prompt_id']!r} has {name} {given}, allowed in this scenario: "
                    "none, for it gives each prompt its own"
                )


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
        ValueError: a prompt is held to something of its own.
    """
    check_free(prompts, ("control_image", "control_keypoints"))
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


def scenes_of(
    people: pa.Table, count: int, config: BenchmarkConfig
) -> tuple[list[Scene], pa.Table, str]:
    """The scenes of the last people whose first photo shows a face, and the other people.

    A photo that is no scene is told in a line, and the person before gives one.

    Args:
        people: schema IDENTITIES.
        count: of scenes wanted.
        config: of the run.

    Returns:
        Up to `count` scenes, in the people's order, one person at least being left; the others; why
        the last photo was passed over, else an empty sentence. Nothing is looked at where there are
        too few people.
    """
    if people.num_rows <= count:
        return [], people, ""
    rows = people.to_pylist()
    found: dict[int, Scene] = {}
    reason = ""
    for number in reversed(range(len(rows))):
        if len(found) in (count, len(rows) - 1):
            break
        try:
            found[number] = _scene(rows[number], config)
        except ValueError as error:
            reason = f"identity {rows[number]['identity_id']!r} gives no scene: {error}"
            logger.warning("%s", reason)
    left = [number for number in range(len(rows)) if number not in found]
    return [found[number] for number in sorted(found)], people.take(left), reason


def scene_prompts(
    prompts: Sequence[Mapping[str, Any]],
    scenes: Sequence[Scene],
    strengths: Sequence[float],
    inputs: Store,
) -> list[dict[str, Any]]:
    """Each prompt in each scene at each strength.

    Args:
        prompts: rows of the manifest.
        scenes: of `scenes_of`.
        strengths: of the inpainting.
        inputs: beside the run's folder; the pictures and their masks are written there.

    Raises:
        ValueError: a prompt begins with something of its own.
    """
    check_free(prompts, ("image", "mask_image", "strength"))
    made = []
    for number, scene in enumerate(scenes):
        names = Scene.name(number), f"scene-{number}-mask.png"
        for name, image in zip(names, (scene.picture, scene.mask), strict=True):
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


def _scene(person: Mapping[str, Any], config: BenchmarkConfig) -> Scene:
    family = config.family()
    photo = person["photos"][0]
    data = photo["bytes"] or read_uri(photo["uri"], config.storage_options)
    image = decode_photo(data, PhotoLimits(max_pixels=config.max_photo_pixels))
    index = person["face_index"]
    select: Any = "largest" if index is None else index
    face, _ = photo_faces(image, embedded_faces(), select=select, min_face=config.min_face)[0]
    image, face = stand_upright(image, face)
    picture, corner = _around(image, face, family.height, family.width)
    return Scene(person, picture, _head(picture, face, corner))


def _around(
    photo: np.ndarray, face: Detection, height: int, width: int
) -> tuple[Image.Image, tuple[int, int]]:
    """As much of the photo as these proportions allow, around the face; its left upper corner."""
    image = Image.fromarray(photo)
    factor = min(image.width / width, image.height / height)
    wide, high = max(1, round(width * factor)), max(1, round(height * factor))
    x0, y0, x1, y1 = (float(side) for side in face.bbox)
    left = min(max(round((x0 + x1 - wide) / 2), 0), image.width - wide)
    top = min(max(round((y0 + y1 - high) / 2), 0), image.height - high)
    return image.crop((left, top, left + wide, top + high)), (left, top)


def _head(picture: Image.Image, face: Detection, corner: tuple[int, int]) -> Image.Image:
    """White where the head is; `face` is in pixels of the photo, whose part begins at `corner`."""
    x0, y0, x1, y1 = (float(side) for side in face.bbox)
    x, y = (x0 + x1) / 2 - corner[0], (y0 + y1) / 2 - 0.08 * (y1 - y0) - corner[1]
    across, along = _HEAD[0] * (x1 - x0), _HEAD[1] * (y1 - y0)
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((x - across, y - along, x + across, y + along), fill=255)
    return mask
