"""Pictures to score, with all that several metrics read from them: found once and shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eval.judges.networks import Networks
from eval.pose import head_pose
from eval.vectors import cosine
from infinite_id.faces.detection import Detection, FaceError, align_face
from infinite_id.faces.upright import find_upright_faces
from infinite_id.prompts import shipped_styles

__all__ = ["PictureBatch", "cosine", "style_words"]

Picture = NDArray[np.uint8]
Scores = NDArray[np.float32]

# Shorter side of a face's box, as a part of the picture's: below it nobody is recognised.
MIN_FACE = 0.08
# Long sides at which faces are looked for: 64 px pictures do best at 256, scenes need 640.
SMALL_PICTURE = 128
SMALL_SIZES = (256, 512)
LARGE_SIZES = (640, 1280)
# A generated face is turned for the judge only where it is plain that it lies (docs/faces.md).
TURN_GAP = 0.04


class PictureBatch:
    """Pictures to score, with all that several metrics read from them.

    Args:
        networks: loaded for the suite.
        images: N pictures uint8 (H, W, 3) RGB.
        prompts: N texts.
        references: N lists of aligned faces uint8 (112, 112, 3).
        styles: N texts, the words of the style alone; empty where there are none.
        weights: N lists of the references' shares; None: all count alike.
        candidates: words of the styles that a picture's own is told apart from.
    """

    def __init__(
        self,
        networks: Networks,
        images: Sequence[Picture],
        prompts: Sequence[str],
        references: Sequence[Sequence[Picture]],
        styles: Sequence[str],
        weights: Sequence[Sequence[float]] | None = None,
        candidates: Sequence[str] = (),
    ) -> None:
        self.networks = networks
        self.images = images
        self.prompts = prompts
        self.references = references
        self.styles = styles
        self.weights = weights
        self.candidates = candidates
        self._features: dict[str, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def faces(self) -> list[list[Detection]]:
        """Faces of each picture, the largest first."""
        return list(self.networks.pool.map(self._find, self.images))

    def _find(self, image: Picture) -> list[Detection]:
        height, width = image.shape[:2]
        sizes = SMALL_SIZES if max(height, width) <= SMALL_PICTURE else LARGE_SIZES
        try:
            found = find_upright_faces(
                image,
                self.networks.faces,
                select="all",
                min_face=MIN_FACE * min(height, width),
                sizes=sizes,
                gap=TURN_GAP,
                level=False,  # FaceNet's crop levels the eyes itself
            )
        except FaceError:
            return []
        return sorted((face for face, _ in found), key=lambda face: -face.size)

    @cached_property
    def seen(self) -> list[int]:
        """Numbers of the pictures that show a face."""
        return [number for number, found in enumerate(self.faces) if found]

    @cached_property
    def with_face(self) -> list[int]:
        """Numbers of the pictures that show a face and have a reference."""
        return [number for number in self.seen if len(self.references[number])]

    @cached_property
    def facenet_features(self) -> list[NDArray[np.float32]]:
        """FaceNet embeddings, unit norm, of the faces of each picture, (faces, 512)."""
        counts = [len(found) for found in self.faces]
        flat = [face for found in self.faces for face in found]
        images = [image for image, n in zip(self.images, counts, strict=True) for _ in range(n)]
        features = self.networks.facenet.embed(images, flat)
        return np.split(features, np.cumsum(counts)[:-1])

    @cached_property
    def image_features(self) -> NDArray[np.float32]:
        """float32 (N, width), unit norm, of the image-text model."""
        if self.networks.image_text is None:
            raise RuntimeError("the suite was loaded without an image-text model")
        return self.networks.image_text.embed_images(self.images)

    @cached_property
    def crops(self) -> list[Picture]:
        """uint8 (112, 112, 3), the aligned largest face of each picture of `seen`."""
        return [align_face(self.images[row], self.faces[row][0].landmarks) for row in self.seen]

    def identity(self, network: str) -> Scores:
        """(N,) cosine of the largest face to the mean reference face; NaN without either.

        Args:
            network: "facenet", "sface", "arcface" or "adaface"; the pictures' faces are embedded
                once by each.
        """
        return self.similarity_to_references(
            self.face_features(network), self.networks.reference(network)
        )

    def face_features(self, network: str) -> NDArray[np.float32]:
        """(N, width) of the largest face of each picture; NaN without a face.

        The width is 1 where no picture has a face.
        """
        if network not in self._features:
            self._features[network] = self._spread(self._embedded(network))
        return self._features[network]

    def _embedded(self, network: str) -> NDArray[np.float32]:
        """(seen, width)."""
        if not self.seen:
            return np.empty((0, 1), dtype=np.float32)
        if network == "facenet":
            return np.stack([self.facenet_features[row][0] for row in self.seen])
        if network == "sface":
            return self.networks.faces.embed(np.stack(self.crops))
        return self.networks.face_files[network].embed(self.crops)

    def _spread(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, width) of (seen, width); NaN where no face is seen."""
        found = np.full((len(self), features.shape[1]), np.nan, dtype=np.float32)
        found[self.seen] = features
        return found

    def image_face_features(self) -> NDArray[np.float32]:
        """(N, width) of the aligned largest face by the image-text model; NaN without a face."""
        model = self.networks.image_text
        if model is None:
            raise RuntimeError("the suite was loaded without an image-text model")
        empty = np.empty((0, 1), dtype=np.float32)
        return self._spread(model.embed_images(self.crops) if self.seen else empty)

    @cached_property
    def poses(self) -> NDArray[np.float32]:
        """(N, 3) yaw, pitch, roll of the largest face, degrees; NaN without one."""
        found = np.full((len(self), 3), np.nan, dtype=np.float32)
        for row in self.seen:
            found[row] = head_pose(self.faces[row][0].landmarks)
        return found

    @cached_property
    def reference_poses(self) -> NDArray[np.float32]:
        """(N, 3) mean yaw, pitch, roll of the references, degrees; NaN without one whose face is
        found in its crop."""
        found = np.full((len(self), 3), np.nan, dtype=np.float32)
        for row, crops in enumerate(self.references):
            known = (
                np.stack(self.networks.pose_reference(list(crops))) if crops else np.empty((0, 3))
            )
            known = known[~np.isnan(known).any(axis=1)]
            if len(known):
                found[row] = known.mean(axis=0)
        return found

    @cached_property
    def pose_differences(self) -> NDArray[np.float32]:
        """(N, 3) degrees of yaw, pitch, roll between the face and the reference that is nearest.

        A copy of one reference shows there, whatever the others are. NaN without a face or a
        reference, or where the detector misses all reference faces.
        """
        found = np.full((len(self), 3), np.nan, dtype=np.float32)
        for row in self.with_face:
            own = self.poses[row]
            known = np.stack(self.networks.pose_reference(list(self.references[row])))
            apart = np.abs((own - known + 180) % 360 - 180)
            apart = apart[~np.isnan(apart).any(axis=1)]
            if len(apart):
                found[row] = apart[np.argmin(np.square(apart).sum(axis=1))]
        return found

    def similarity_to_references(
        self,
        features: NDArray[np.float32],
        embed: Callable[[list[Picture]], list[NDArray[np.float32]]],
    ) -> Scores:
        """(N,) cosine of each picture's face to its mean reference; NaN without either.

        Args:
            features: (N, width) of the faces.
            embed: aligned faces to features of the same network.
        """
        scores = np.full(len(self), np.nan, dtype=np.float32)
        flat = [crop for row in self.with_face for crop in self.references[row]]
        known = iter(embed(flat)) if flat else iter(())
        for row in self.with_face:
            own = [next(known) for _ in self.references[row]]
            share = None if self.weights is None else self.weights[row]
            scores[row] = cosine(features[row], np.average(own, axis=0, weights=share))
        return scores

    def similarity_to_texts(self, texts: Sequence[str]) -> Scores:
        """(N,) cosine of picture and text; NaN where the text is empty."""
        scores = np.full(len(self), np.nan, dtype=np.float32)
        rows = [n for n in range(len(self)) if texts[n].strip()]
        if rows:
            features = self.networks.text([texts[n] for n in rows])
            for row, feature in zip(rows, features, strict=True):
                scores[row] = cosine(self.image_features[row], feature)
        return scores

    @cached_property
    def style_cosines(self) -> tuple[Scores, list[Scores]]:
        """Cosine of each picture to its own style, (N,), and to each other candidate, N arrays.

        NaN and empty for a style without words.
        """
        own = self.similarity_to_texts(self.styles)
        others = []
        for row, words in enumerate(self.styles):
            texts = [text for text in self.candidates if text != words] if words.strip() else []
            features = self.networks.text(texts) if texts else []
            found = [cosine(self.image_features[row], feature) for feature in features]
            others.append(np.array(found, dtype=np.float32))
        return own, others


def style_words(own: Sequence[str] = ()) -> list[str]:
    """Words of the styles that a picture's is told apart from: the shipped ones and a run's own."""
    shipped = [style.words for style in shipped_styles().values()]
    return list(dict.fromkeys(words for words in [*shipped, *own] if words.strip()))
