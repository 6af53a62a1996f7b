"""The networks that judge, loaded once and only where a metric needs them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.judges.control import control_auc
from eval.judges.face_files import AdaFace, ArcFace
from eval.judges.facenet import FaceNet
from eval.judges.given import GivenJudges
from eval.judges.image_text import ImageTextModel, load_image_text
from eval.judges.nsfw import NsfwJudge
from eval.judges.vlm import VlmJudge
from eval.pose import head_pose
from infinite_id.faces.alignment import ARCFACE_TEMPLATE
from infinite_id.faces.detection import (
    Detection,
    FaceBackend,
    FaceError,
    find_faces,
)
from infinite_id.faces.loading import load_face_backend

__all__ = ["FACE_FILES", "FeatureCache", "Need", "Networks"]

Need = Literal[
    "faces", "facenet", "image_text", "nsfw", "arcface", "adaface", "aesthetic", "hpsv2", "vlm"
]
FACE_FILES: dict[Need, type[ArcFace] | type[AdaFace]] = {"arcface": ArcFace, "adaface": AdaFace}
"""Networks of identity that a user gives."""
Picture = NDArray[np.uint8]
T = TypeVar("T")

CROP_SIZES = (256, 512, 112)

# YuNet's box in crops warped to the ArcFace template, the median over 64 synthetic faces: used
# where the detector misses the face in its own crop.
ALIGNED_BOX = np.array([17.0, 9.0, 97.0, 115.0], dtype=np.float32)


class FeatureCache(Generic[T]):
    """Features of things that come back batch after batch: references and texts.

    Args:
        embed: N things to float32 (N, width).
        key: equal for equal things.
        capacity: things remembered; the least recently used is forgotten first.
    """

    def __init__(
        self,
        embed: Callable[[list[T]], NDArray[np.float32]],
        key: Callable[[T], Hashable],
        capacity: int = 4096,
    ) -> None:
        self._embed = embed
        self._key = key
        self._capacity = capacity
        self._features: OrderedDict[Hashable, NDArray[np.float32]] = OrderedDict()

    def __call__(self, things: Sequence[T]) -> list[NDArray[np.float32]]:
        """float32 (width,) of each; those not known yet are computed in one batch."""
        keys = [self._key(thing) for thing in things]
        new = {
            key: thing for key, thing in zip(keys, things, strict=True) if key not in self._features
        }
        if new:
            self._features.update(zip(new, self._embed(list(new.values())), strict=True))
        for key in keys:
            self._features.move_to_end(key)
        found = [self._features[key] for key in keys]
        while len(self._features) > self._capacity:
            self._features.popitem(last=False)
        return found


class Networks:
    """What the metrics of a suite share.

    Args:
        needs: which networks to load.
        preset_name: decides the image-text model.
        threads: that find and embed faces at once, on the CPU.
        image_text: used in place of the preset's.
        device, scorer: see `load_image_text`.
        judges: those that a user gave, by address.

    Attributes:
        pool: of those threads.
        faces: YuNet + SFace, whatever the preset conditions on.
        image_text: None where not needed.
        face_files: "arcface" and "adaface" as far as they are needed, with the features of aligned
            faces by each.

    Raises:
        ValueError: a judge that is needed is not given, or does not load.
        ImportError: a package is missing that one needs.
    """

    faces: FaceBackend

    def __init__(
        self,
        needs: Iterable[Need],
        preset_name: str,
        threads: int,
        image_text: ImageTextModel | None = None,
        *,
        device: str = "cpu",
        scorer: str | None = None,
        judges: GivenJudges | None = None,
    ) -> None:
        needed = set(needs)
        self.judges = judges or GivenJudges()
        self._load_given(needed, device, threads)
        self.image_text = image_text
        self.pool = ThreadPoolExecutor(threads, "faces")
        if needed & {"faces", "facenet"}:
            self.faces = load_face_backend("embedded", threads=threads)
            self.sface_reference = FeatureCache(self._sface_aligned, _digest)
            self.pose_reference = FeatureCache(self._poses_aligned, _digest)
        if "facenet" in needed:
            self.facenet = FaceNet(threads=threads)
            self.facenet_reference = FeatureCache(self._facenet_aligned, _digest)
        if "nsfw" in needed:
            self.nsfw = NsfwJudge(threads)
        if "image_text" in needed:
            self.image_text = image_text or load_image_text(
                preset_name, device=device, folder=scorer
            )
            self.image_reference = FeatureCache(self.image_text.embed_images, _digest)
            self.text = FeatureCache(self.image_text.embed_texts, str)

    def _load_given(self, needed: set[Need], device: str, threads: int) -> None:
        given = self.judges
        self.face_files: dict[str, ArcFace | AdaFace] = {}
        for name, kind in FACE_FILES.items():
            if name in needed:
                address = given.address(name, f"identity_{name}")
                self.face_files[name] = (
                    AdaFace(address, threads=threads, channels=given.adaface_channels)
                    if kind is AdaFace
                    else ArcFace(address, threads=threads)
                )
        self.file_reference = {
            name: FeatureCache(network.embed, _digest) for name, network in self.face_files.items()
        }
        if needed & {"aesthetic", "hpsv2"}:
            from eval.judges.preference import AestheticPredictor, HPSv2
        if "aesthetic" in needed:
            address = given.address("aesthetic", "aesthetic")
            self.aesthetic = AestheticPredictor(address, device=device)
        if "hpsv2" in needed:
            self.hpsv2 = HPSv2(given.address("hpsv2", "hpsv2"), device=device)
        if "vlm" in needed:
            address = given.address("vlm", "vlm_prompt")
            self.vlm = VlmJudge(address, given.vlm_model, given.vlm_key)

    def reference(self, network: str) -> FeatureCache[Picture]:
        """Features of aligned reference faces by "facenet", "sface", "arcface" or "adaface"."""
        if network in self.file_reference:
            return self.file_reference[network]
        # One of them may not be loaded.
        return self.facenet_reference if network == "facenet" else self.sface_reference

    def face_judges(self) -> dict[str, FaceNet | ArcFace | AdaFace]:
        """FaceNet and the networks of identity that a user gave, by name."""
        return {"facenet": self.facenet, **self.face_files}

    def face_control(self, network: str) -> float:
        """How well "arcface" or "adaface" tells the people of the control apart: an AUC."""
        return control_auc(lambda crops: self.face_files[network].embed(list(crops)))

    @cached_property
    def image_control(self) -> float:
        """How well the image-text model tells the people of the control apart: an AUC."""
        if self.image_text is None:
            raise RuntimeError("the networks were loaded without an image-text model")
        return control_auc(self.image_text.embed_images)

    def _sface_aligned(self, crops: list[Picture]) -> NDArray[np.float32]:
        return self.faces.embed(np.stack(crops))

    def _facenet_aligned(self, crops: list[Picture]) -> NDArray[np.float32]:
        return self.facenet.embed(crops, list(self.pool.map(self._face_in_crop, crops)))

    def _poses_aligned(self, crops: list[Picture]) -> NDArray[np.float32]:
        """(N, 3) degrees; NaN where the detector misses the face in its own crop."""
        found = self.pool.map(self._detected_in_crop, crops)
        unknown = np.full(3, np.nan)
        poses = [unknown if face is None else head_pose(face.landmarks) for face in found]
        return np.stack(poses).astype(np.float32)

    def _face_in_crop(self, crop: Picture) -> Detection:
        # A box found in the crop gives a better embedding than the median box: over 64 synthetic
        # people the nearest reference is the right one for 81 % of pictures instead of 78 %.
        return self._detected_in_crop(crop) or Detection(ALIGNED_BOX, ARCFACE_TEMPLATE, 1.0)

    def _detected_in_crop(self, crop: Picture) -> Detection | None:
        try:
            return find_faces(crop, self.faces, select="largest", sizes=CROP_SIZES)[0][0]
        except FaceError:
            return None


def _digest(image: Picture) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
