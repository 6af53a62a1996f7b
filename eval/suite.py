"""Scoring of pictures: chosen metrics over networks that are loaded once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.groups import group_rows
from eval.judges.given import GivenJudges
from eval.judges.image_text import ImageTextModel
from eval.judges.networks import Networks
from eval.metric_info import MetricInfo
from eval.metrics import DEFAULT_METRICS, METRICS, needs_of
from eval.picture_batch import PictureBatch, style_words
from infinite_id.faces.detection import check_image
from infinite_id.regions import Region

__all__ = ["ScoringSuite", "load_suite"]

logger = logging.getLogger(__name__)


class ScoringSuite:
    """Made by `load_suite`. One thread at a time.

    Attributes:
        metrics: name -> description, in the order of the columns.
    """

    def __init__(
        self, metrics: Mapping[str, MetricInfo], networks: Networks, styles: Sequence[str]
    ) -> None:
        self.metrics = dict(metrics)
        self._networks = networks
        self._styles = list(styles)

    def score(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str],
        references: Sequence[Sequence[NDArray[np.uint8]]],
        styles: Sequence[str] | None = None,
        weights: Sequence[Sequence[float]] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """One float32 (N,) a metric; NaN where a picture cannot be scored.

        Args:
            images: N pictures uint8 (H, W, 3) RGB, any sizes.
            prompts: N texts, as the pictures were generated from.
            references: N lists of the person's aligned faces, uint8 (112, 112, 3); for a mix,
                those of all its people; empty: the metrics that read them are NaN.
            styles: N texts, the words that the style added to the prompt; None: `style_score`
                and `style_first` are NaN.
            weights: N lists of the references' shares, as the parts of a mix have them; None: all
                count alike.

        Raises:
            ValueError: lengths differ, or a picture or reference is not uint8 of its shape.
        """
        return self.measure(self.batch(images, prompts, references, styles, weights))

    def batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str],
        references: Sequence[Sequence[NDArray[np.uint8]]],
        styles: Sequence[str] | None = None,
        weights: Sequence[Sequence[float]] | None = None,
    ) -> PictureBatch:
        """Checked arguments of `score`, for callers that look at faces or features themselves."""
        words = [""] * len(images) if styles is None else styles
        lengths = {
            "images": len(images),
            "prompts": len(prompts),
            "references": len(references),
            "styles": len(words),
        }
        if weights is not None:
            lengths["weights"] = len(weights)
        if len(set(lengths.values())) > 1:
            given = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise ValueError(f"got {given}, allowed: equally many of each")
        for image in images:
            check_image(image)
        for crop in (crop for crops in references for crop in crops):
            if crop.dtype != np.uint8 or crop.shape != (112, 112, 3):
                raise ValueError(
                    f"reference is {crop.dtype} {crop.shape}, allowed: uint8 (112, 112, 3)"
                )
        for crops, shares in zip(references, weights or (), strict=False):
            if len(crops) != len(shares):
                raise ValueError(
                    f"a picture has {len(crops)} references and {len(shares)} weights, allowed: "
                    "equally many"
                )
        return PictureBatch(
            self._networks, images, prompts, references, words, weights, self._styles
        )

    def score_groups(
        self,
        images: Sequence[NDArray[np.uint8]],
        people: Sequence[Sequence[Sequence[NDArray[np.uint8]]]],
        regions: Sequence[Sequence[Region] | None],
    ) -> list[list[dict[str, Any]]]:
        """What each picture of several people shows of each of them, see `eval.groups.group_rows`.

        Args:
            images: N pictures uint8 (H, W, 3) RGB.
            people: of each picture its people, and of each of those the aligned faces, uint8
                (112, 112, 3).
            regions: of each picture its people's; None: not known.
        """
        blank = [""] * len(images)
        faces = [[face for one in group for face in one] for group in people]
        batch = self.batch(images, blank, faces)
        return [
            group_rows(batch, number, group, where)
            for number, (group, where) in enumerate(zip(people, regions, strict=True))
        ]

    def measure(self, batch: PictureBatch) -> dict[str, NDArray[np.float32]]:
        """The metrics of a batch, as `score` gives them."""
        if not len(batch):
            return {name: np.empty(0, dtype=np.float32) for name in self.metrics}
        return {name: METRICS[name].compute(batch) for name in self.metrics}


def load_suite(
    names: Sequence[str] | None = None,
    preset_name: str = "pocket",
    threads: int = 1,
    *,
    image_text: ImageTextModel | None = None,
    device: str = "cpu",
    scorer: str | None = None,
    styles: Sequence[str] = (),
    judges: GivenJudges | None = None,
    groups: bool = False,
) -> ScoringSuite:
    """Loads the networks that the named metrics need.

    Args:
        names: of `METRICS` and `GROUPS`; None: see `eval.metrics.metric_names`.
        preset_name: "pocket" or "sdxl": decides the image-text model.
        threads: that find and embed faces at once, on the CPU; torch keeps to the process's own.
        image_text: an image-text model of the caller's, e.g. `OpenClip("local-dir:FOLDER")`.
        device: of torch, for OpenCLIP.
        scorer: folder of an OpenCLIP model in place of the preset's.
        styles: words of a run's styles; a picture's is told apart from these and the shipped ones.
        judges: networks that the caller gives by address.
        groups: pictures of several people are scored too, whatever the metrics need.

    Raises:
        ValueError: unknown metric or preset, a name twice, or none.
        ImportError: the preset's scorer or a judge needs a package that is not installed.
    """
    given = judges or GivenJudges()
    needed = needs_of(names, given.addresses)
    given.required(needed)
    chosen = list(needed)
    needs = {need for one in needed.values() for need in one}
    needs |= {"faces", "facenet"} if groups else set()
    networks = Networks(
        needs, preset_name, threads, image_text, device=device, scorer=scorer, judges=given
    )
    words = style_words(styles)
    infos = {name: METRICS[name].info(name, networks, preset_name, len(words)) for name in chosen}
    for name, info in infos.items():
        if "CONDITION" in info.note and name not in DEFAULT_METRICS:
            logger.warning("%s: %s", name, info.note)
    return ScoringSuite(infos, networks, words)
