"""The PIL picture that a call gives back: its files say that a model made it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infinite_id.provenance import XMP_KEYWORD, Provenance, xmp_packet

__all__ = ["GeneratedPicture"]

_Kind = TypeVar("_Kind", bound="GeneratedPicture")
_HOLD_XMP = ("AVIF", "JPEG", "MPO", "PNG", "WEBP")


class GeneratedPicture(Image.Image):
    """A picture whose `save` writes the mark that the batch pipeline's files have (XMP: IPTC
    digital source type, method, weights, prompt, seed).

    Copies and what is made of it by convert, resize, crop, rotate ... keep the mark; an array, or
    another picture that it is pasted into, does not.

    Attributes:
        provenance: how it was made.
    """

    provenance: Provenance | None = None

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], provenance: Provenance) -> Self:
        """uint8 (H, W, 3) RGB as such a picture."""
        return _like(Image.fromarray(pixels), cls, provenance)

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As `PIL.Image.Image.save`, with the mark.

        Args:
            fp: path or file.
            format: by default the path's.
            params: `xmp` of the caller's stands in place of the mark's, and so does XMP in
                `pnginfo`; other text of `pnginfo`, and `exif`, stand beside it.

        Warns:
            UserWarning: the format holds no mark.
        """
        kind = format or _format_of(fp)
        if kind is not None and kind.upper() not in _HOLD_XMP:
            warnings.warn(
                f"format {kind} holds no mark that a model made the picture, allowed with one: "
                f"{', '.join(_HOLD_XMP)}",
                stacklevel=2,
            )
        xmp = params.setdefault("xmp", xmp_packet(self.provenance).encode())
        params["pnginfo"] = _with_xmp(params.get("pnginfo"), xmp)
        super().save(fp, format, **params)

    def transform(self, *args: Any, **options: Any) -> Image.Image:
        """As `PIL.Image.Image.transform`, which `rotate` calls."""
        return _like(super().transform(*args, **options), type(self), self.provenance)

    def _new(self, im: Any) -> Image.Image:
        # Pillow makes all of copy, convert, resize, crop ... by it.
        return _like(super()._new(im), type(self), self.provenance)

    def __getstate__(self) -> list[Any]:
        return [*super().__getstate__(), self.provenance]

    def __setstate__(self, state: list[Any]) -> None:
        super().__setstate__(state[:-1])
        self.provenance = state[-1]


def _like(made: Image.Image, kind: type[_Kind], told: Provenance | None) -> _Kind:
    made.__class__ = kind
    picture = cast("_Kind", made)
    picture.provenance = told
    return picture


def _format_of(fp: Any) -> str | None:
    name = getattr(fp, "name", fp)
    if not isinstance(name, str | bytes | Path):
        return None
    text = name.decode() if isinstance(name, bytes) else str(name)
    return Image.registered_extensions().get(Path(text).suffix.lower())


def _with_xmp(given: PngInfo | None, xmp: bytes | str | None) -> PngInfo | None:
    """Text of a PNG with XMP, unless it has some; None stays None where there is no XMP."""
    own = [] if given is None else given.chunks
    keyword = XMP_KEYWORD.encode()
    if not xmp or any(data.startswith(keyword) for _, data, *_ in own):
        return given
    info = PngInfo()
    info.chunks.extend(own)
    info.add_itxt(XMP_KEYWORD, xmp.decode() if isinstance(xmp, bytes) else xmp)
    return info
