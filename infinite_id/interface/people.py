"""From what a caller has of a person to an `Identity`: photos in every form, saved files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from infinite_id.faces.detection import FaceError, FaceSelection
from infinite_id.faces.photo_faces import photo_faces
from infinite_id.faces.photos import PhotoError
from infinite_id.interface.mixes import GroupIdentity, MixedIdentity, Regions, grouped
from infinite_id.interface.pixels import Picture, name_of, pixels
from infinite_id.names import NAME_RULE, name_fault
from infinite_id.types import FaceRecord, Identity

if TYPE_CHECKING:
    from infinite_id.identity.encoders import IdentityEncoder

__all__ = ["People", "Photo", "Somebody"]

Photo = Picture | FaceRecord
"""A picture in any form, or a face that was found in a photo."""


Somebody = Photo | Sequence[Photo] | Identity | MixedIdentity | GroupIdentity
"""Who is in a picture: a person, a mix, a group, one photo, or several photos of one person."""


class People:
    """Photos to people, by the encoders of a preset.

    Args:
        load: makes the encoders; called once, when they are first needed.
    """

    def __init__(self, load: Callable[[], IdentityEncoder]) -> None:
        self._load = load
        self._loaded: IdentityEncoder | None = None

    @property
    def encoder(self) -> IdentityEncoder:
        """Face and CLIP encoders."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def forget(self) -> None:
        """Lets the encoders go; they are loaded again when they are needed."""
        self._loaded = None

    def faces(
        self, photo: Photo, *, select: FaceSelection = "all", min_face: float = 20.0
    ) -> list[FaceRecord]:
        """The chosen faces of one photo, left to right.

        Raises:
            FaceError, PhotoError: ValueErrors that name the photo and the reason.
            ValueError: the photo is of no allowed type or does not exist.
        """
        photo = _photo(photo)
        if isinstance(photo, FaceRecord):
            return [photo]
        if not isinstance(min_face, int | float | np.number) or not min_face > 0:
            raise ValueError(f"min_face is {min_face!r}, allowed: pixels, more than 0")
        name = name_of(photo) or "photo"
        try:
            image = pixels("photo", photo)
            found = photo_faces(image, self.encoder.faces, select=select, min_face=min_face)
        except (PhotoError, FaceError) as error:
            kind: Any = type(error)
            raise kind(error.reason, f"{name}: {error}") from None
        return [
            FaceRecord(name, f"{name}/{number}", one.bbox, one.landmarks, one.det_score, aligned)
            for number, (one, aligned) in enumerate(found)
        ]

    def identity(
        self,
        photos: Somebody,
        *,
        name: str | None = None,
        class_word: str = "person",
        face: FaceSelection = "single",
        min_face: float = 20.0,
    ) -> Identity:
        """One person: see `InfiniteIDPipeline.identity`."""
        if isinstance(photos, MixedIdentity):
            raise ValueError(f"identity is the mix {photos.identity_id}, allowed: one person")
        if isinstance(photos, GroupIdentity):
            raise ValueError(f"identity is the group {photos.identity_id}, allowed: one person")
        if isinstance(photos, Identity):
            return self._checked(photos)
        if isinstance(photos, str | Path) and Path(photos).suffix == ".safetensors":
            return Identity.load(photos, self.encoder.revision)
        if not (face in ("single", "largest") or (type(face) is int and face >= 0)):
            raise ValueError(
                f"face is {face!r}, allowed: single, largest, or a number from the left"
            )
        if not isinstance(class_word, str) or not class_word.strip() or "{" in class_word:
            raise ValueError(f"class_word is {class_word!r}, allowed: a word, such as woman")
        if name is not None and not (isinstance(name, str) and name_fault(name) is None):
            raise ValueError(f"name is {name!r}, allowed: {NAME_RULE}, or None")
        given: list[Any] = list(photos) if isinstance(photos, list | tuple) else [photos]
        if not given:
            raise ValueError("identity has 0 photos, allowed: 1 or more")
        records = [
            record
            for photo in given
            for record in self.faces(photo, select=face, min_face=min_face)
        ]
        crops = tuple(record.aligned for record in records)
        first = given[0]
        own = first.identity_id if isinstance(first, FaceRecord) else name_of(first)
        if name is None:
            # A file's name that names nobody is no fault of who did not ask for it.
            name = own if own is not None and name_fault(own) is None else "person"
        return Identity(name, crops, self.encoder.embed(crops), class_word)

    def somebody(
        self, value: Somebody, regions: Regions | None = None
    ) -> Identity | MixedIdentity | GroupIdentity:
        """A person, a mix or a group, of all that stands for one.

        Args:
            value: with `regions` a list of people, each in a form of its own.
            regions: of a group; None: no group.
        """
        if regions is not None:
            if not isinstance(value, list | tuple):
                raise ValueError(
                    f"regions is {regions!r} for an identity of one, allowed: for a list of "
                    "people within the list of identity"
                )
            return grouped([self.identity(one) for one in value], regions)
        if isinstance(value, list | tuple) and any(isinstance(one, Identity) for one in value):
            raise ValueError(
                f"identity holds a list of {len(value)} people without regions, allowed: regions "
                "of a box a person or 'auto', pipe.group(...), or pipe.stack(...)"
            )
        if isinstance(value, MixedIdentity | GroupIdentity):
            for one in value.people:
                self._checked(one)
            return value
        return self.identity(value)

    def _checked(self, identity: Identity) -> Identity:
        found, wanted = identity.embedding.revision, self.encoder.revision
        if found != wanted:
            raise ValueError(
                f"identity {identity.identity_id!r} was made by the encoders {found}, allowed "
                f"here: {wanted}"
            )
        return identity


def _photo(value: Any) -> Photo:
    if isinstance(value, str | Path | bytes | bytearray | Image.Image | np.ndarray | FaceRecord):
        return bytes(value) if isinstance(value, bytearray) else value
    raise ValueError(
        f"photo is a {type(value).__name__}, allowed: a path, bytes of a file, a PIL picture, "
        "an array (H, W, 3), or a face of pipe.faces"
    )
