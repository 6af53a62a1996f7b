"""The training data in one small file, for machines that cannot make them.

Making people needs the face networks and OpenCV; training needs neither. A pack holds pictures
and aligned faces as JPEG (about 2 KB and 3 KB each), captions, landmarks and embeddings, and the
face network of the losses (19 MB). It is read with numpy and Pillow alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.training.dataset import People, Pictures
from infinite_id.training.face_network import TorchSFace

__all__ = ["Faces", "read_pack", "write_pack"]

QUALITY = 85


@dataclass(frozen=True, slots=True)
class Faces:
    """What training reads of N people with three pictures each.

    Attributes:
        aligned: uint8 (N, 3, 112, 112, 3) RGB.
        face: float32 (N, 3, 128), unit norm.
    """

    aligned: NDArray[np.uint8]
    face: NDArray[np.float32]

    @classmethod
    def of(cls, people: People) -> Faces:
        """The part of `people` that training reads."""
        return cls(people.aligned, people.face)


def write_pack(
    path: Path,
    faces: Faces,
    train: Pictures,
    scorer: Pictures,
    network: TorchSFace | None = None,
) -> int:
    """Writes one file; its bytes.

    Args:
        path: of the file.
        faces: of the people in `train`.
        train, scorer: pictures of the two splits.
        network: that sees faces in losses; None: a machine without its file trains without them.
    """
    flat = faces.aligned.reshape(-1, *faces.aligned.shape[2:])
    arrays = {"face": faces.face.astype(np.float16), **_encoded("aligned", flat)}
    for name, pictures in (("train", train), ("scorer", scorer)):
        arrays |= _encoded(f"{name}/images", pictures.images)
        arrays[f"{name}/person"] = pictures.person
        arrays[f"{name}/portrait"] = pictures.portrait
        arrays[f"{name}/captions"] = np.frombuffer(
            "\n".join(pictures.captions).encode(), dtype=np.uint8
        )
        arrays[f"{name}/style"] = pictures.style
        arrays[f"{name}/landmarks"] = pictures.landmarks
        arrays[f"{name}/other"] = pictures.other
    if network is not None:
        arrays |= {f"network/{name}": array for name, array in network.arrays().items()}
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    return path.stat().st_size


def read_pack(path: Path) -> tuple[Faces, Pictures, Pictures, TorchSFace | None]:
    """(faces, pictures to train on, pictures of the scorer, face network where there is one).

    Raises:
        ValueError: not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        face = arrays["face"].astype(np.float32)
        aligned = _decoded(arrays, "aligned")
        faces = Faces(aligned.reshape(*face.shape[:2], *aligned.shape[1:]), face)
        train, scorer = (
            Pictures(
                images=_decoded(arrays, f"{name}/images"),
                person=arrays[f"{name}/person"],
                portrait=arrays[f"{name}/portrait"],
                captions=np.array(arrays[f"{name}/captions"].tobytes().decode().split("\n")),
                style=arrays[f"{name}/style"],
                landmarks=arrays[f"{name}/landmarks"],
                other=arrays[f"{name}/other"],
            )
            for name in ("train", "scorer")
        )
        own = {k.removeprefix("network/"): a for k, a in arrays.items() if "network/" in k}
        network = TorchSFace.from_arrays(own) if own else None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"data pack {path} cannot be read: {error}") from error
    return faces, train, scorer, network


def _encoded(name: str, images: NDArray[np.uint8]) -> dict[str, NDArray]:
    parts = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        parts.append(buffer.getvalue())
    ends = np.cumsum([len(part) for part in parts])
    return {name: np.frombuffer(b"".join(parts), np.uint8), f"{name}/ends": ends}


def _decoded(arrays: dict[str, NDArray], name: str) -> NDArray[np.uint8]:
    data, ends = arrays[name].tobytes(), arrays[f"{name}/ends"].tolist()
    return np.stack(
        [
            np.asarray(Image.open(io.BytesIO(data[start:end])))
            for start, end in zip([0, *ends], ends, strict=False)
        ]
    )
