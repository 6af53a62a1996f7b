"""What a call of `InfiniteIDPipeline` gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinite_id.interface.judging import judges
from infinite_id.interface.people import GroupIdentity, MixedIdentity
from infinite_id.regions import Region
from infinite_id.types import Identity

__all__ = ["InfiniteIDOutput"]


@dataclass(frozen=True, slots=True)
class InfiniteIDOutput:
    """Pictures with what they were made of, in the order of the prompts.

    Attributes:
        images: list of PIL pictures whose files say that a model made them
            (`infinite_id.interface.picture`; "pil"), float32 (N, H, W, 3) in [0, 1] ("np"), float32
            tensor (N, 3, H, W) in [0, 1] ("pt"), or a tensor (N, 4, h, w) ("latent").
        identities: who is in each picture, None for nobody.
        seeds: of the initial noise of each picture.
        prompts: of each picture, as the model read them.
        styles: words of the style of each picture, empty for none.
        regions: of the people of each group, as given or found; None: no group.
    """

    images: Any
    identities: list[Identity | MixedIdentity | GroupIdentity | None]
    seeds: list[int]
    prompts: list[str]
    styles: list[str]
    regions: list[tuple[Region, ...] | None]
    _preset: str = field(repr=False)
    _pixels: Sequence[NDArray[np.uint8]] | None = field(repr=False)

    def scores(self) -> dict[str, NDArray[np.float32]]:
        """What the judges say: one float32 (N,) a metric, NaN where a picture cannot be scored.

        A group is nobody in particular: the metrics of one person are NaN for it, see
        `group_scores`. Where a package of the caller's hides the judges' own, which is called
        `eval`, they run in a process of their own, and each call loads them.

        Raises:
            ValueError: latents cannot be scored, or no judges are installed.
        """
        alone = [None if isinstance(one, GroupIdentity) else one for one in self.identities]
        references = [() if one is None else one.images for one in alone]
        weights = [_shares(one) for one in alone]
        return judges(self._preset).score(
            self._scored(), self.prompts, references, self.styles, weights
        )

    def group_scores(self) -> list[list[dict[str, Any]]]:
        """Of each picture of a group what it shows of each person; empty for all others.

        One dictionary a person, in the order of the regions: "identity" (cosine of the face that is
        theirs by identity), "group_margin" (that, less the highest cosine of the face to another
        person of the group), "identity_in_region", "mixed_up" (the face in the region is another
        person's), "faces" of the picture, "number" of the person, and "region", "face_in_region",
        "matched_face" as boxes in fractions of the picture. None or NaN: there is no such face.

        Raises:
            ValueError: as `scores`.
        """
        groups = [n for n, one in enumerate(self.identities) if isinstance(one, GroupIdentity)]
        pixels = self._scored()
        found: list[list[dict[str, Any]]] = [[] for _ in self.identities]
        if groups:
            people = [[one.images for one in _people(self.identities[n])] for n in groups]
            regions = [self.regions[n] for n in groups]
            seen = judges(self._preset).score_groups([pixels[n] for n in groups], people, regions)
            for number, one in zip(groups, seen, strict=True):
                found[number] = one
        return found

    def _scored(self) -> Sequence[NDArray[np.uint8]]:
        if self._pixels is None:
            raise ValueError("output_type is 'latent', allowed with scores: pil, np, pt")
        return self._pixels


def _people(shown: Identity | MixedIdentity | GroupIdentity | None) -> tuple[Identity, ...]:
    return shown.people if isinstance(shown, GroupIdentity) else ()


def _shares(shown: Identity | MixedIdentity | None) -> list[float]:
    """Of each face of `images`: a mix is judged by its weights, as in a report."""
    if shown is None:
        return []
    people = (shown,) if isinstance(shown, Identity) else shown.people
    weights = shown.weights if isinstance(shown, MixedIdentity) else (1.0,) * len(people)
    return [
        weight / len(person.images)
        for person, weight in zip(people, weights, strict=True)
        for _ in person.images
    ]
