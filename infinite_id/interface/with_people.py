"""What `InfiniteIDPipeline` makes of photos: people, mixes, groups."""

from __future__ import annotations

from collections.abc import Sequence

from infinite_id.faces.detection import FaceSelection
from infinite_id.interface.mixes import (
    GroupIdentity,
    MixedIdentity,
    Regions,
    grouped,
    mixed,
    stacked,
)
from infinite_id.interface.people import People, Photo, Somebody
from infinite_id.types import FaceRecord, Identity

__all__ = ["WithPeople"]


class WithPeople:
    """Something that makes people of photos."""

    def __init__(self, people: People) -> None:
        self._people = people

    def identity(
        self,
        photos: Photo | Sequence[Photo],
        *,
        name: str | None = None,
        class_word: str = "person",
        face: FaceSelection = "single",
        min_face: float = 20.0,
    ) -> Identity:
        """One person of one or more photos; `save` of what comes back writes a file.

        Args:
            photos: paths, bytes of files, PIL pictures, arrays (see `Photo`), faces of `faces`; or
                the path of a saved identity.
            name: by default the first file's.
            class_word: "man", "woman", "person" ...: what {subject} becomes.
            face: in a photo with several: "largest", or a number from the left; "single" refuses.
            min_face: shorter side of a face's box in pixels; smaller ones are passed over.

        Raises:
            ValueError: one sentence that names the photo and the reason.
        """
        return self._people.identity(
            photos, name=name, class_word=class_word, face=face, min_face=min_face
        )

    def faces(self, photo: Photo, *, min_face: float = 20.0) -> list[FaceRecord]:
        """All faces of a photo, left to right, with boxes (`bbox`) and crops (`aligned`).

        Each may be given to `identity`, and so may its number.
        """
        return self._people.faces(photo, min_face=min_face)

    def mix(self, *people: Somebody, weight: float | Sequence[float] = 0.5) -> MixedIdentity:
        """Between people.

        Args:
            people: two or more.
            weight: of the second of two people, the first having the rest; or one a person, which
                sum to 1.

        Raises:
            ValueError: fewer than two people, or weights that do not fit.
        """
        return mixed([self._people.identity(one) for one in people], weight)

    def stack(self, *people: Somebody) -> MixedIdentity:
        """People side by side: their identity tokens one after another.

        Raises:
            ValueError: fewer than two people.
        """
        return stacked([self._people.identity(one) for one in people])

    def group(self, *people: Somebody, regions: Regions = "auto") -> GroupIdentity:
        """Several people in one picture, each in a region of their own (docs/groups.md).

        Args:
            people: one or more, in the order of the regions.
            regions: a box (x0, y0, x1, y1) in fractions of the picture for each person, or a mask
                of the picture's size (PIL, or an array (H, W): bool, uint8, float in [0, 1]).
                "auto": the prompt's own picture is made first, in few steps, and its faces are
                given out left to right.

        Raises:
            ValueError: nobody, or a region that is outside the picture, empty, or covers more than
                a quarter of another.
        """
        return grouped([self._people.identity(one) for one in people], regions)
