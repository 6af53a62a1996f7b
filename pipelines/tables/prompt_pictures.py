"""The pictures of prompts: those that they begin with (image, mask_image, strength), and those that
a ControlNet holds them to (`pipelines.tables.prompt_controls`).

The manifest has addresses. A request is named by what lies there (a digest of both files) and by
the strength, so that a run goes on where the pictures have moved and not where they have changed.
Light: no torch.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from eval.places import StorageError
from infinite_id.control_image import ControlImage, control_image
from infinite_id.faces.photos import PhotoError, PhotoLimits, decode_photo
from infinite_id.init_image import STRENGTH, InitImage, check_strength, init_image
from pipelines.tables.addresses import read_uri
from pipelines.tables.photo_column import absolute, name_of
from pipelines.tables.prompt_controls import CONTROL_COLUMNS, PromptControl, prompt_control
from pipelines.tables.storage import Store

__all__ = [
    "COLUMNS",
    "PictureError",
    "PictureReader",
    "Pictures",
    "PromptPicture",
    "check_pictures",
    "prompt_pictures",
    "unusable",
    "with_addresses",
]

COLUMNS = ("image", "mask_image", "control_image")
"""Of prompts, that hold addresses."""
_BEGUN = ("image", "mask_image", "strength")
_DIGESTS = "manifests/pictures.parquet"
_DIGEST_COLUMNS = pa.schema([("row", pa.int64()), ("column", pa.string()), ("digest", pa.string())])
T = TypeVar("T")
_READERS = 16
_MOST_KEPT = 32
_PAUSES = (0.5, 2.0)
"""Seconds before each further try of an address whose store may be out for a moment."""
# What another try does not mend.
_LASTING = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    TypeError,
    ImportError,
)


class PictureError(ValueError):
    """A picture that cannot be used, of one request and not of the whole run.

    Attributes:
        reason: of the request's row in `rejects`.
    """

    def __init__(self, message: str, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PromptPicture:
    """What a prompt begins with.

    Attributes:
        image, mask_image: addresses; no mask: None.
        strength: share of the steps that are taken.
        image_digest, mask_digest: of what lies there, None where it could not be read.
    """

    image: str
    mask_image: str | None
    strength: float
    image_digest: str | None = None
    mask_digest: str | None = None

    @property
    def key(self) -> str:
        """Names the picture, its mask and the strength by content."""
        parts = (
            [self.image_digest]
            if self.mask_image is None
            else [self.image_digest, self.mask_digest]
        )
        known = [part for part in parts if part is not None]
        what = "+".join(known) if len(known) == len(parts) else "unread"
        return f"{what}*{self.strength:g}"

    @property
    def told(self) -> dict[str, Any]:
        """As `requests` have it: addresses without passwords."""
        return {
            "image": name_of({"uri": self.image}),
            "mask_image": self.mask_image and name_of({"uri": self.mask_image}),
            "strength": self.strength,
        }


Pictures = tuple[PromptPicture | None, PromptControl | None]
"""What a prompt begins with, and what it is held to."""


def with_addresses(table: pa.Table, folder: str | None) -> pa.Table:
    """`table` with addresses that are relative taken from `folder`; None leaves them."""
    for name in COLUMNS:
        if folder is None or name not in table.column_names:
            continue
        kind = table.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue  # the schema's own check tells it
        uris = [None if uri is None else absolute(uri, folder) for uri in table[name].to_pylist()]
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(uris, pa.string()))
    return table


def check_pictures(prompts: pa.Table, where: str) -> None:
    """Raises a ValueError that names the first row whose mask or strength cannot stand there."""
    for number, row in enumerate(prompts.select(list(_BEGUN)).to_pylist()):
        place = f"{where}, row {number}, column"
        for name in ("mask_image", "strength"):
            if row[name] is not None and row["image"] is None:
                value = name_of({"uri": row[name]}) if name == "mask_image" else row[name]
                raise ValueError(
                    f"{place} {name!r}: value is {value!r} without image, allowed: with image"
                )
        if row["strength"] is not None:
            try:
                check_strength(row["strength"])
            except ValueError as error:
                raise ValueError(f"{place} 'strength': {error}") from None


def prompt_pictures(
    prompts: pa.Table, options: Mapping[str, Any] | None = None, store: Store | None = None
) -> list[Pictures]:
    """What each prompt begins with and is held to, None for nothing; each file is read once.

    Args:
        prompts: manifest table.
        options: of file systems by scheme.
        store: the run folder of these prompts. What was known of a picture when the run began is
            kept there and stands where the picture cannot be read now, or could not then: so a run
            goes on. One that has changed since then gives another digest.
    """
    rows = prompts.select([*_BEGUN, *CONTROL_COLUMNS]).to_pylist()
    uris = {uri: None for row in rows for name in COLUMNS if (uri := row[name]) is not None}
    with ThreadPoolExecutor(_READERS) as readers:
        digests = dict(zip(uris, readers.map(lambda uri: _digest(uri, options), uris), strict=True))
    found = [
        {name: digests[row[name]] for name in COLUMNS if row[name] is not None} for row in rows
    ]
    if store is not None and any(found):
        found = _kept(store, found)
    own = [
        {row[name]: digest for name, digest in of.items()}
        for row, of in zip(rows, found, strict=True)
    ]
    return [(_begun(row, of), prompt_control(row, of)) for row, of in zip(rows, own, strict=True)]


def _kept(store: Store, found: list[dict[str, str | None]]) -> list[dict[str, str | None]]:
    """Digests by column of each row, with what is known since the run began."""
    if not store.exists(_DIGESTS):
        rows = [
            {"row": number, "column": name, "digest": digest}
            for number, of in enumerate(found)
            for name, digest in of.items()
        ]
        store.write_table(_DIGESTS, pa.Table.from_pylist(rows, schema=_DIGEST_COLUMNS))
        return found
    known = {(r["row"], r["column"]): r["digest"] for r in store.read_table(_DIGESTS).to_pylist()}

    def digest(number: int, name: str, now: str | None) -> str | None:
        was = known.get((number, name), now)
        return was if was is None or now is None else now

    return [
        {name: digest(number, name, now) for name, now in of.items()}
        for number, of in enumerate(found)
    ]


def _begun(row: Mapping[str, Any], digests: Mapping[str, str | None]) -> PromptPicture | None:
    if row["image"] is None:
        return None
    strength = STRENGTH if row["strength"] is None else row["strength"]
    image, mask = row["image"], row["mask_image"]
    return PromptPicture(image, mask, strength, digests[image], mask and digests[mask])


def _digest(uri: str, options: Mapping[str, Any] | None) -> str | None:
    try:
        return _digest_of(_read(uri, options))
    except StorageError:  # whoever makes the picture says what is wrong
        return None


def _digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read(uri: str, options: Mapping[str, Any] | None) -> bytes:
    """As `read_uri`, with further tries where a store may be out for a moment."""
    for pause in _PAUSES:
        try:
            return read_uri(uri, options)
        except StorageError as error:
            if _lasts(error):
                raise
        time.sleep(pause)
    return read_uri(uri, options)


def _lasts(error: StorageError) -> bool:
    return error.__cause__ is None or isinstance(error.__cause__, _LASTING)


class PictureReader:
    """Pictures of prompts in the size of their requests, the last few kept. Threads may share it.

    Args:
        limits: of what is decoded.
        options: of file systems by scheme.
    """

    def __init__(
        self, limits: PhotoLimits | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self._limits, self._options = limits, options
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def begun(self, picture: PromptPicture, height: int, width: int) -> InitImage:
        """The picture that a request of that size begins with.

        Raises:
            PictureError: it cannot be read or decoded, does not fit, or is another one than when
                its digest was taken.
            StorageError: it could be read then, and its store is out now.
        """
        return self._once((picture, height, width), self._begun)

    def held(self, control: PromptControl, height: int, width: int) -> ControlImage:
        """The control picture of a request of that size.

        Raises:
            PictureError, StorageError: as of `begun`.
        """
        return self._once((control, height, width), self._held)

    def _once(self, key: tuple[Any, int, int], make: Callable[[Any, int, int], T]) -> T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make(*key)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return made

    def _begun(self, picture: PromptPicture, height: int, width: int) -> InitImage:
        image = self._pixels("image", picture.image, picture.image_digest)
        mask = None
        if picture.mask_image is not None:
            shown = self._pixels("mask_image", picture.mask_image, picture.mask_digest)
            mask = np.asarray(Image.fromarray(shown).convert("L"))
        try:
            return init_image(image, mask, picture.strength, height, width)
        except ValueError as error:
            raise PictureError(f"{picture.told['image']}: {error}") from None

    def _held(self, control: PromptControl, height: int, width: int) -> ControlImage:
        # Here: it imports OpenCV, which every command that reads a manifest would wait for.
        from infinite_id.faces.keypoints import draw_kps

        try:
            if control.image is not None:
                shown = self._pixels("control_image", control.image, control.digest)
            else:
                points = np.array(control.keypoints).reshape(5, 2) * (width, height)
                shown = draw_kps(points, height, width)
            values = {name: getattr(control, name) for name in ("scale", "start", "end", "streams")}
            return control_image(shown, height, width, **values)
        except (PictureError, StorageError):
            raise
        except ValueError as error:
            name = control.told["control_image"] or "control_keypoints"
            raise PictureError(f"{name}: {error}") from None

    def _pixels(self, what: str, uri: str, digest: str | None) -> Any:
        name = name_of({"uri": uri})
        try:
            data = _read(uri, self._options)
        except StorageError as error:
            # A store's outage must not refuse what it holds: the run ends and can be resumed.
            if digest is not None and not _lasts(error):
                raise
            raise PictureError(f"{what}: {error}", "unreachable") from None
        if digest is None:
            raise PictureError(f"{what} {name} could not be read when the run began")
        if _digest_of(data) != digest:
            raise PictureError(f"{what} {name} is another one than when the run began")
        try:
            return decode_photo(data, self._limits)
        except PhotoError as error:
            raise PictureError(f"{what} {name} cannot be used: {error}") from None


def unusable(
    pictures: Iterable[Pictures], reader: PictureReader, size: tuple[int, int], steps: int
) -> list[str]:
    """A sentence for each picture that cannot be used.

    Args:
        pictures: of prompts.
        reader: reads them.
        size: (height, width) of the requests in pixels.
        steps: of denoising.
    """
    told: dict[str, None] = {}
    for picture, control in pictures:
        try:
            if picture is not None:
                reader.begun(picture, *size).check(*size, steps)
            if control is not None:
                reader.held(control, *size)
        except ValueError as error:
            told[str(error)] = None
    return list(told)
