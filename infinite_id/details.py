"""Small faces made again: cut out, enlarged to the model's size, denoised at low strength with the
same person and prompt, and blended back (docs/details.md).

Users do it by hand with ADetailer or FaceDetailer. Here all faces of a batch, of different people,
are denoised together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.base import BaseModel
from infinite_id.details_config import DetailsConfig, detailed_revision
from infinite_id.faces.detection import Detection, FaceBackend, FaceError, find_faces
from infinite_id.faces.loading import embedded_faces
from infinite_id.generator import LatentGenerator, settled
from infinite_id.init_image import InitImage
from infinite_id.regions import Region, region_map
from infinite_id.types import GeneratedImage, GenerationRequest, Generator, Identity, PreviewHook

__all__ = ["DetailedGenerator", "detailed", "with_details"]

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A face to be made again.

    Attributes:
        number: of the picture.
        box: x0, y0, x1, y1 of what is cut out, whole pixels inside the picture.
        request: of the face.
        weight: float32 (y1 - y0, x1 - x0) in [0, 1], of the face made again over the picture.
    """

    number: int
    box: tuple[int, int, int, int]
    request: GenerationRequest
    weight: NDArray[np.float32]


class DetailedGenerator:
    """A generator whose pictures have their small faces made again.

    Args:
        inner: takes pictures to begin with.
        config: which faces, and how.
    """

    def __init__(self, inner: LatentGenerator, config: DetailsConfig) -> None:
        self.inner, self.config = inner, config
        self.revision = detailed_revision(inner.revision, config)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        *,
        on_step: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        previews: PreviewHook | None = None,
    ) -> list[GeneratedImage]:
        """See `infinite_id.types.Generator`; steps and previews are the whole pictures'."""
        made = self.inner.generate(
            requests, identities, on_step=on_step, should_stop=should_stop, previews=previews
        )
        return with_details(
            self.inner, requests, made, identities, self.config, should_stop=should_stop
        )


def detailed(made_by: Generator, method: str, config: DetailsConfig) -> DetailedGenerator:
    """The generator of a method with small faces made again.

    Raises:
        ValueError: it takes no pictures to begin with.
    """
    if not isinstance(made_by, LatentGenerator):
        raise ValueError(
            f"details is set and method {method!r} takes no picture to begin with, allowed with "
            "it: no details"
        )
    return DetailedGenerator(made_by, config)


def with_details(
    generator: LatentGenerator,
    requests: Sequence[GenerationRequest],
    made: Sequence[GeneratedImage],
    identities: Mapping[str, Identity],
    config: DetailsConfig,
    *,
    faces: Callable[[], FaceBackend] = embedded_faces,
    should_stop: Callable[[], bool] | None = None,
) -> list[GeneratedImage]:
    """The pictures with their small faces made again; `details` of each counts them.

    Of a picture of one person or a mix that is the largest face, if it is small: others are
    bystanders. Of a group it is the largest in each person's region. What a mask keeps is kept, and
    so are all other faces and what lies outside a person's region. Requests with `details` False
    are left alone.

    Args:
        generator: made them.
        requests: theirs.
        made: the pictures, in the order of the requests.
        identities: by identity_id.
        config: which faces, and how.
        faces: the detector.
        should_stop: asked between steps.

    Raises:
        CancelledError: `should_stop` answered True.
    """
    begin, backend = time.perf_counter(), faces()
    cuts = [
        cut
        for number, (request, picture) in enumerate(zip(requests, made, strict=True))
        if request.details
        for cut in _cuts(
            number,
            settled(request, generator.sampler),
            picture,
            backend,
            config,
            _size(generator.base, request.height, request.width),
        )
    ]
    if not cuts:
        return list(made)
    # Each has a text stream of its own, so half as many need no more memory than the batch did.
    most = max(1, len(made) // 2)
    again = [
        one
        for begun in range(0, len(cuts), most)
        for one in generator.generate(
            [cut.request for cut in cuts[begun : begun + most]],
            identities,
            should_stop=should_stop,
        )
    ]
    pictures = [one.image.astype(np.float32) for one in made]
    counts = [0] * len(made)
    for cut, one in zip(cuts, again, strict=True):
        _blend(pictures[cut.number], one.image, cut)
        counts[cut.number] += 1
    seconds = (time.perf_counter() - begin) / len(made)
    return [
        replace(
            one,
            image=one.image if not count else picture.round().clip(0, 255).astype(np.uint8),
            seconds=one.seconds + seconds,
            details=count,
        )
        for one, picture, count in zip(made, pictures, counts, strict=True)
    ]


def _cuts(
    number: int,
    request: GenerationRequest,
    picture: GeneratedImage,
    backend: FaceBackend,
    config: DetailsConfig,
    size: tuple[int, int],
) -> list[_Cut]:
    image = picture.image
    height, width = image.shape[:2]
    try:
        found = find_faces(image, backend, select="all", min_face=config.least)
    except FaceError:
        return []
    largest: dict[str | None, Detection] = {}
    for face, _ in found:
        somebody, who = _who(request, picture, face)
        if somebody and (who not in largest or face.size > largest[who].size):
            largest[who] = face
    cuts = []
    for who, face in largest.items():
        if face.size >= config.share * min(height, width):
            continue
        box = x0, y0, x1, y1 = _box(face, height, width, config.margin)
        others = [other for other, _ in found if other is not face]
        weight = _faded(box, height, width, config.feather)
        weight *= _own(request, picture, who, others, config.feather)[y0:y1, x0:x1]
        if weight.any():
            again = _request(request, image, box, config.strength, who, size)
            cuts.append(_Cut(number, box, again, weight))
    return cuts


def _own(
    request: GenerationRequest,
    picture: GeneratedImage,
    who: str | None,
    others: Sequence[Detection],
    feather: float,
) -> NDArray[np.float32]:
    """float32 (H, W) in [0, 1]: 0 where a mask keeps the picture, on the other faces, and outside
    the region of a group's person."""
    height, width = picture.image.shape[:2]
    own = np.ones((height, width), np.float32)
    mask = None if request.init_image is None else request.init_image.mask_image
    if mask is not None:
        own *= mask
    regions = _regions(request, picture)
    if request.group is not None and who is not None:
        own *= region_map(regions[request.group.people.index(who)], height, width)
    for face in others:
        x0, y0, x1, y1 = (float(side) for side in face.bbox)
        beside = _beside(x0, x1, width, feather)[None], _beside(y0, y1, height, feather)[:, None]
        own *= np.maximum(*beside)
    return own


def _regions(request: GenerationRequest, picture: GeneratedImage) -> Sequence[Region]:
    return picture.regions or (request.group.regions if request.group else None) or ()


def _beside(first: float, last: float, pixels: int, feather: float) -> NDArray[np.float32]:
    """float32 (pixels,): 0 on what touches [first, last], and 1 from `feather` of it away."""
    place = np.arange(pixels, dtype=np.float32)
    away = np.maximum(np.maximum(first - place - 1, place - last), 0)
    return np.clip(away / max(feather * (last - first), 1e-6), 0, 1).astype(np.float32)


def _who(
    request: GenerationRequest, picture: GeneratedImage, face: Detection
) -> tuple[bool, str | None]:
    """Whether it is anybody's face, and of a group the person in whose region it is."""
    height, width = picture.image.shape[:2]
    x0, y0, x1, y1 = face.bbox
    x = int(np.clip((x0 + x1) / 2, 0, width - 1))
    y = int(np.clip((y0 + y1) / 2, 0, height - 1))
    mask = None if request.init_image is None else request.init_image.mask_image
    if mask is not None and not mask[y, x]:
        return False, None
    if request.group is None:
        return True, None
    regions = _regions(request, picture)
    shares = [float(region_map(one, height, width, edge=0.0)[y, x]) for one in regions]
    if not shares or max(shares) <= 0:
        return False, None
    return True, request.group.people[int(np.argmax(shares))]


def _size(base: BaseModel, height: int, width: int) -> tuple[int, int]:
    """Height and width of a cut-out: the picture's, or less where the model was trained on less."""
    trained = base.unet.config.sample_size * base.vae_factor
    shrink = min(1.0, trained / (height * width) ** 0.5)
    step = base.vae_factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    high, wide = (max(step, round(side * shrink / step) * step) for side in (height, width))
    return high, wide


def _box(face: Detection, height: int, width: int, margin: float) -> tuple[int, int, int, int]:
    """Around the face, of the picture's proportions and inside it."""
    x0, y0, x1, y1 = (float(side) for side in face.bbox)
    factor = max((x1 - x0) / width, (y1 - y0) / height) * (1 + 2 * margin)
    wide, high = (min(max(round(side * factor), 1), side) for side in (width, height))
    left = round(min(max((x0 + x1 - wide) / 2, 0), width - wide))
    top = round(min(max((y0 + y1 - high) / 2, 0), height - high))
    return left, top, left + wide, top + high


def _request(
    request: GenerationRequest,
    image: Picture,
    box: tuple[int, int, int, int],
    strength: float,
    who: str | None,
    size: tuple[int, int],
) -> GenerationRequest:
    x0, y0, x1, y1 = box
    shown = _resized(image[y0:y1, x0:x1], *size)
    control = request.control_image
    if control is not None:
        part = _resized(control.image[y0:y1, x0:x1], *size)
        control = replace(control, image=part)
    # At least one step, however few there are, and however the product is rounded.
    strength = min(1.0, max(strength, 1.5 / (request.num_inference_steps or 1)))
    height, width = size
    begun = InitImage(shown, strength)
    cut = replace(request, height=height, width=width, init_image=begun, control_image=control)
    return cut if who is None else replace(cut, identity_id=who, group=None)


def _blend(picture: NDArray[np.float32], face: Picture, cut: _Cut) -> None:
    """Lays a face over its place in the picture, (H, W, 3)."""
    x0, y0, x1, y1 = cut.box
    part = picture[y0:y1, x0:x1]
    laid = _resized(face, y1 - y0, x1 - x0) - part
    picture[y0:y1, x0:x1] = part + cut.weight[:, :, None] * laid


def _faded(
    box: tuple[int, int, int, int], height: int, width: int, feather: float
) -> NDArray[np.float32]:
    """float32 (y1 - y0, x1 - x0): fades at its sides, but for those that are the picture's."""
    x0, y0, x1, y1 = box
    across = _fade(x1 - x0, feather, x0 > 0, x1 < width)
    along = _fade(y1 - y0, feather, y0 > 0, y1 < height)
    return np.outer(along, across).astype(np.float32)


def _fade(pixels: int, feather: float, first: bool, last: bool) -> NDArray[np.float32]:
    """float32 (pixels,): from 0 to 1 and back to 0, over `feather` of them at each end."""
    place = np.arange(pixels, dtype=np.float32) + 0.5
    length = max(feather * pixels, 1e-6)
    rise = np.clip(place / length, 0, 1) if first else np.ones_like(place)
    fall = np.clip((pixels - place) / length, 0, 1) if last else np.ones_like(place)
    return np.minimum(rise, fall).astype(np.float32)


def _resized(picture: Picture, height: int, width: int) -> Picture:
    size = (width, height)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
