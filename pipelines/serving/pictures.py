"""What a request's pictures begin with and are held to, from what came over the wire."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.config import FusionKind
from infinite_id.control_image import ControlImage, control_image
from infinite_id.faces.keypoints import draw_kps
from infinite_id.faces.photos import PhotoError, PhotoLimits, decode_photo
from infinite_id.init_image import STRENGTH, InitImage, init_image
from infinite_id.methods import check_takes
from pipelines.serving.bodies import GenerateBody
from pipelines.serving.errors import ServiceError
from pipelines.serving.worker import Deadline, Worker

__all__ = ["Pictures", "from_base64"]

Begun = InitImage | None
Held = ControlImage | None


def from_base64(texts: Sequence[str]) -> list[bytes]:
    """The bytes of base64 photos, with or without a data: prefix. Raises ServiceError."""
    try:
        return [
            base64.b64decode(t.partition(",")[2] if t.startswith("data:") else t, validate=True)
            for t in texts
        ]
    except (binascii.Error, ValueError):
        raise ServiceError(422, "not_base64", "A photo is not valid base64.") from None


class Pictures:
    """The pictures of a body, decoded by `worker`.

    Args:
        worker: decodes.
        limits: of what is decoded.
        has_controlnet: whether the service has a ControlNet.
        fusion: of the preset.
    """

    def __init__(
        self, worker: Worker, limits: PhotoLimits, has_controlnet: bool, fusion: FusionKind
    ) -> None:
        self._worker, self._limits = worker, limits
        self._has_controlnet, self._fusion = has_controlnet, fusion

    async def of(
        self,
        deadline: Deadline,
        body: GenerateBody,
        method: str,
        size: tuple[int, int],
        steps: int,
    ) -> tuple[Begun, Held]:
        """What a body's pictures begin with and are held to, in the request's size.

        Args:
            deadline: of the request.
            body: as it came.
            method: of METHODS, that makes them.
            size: (height, width) of the request in pixels.
            steps: of denoising.

        Raises:
            ServiceError: 422, something cannot be used; 503 or 504, it cannot be decoded in time.
        """
        if body.is_held and not self._has_controlnet:
            message = "This service has no ControlNet, allowed: no control_image."
            raise ServiceError(422, "no_controlnet", message, param="control_image")
        if body.image is None and not body.is_held:
            return None, None
        try:
            streams = body.control_streams if body.is_held else None
            begins = body.image is not None
            check_takes(method, image=begins, streams=streams, fusion=self._fusion)
        except ValueError as error:
            raise ServiceError(422, "not_taken", f"{error}.", param="method") from None

        def work() -> tuple[Begun, Held]:
            return _begun(body, size, steps, self._limits), _held(body, size, self._limits)

        self._worker.check()
        return await self._worker.run(deadline, work)


def _begun(body: GenerateBody, size: tuple[int, int], steps: int, limits: PhotoLimits) -> Begun:
    if body.image is None:
        return None
    shown = _decoded("image", body.image, limits)
    cover: NDArray[np.uint8] | None = None
    if body.mask_image is not None:
        mask = Image.fromarray(_decoded("mask_image", body.mask_image, limits))
        cover = np.asarray(mask.convert("L"))
    strength = STRENGTH if body.strength is None else body.strength
    try:
        begun = init_image(shown, cover, strength, *size)
        begun.check(*size, steps)
    except ValueError as error:
        raise _refused(error) from None
    return begun


def _held(body: GenerateBody, size: tuple[int, int], limits: PhotoLimits) -> Held:
    height, width = size
    try:
        if body.control_image is not None:
            shown = _decoded("control_image", body.control_image, limits)
        elif body.control_keypoints is not None:
            shown = draw_kps(np.asarray(body.control_keypoints) * (width, height), height, width)
        else:
            return None
        return control_image(
            shown,
            height,
            width,
            scale=body.controlnet_conditioning_scale,
            start=body.control_guidance_start,
            end=body.control_guidance_end,
            streams=body.control_streams,
        )
    except ValueError as error:
        raise _refused(error) from None


def _refused(error: ValueError) -> ServiceError:
    param = str(error).partition(" ")[0]
    return ServiceError(422, "out_of_range", f"{error}.", param=param)


def _decoded(name: str, text: str, limits: PhotoLimits) -> NDArray[np.uint8]:
    (data,) = from_base64([text])
    try:
        return decode_photo(data, limits)
    except PhotoError as error:
        message = f"{name} cannot be used: {error}."
        raise ServiceError(422, error.reason, message, param=name) from None
