"""Regions of groups that name none: the faces that the text alone puts into the picture.

The text stream is denoised first, in few steps, from the very noise that the picture begins with;
with few steps the same text and noise give nearly the same composition. Faces are found in what it
shows, and given out left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.faces.detection import FaceBackend, FaceError, find_faces
from infinite_id.regions import Box, regions_of_faces
from infinite_id.sampler.batch import StreamBatch
from infinite_id.sampler.denoise import denoise
from infinite_id.types import GenerationRequest, RefusedRequestsError

__all__ = ["PLACING_STEPS", "placed"]

PLACING_STEPS = 10
"""Most steps of the text stream that looks for places, where it begins with noise."""
_MIN_FACE = 1 / 16
"""Of the picture's shorter side: smaller faces are nobody's."""


def placed(
    base: BaseModel,
    requests: Sequence[GenerationRequest],
    sampler: SamplerConfig,
    faces: Callable[[], FaceBackend],
    should_stop: Callable[[], bool] | None = None,
) -> list[GenerationRequest]:
    """The requests with regions for groups that had none; all others as they were.

    Args:
        base: the text-to-image model.
        requests: settled ones of one size, with guidance or without.
        sampler: of the picture.
        faces: the detector; called where a request needs one.
        should_stop: asked before each step.

    Raises:
        RefusedRequestsError: of these requests the text shows fewer faces than the group has
            people.
        CancelledError: `should_stop` answered True.
    """
    open_ones = [
        number
        for number, request in enumerate(requests)
        if request.group is not None and request.group.regions is None
    ]
    if not open_ones:
        return list(requests)
    shown: dict[int, NDArray[np.uint8]] = {}
    for with_picture in (False, True):
        numbers = [n for n in open_ones if (requests[n].init_image is not None) == with_picture]
        if not numbers:
            continue
        # Of a picture that is begun with, few steps may be none at all.
        steps = sampler.num_inference_steps
        few = steps if with_picture else min(PLACING_STEPS, steps)
        asked = [requests[number] for number in numbers]
        pictures = _by_text(base, asked, replace(sampler, num_inference_steps=few), should_stop)
        shown.update(zip(numbers, pictures, strict=True))
    detector, found, faults = faces(), list(requests), dict[int, str]()
    for number, picture in shown.items():
        request = requests[number]
        height, width = request.height, request.width
        if request.group is None:
            continue
        try:
            smallest = min(height, width) * _MIN_FACE
            every = find_faces(picture, detector, select="all", min_face=smallest)
        except FaceError:
            every = []
        people = len(request.group.people)
        if len(every) < people:
            faults[number] = (
                f"group {request.identity_id!r} has {people} people and no regions, and with seed "
                f"{request.seed} its prompt shows {len(every)} faces, allowed: {people} or more; "
                "ask for as many people in the prompt, take another seed, or give regions"
            )
            continue
        largest = sorted(every, key=lambda one: -one[0].size)[:people]
        boxes = sorted((one.bbox.tolist() for one, _ in largest), key=lambda b: b[0] + b[2])
        regions: tuple[Box, ...] = regions_of_faces(boxes, height, width)
        found[number] = replace(request, group=replace(request.group, regions=regions))
    if faults:
        raise RefusedRequestsError(faults)
    return found


def _by_text(
    base: BaseModel,
    requests: Sequence[GenerationRequest],
    sampler: SamplerConfig,
    should_stop: Callable[[], bool] | None,
) -> list[NDArray[np.uint8]]:
    """What the text streams alone show, of one size."""
    batch = StreamBatch(
        prompts=[request.prompt for request in requests],
        negative_prompts=[request.negative_prompt for request in requests],
        seeds=[request.seed for request in requests],
        guidance_scales=[request.guidance_scale or 0.0 for request in requests],
        height=requests[0].height,
        width=requests[0].width,
        init_images=[request.init_image for request in requests],
        control_images=[request.control_image for request in requests],
    )
    return base.decode(
        denoise(base, None, batch, FusionConfig(), sampler, should_stop=should_stop).latents
    )
