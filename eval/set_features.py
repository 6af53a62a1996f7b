"""What the measures of whole sets are made of: features of pictures and of people's real faces.

The pictures of at most so many requests a method are read: whole people, the same ones for every
method. Every network of identity that the run was scored with embeds both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eval.judges.networks import Networks
from eval.picture_batch import PictureBatch
from eval.pictures import open_picture
from eval.run_data import RunData

__all__ = [
    "SEEDS_OF",
    "People",
    "Pictures",
    "choose_pictures",
    "pictures_vary",
    "read_people",
    "read_pictures",
]

SEEDS_OF = ("identity_id", "prompt_id", "style")
"""What stays the same between pictures of different seeds."""
_BATCH = 32
_SEED = 0

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class People:
    """Features of real faces by one network, each (P, width), P >= 1.

    `used` conditioned the pictures, `held_out` did not; people without held-out faces are absent
    from the latter.
    """

    used: dict[str, Features]
    held_out: dict[str, Features]

    def whole(self, originals: Mapping[str, str]) -> People:
        """Without the people's coarser photos, which are no further people."""
        return People(
            *({name: one for name, one in part.items() if name not in originals}
              for part in (self.used, self.held_out))
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pictures:
    """Features of the pictures read.

    Attributes:
        rows: (N,) of `RunData.samples`.
        faces: network ("facenet" and those given) -> (N, width); NaN without a face.
        images: (N, width) of the image-text model; None where no two pictures answer one request
            with different seeds.
    """

    rows: NDArray[np.int64]
    faces: dict[str, Features]
    images: Features | None


def choose_pictures(data: RunData, most: int) -> list[str]:
    """sample_ids of whole people, in a fixed random order, until a method has `most`."""
    made = data.samples["has_image"]
    methods = max(1, len(data.names("method")))
    people = np.array(data.names("identity_id"), dtype=object)
    order = np.random.default_rng(_SEED).permutation(len(people))
    rank = {person: number for number, person in enumerate(people[order].tolist())}
    rows = np.flatnonzero(made)
    place = np.array([rank[p] for p in data.samples["identity_id"][rows].tolist()], dtype=np.int64)
    rows = rows[np.argsort(place, kind="stable")]
    return data.samples["sample_id"][rows[: most * methods]].tolist()


def pictures_vary(data: RunData, ids: Sequence[str]) -> bool:
    """Whether some of these pictures differ in nothing but the seed."""
    chosen = np.isin(data.samples["sample_id"].astype(str), np.array(ids, dtype=str))
    columns = (data.samples[key][chosen].tolist() for key in ("method", *SEEDS_OF))
    return max(Counter(zip(*columns, strict=True)).values(), default=0) > 1


def read_pictures(data: RunData, networks: Networks, ids: Sequence[str]) -> Pictures:
    """Features of these pictures; those that cannot be decoded are left out."""
    row_of = {name: row for row, name in enumerate(data.samples["sample_id"].tolist())}
    rows: list[int] = []
    faces: dict[str, list[Features]] = {name: [] for name in networks.face_judges()}
    images: list[Features] = []
    for group in _batches(data.pictures(ids)):
        opened = [(row_of[name], open_picture(encoded)) for name, encoded in group]
        whole = [(row, np.asarray(picture)) for row, picture in opened if picture is not None]
        if not whole:
            continue
        arrays = [picture for _, picture in whole]
        blank = [""] * len(arrays)
        batch = PictureBatch(networks, arrays, blank, [[]] * len(arrays), blank)
        rows += [row for row, _ in whole]
        for name, found in faces.items():
            found.append(batch.face_features(name))
        if networks.image_text is not None:
            images.append(batch.image_features)
    return Pictures(
        np.array(rows, dtype=np.int64),
        {name: _joined(found) for name, found in faces.items()},
        np.concatenate(images) if images else None,
    )


def _joined(batches: Sequence[Features]) -> Features:
    """(N, width) of batches, of which one without any face has the width 1."""
    if not batches:
        return np.empty((0, 1), dtype=np.float32)
    width = max(one.shape[1] for one in batches)
    return np.concatenate(
        [one if one.shape[1] == width else np.repeat(one[:, :1], width, 1) for one in batches]
    )


def _batches(pairs: Iterator[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    group: list[tuple[str, bytes]] = []
    for pair in pairs:
        group.append(pair)
        if len(group) == _BATCH:
            yield group
            group = []
    if group:
        yield group


def read_people(data: RunData, networks: Networks, wanted: Sequence[str]) -> dict[str, People]:
    """Network -> features of the real faces of these people."""
    used = _crops(data, "embeddings", wanted)
    every = _crops(data, "faces", wanted)
    held_out = {
        person: [crop for crop in crops if crop not in used[person]]
        for person, crops in every.items()
        if person in used
    }
    opened = _opened(used), _opened(held_out)
    return {
        network: People(
            *(
                {person: np.stack(networks.reference(network)(one)) for person, one in part.items()}
                for part in opened
            )
        )
        for network in networks.face_judges()
    }


def _opened(crops: Mapping[str, list[bytes]]) -> dict[str, list[NDArray[np.uint8]]]:
    found = {
        person: [np.asarray(p) for data in encoded if (p := open_picture(data)) is not None]
        for person, encoded in crops.items()
    }
    return {person: pictures for person, pictures in found.items() if pictures}


def _crops(data: RunData, table: str, wanted: Sequence[str]) -> dict[str, list[bytes]]:
    source = data.folder.dataset(table)
    found: dict[str, list[bytes]] = defaultdict(list)
    if source is None:
        return found
    chosen = pc.field("identity_id").isin(pa.array(wanted, pa.string()))
    for row in source.to_table(columns=["identity_id", "aligned"], filter=chosen).to_pylist():
        crops = row["aligned"] if isinstance(row["aligned"], list) else [row["aligned"]]
        found[row["identity_id"]] += crops
    return dict(found)
