"""What a column is, and what it says of itself once its networks are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.judges.networks import Need, Networks
from eval.metric_info import MetricInfo
from eval.picture_batch import PictureBatch

__all__ = ["LEAST_AUC", "Metric", "conditions"]

# A network that tells people apart no better than this on the control says nothing of identity.
LEAST_AUC = 0.6


@dataclass(frozen=True, slots=True)
class Metric:
    """How one column is made and described.

    Attributes:
        title: for tables.
        higher_is_better: None: neither.
        bounds: smallest and largest possible value.
        unit: see `MetricInfo`.
        needs: networks.
        compute: float32 (N,) of a batch.
        note: what a reader has to know; may be empty.
        definition: names what is measured where that has changed; part of the revision, so that
            runs of another meaning are not compared.
    """

    title: str
    higher_is_better: bool | None
    bounds: tuple[float, float]
    unit: str
    needs: tuple[Need, ...]
    compute: Callable[[PictureBatch], NDArray[np.float32]]
    note: str = ""
    definition: str = ""

    def info(self, name: str, networks: Networks, preset_name: str, candidates: int) -> MetricInfo:
        """With the names and revisions of the networks that were loaded.

        Args:
            name: of the column.
            networks: of the suite.
            preset_name: whose methods are scored.
            candidates: styles that a picture's own is told apart from.
        """
        network, revision = _judge(self.needs, networks)
        notes, left_out = [self.note], ""
        if "image_text" in self.needs and networks.image_text is not None:
            notes.append(networks.image_text.note)
        if name == "identity_mean":
            every = [networks.facenet.revision, *(n.revision for n in networks.face_files.values())]
            network, revision = f"{len(every)} networks", " + ".join(every)
        if self.definition:
            revision = f"{revision}, {self.definition}"
        notes.append(conditions(name, networks, preset_name))
        told = "tells the people of the control apart with an AUC of"
        notes += [
            f"{told} {networks.face_control(need):.2f}"
            for need in self.needs
            if need in networks.face_files and name != "identity_mean"
        ]
        if name == "image_score":
            auc = networks.image_control
            told = f"{told} {auc:.2f}"
            if auc < LEAST_AUC:
                left_out = f"{name} is left out: its network {told}, allowed: {LEAST_AUC} or more"
            notes.append(told)
        if name in ("style_score", "style_first"):
            notes.append(f"{candidates} styles; chance is 1 in {candidates}")
        return MetricInfo(
            name=name,
            title=self.title,
            higher_is_better=self.higher_is_better,
            bounds=self.bounds,
            unit=self.unit,
            network=network,
            revision=revision,
            note="; ".join(note for note in notes if note),
            left_out=left_out,
        )


def _judge(needs: Sequence[Need], networks: Networks) -> tuple[str, str]:
    """Name and revision of the network that judges, of several that of the last stage."""
    if "facenet" in needs:
        return "FaceNet (Inception-ResNet-v1)", networks.facenet.revision
    for need in needs:
        if need in networks.face_files:
            return networks.face_files[need].name, networks.face_files[need].revision
        if need in ("aesthetic", "hpsv2", "vlm", "nsfw"):
            judge = getattr(networks, need)
            return judge.name, judge.revision
    if "image_text" in needs and networks.image_text is not None:
        return networks.image_text.name, networks.image_text.revision
    if "faces" in needs:
        return "YuNet and SFace", networks.faces.revision
    return "", ""


def conditions(name: str, networks: Networks, preset_name: str) -> str:
    """A warning where a judge of identity also conditions the methods; else empty."""
    by = networks.judges.conditions or ("embedded" if preset_name == "pocket" else "")
    if by == "none":
        return ""
    if name == "identity_sface" and by == "embedded":
        return "methods CONDITION on this network: for information, no judge"
    arcface = name == "identity_arcface" or (
        name == "identity_mean" and "arcface" in networks.face_files
    )
    if arcface and by and by != "embedded":
        return f"methods CONDITION on an ArcFace network (the pack {by}): for information, no judge"
    return ""
