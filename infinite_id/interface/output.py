"""What a call of `InfiniteIDPipeline` gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinite_id.interface.people import GroupIdentity, MixedIdentity
from infinite_id.regions import Region
from infinite_id.types import Identity

__all__ = ["JUDGES", "InfiniteIDOutput"]

JUDGES = "infinite_id.judges"
"""Entry points of this group load a suite of judges: load(None, preset name) -> suite, whose
`score(images, prompts, references, styles)` gives one float32 (N,) a metric."""


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

        Raises:
            ValueError: latents cannot be scored; no judges are installed; or another package
                hides them.
        """
        if self._pixels is None:
            raise ValueError("output_type is 'latent', allowed with scores: pil, np, pt")
        references = [() if one is None else one.images for one in self.identities]
        return _judges(self._preset).score(self._pixels, self.prompts, references, self.styles)


@lru_cache(maxsize=2)
def _judges(preset: str) -> Any:
    found = sorted(entry_points(group=JUDGES), key=lambda entry: entry.name)
    if not found:
        raise ValueError(
            f"no judges are installed, allowed: a package with an entry point of {JUDGES}, as "
            "infinite-id-ray has when it is installed by pip"
        )
    entry = found[0]
    _check_not_hidden(entry)
    return entry.load()(None, "pocket" if preset == "pocket" else "sdxl")


def _check_not_hidden(entry: Any) -> None:
    """Raises a ValueError where a caller's own folder has the name of the judges' package."""
    top = entry.module.partition(".")[0]
    spec = find_spec(top)
    origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    own = Path(__file__).resolve().parents[2] / top / "__init__.py"
    files = distribution(entry.dist.name).files or []
    listed = {Path(str(entry.dist.locate_file(file))).resolve() for file in files}
    if origin != own and origin not in listed:
        raise ValueError(
            f"package {top!r} is {origin or 'missing'}, allowed with scores: the one that the "
            f"judges are in, {own.parent}"
        )
