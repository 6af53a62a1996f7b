"""One photo gives one answer to every command that is given photos: the actors of a run, the
service, Python, DreamBooth and the pairs of a training."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from infinite_id.baselines.config import DreamBoothConfig
from infinite_id.config import preset
from infinite_id.faces.detection import FaceError, find_faces
from infinite_id.faces.photo_faces import photo_faces
from infinite_id.faces.photos import PhotoLimits, decode_photo
from infinite_id.interface.people import People
from pipelines.run.units import unit_table
from pipelines.serving.errors import ServiceError
from pipelines.serving.faces import FaceStage
from pipelines.serving.page import sample_photo
from pipelines.stages.people import FaceActor
from pipelines.tables.pictures import decode_image
from pipelines.tables.schemas import FACES, IDENTITIES, REJECTS
from pipelines.tables.storage import Store
from pipelines.training.dreambooth import DreamBoothActor, _Told
from pipelines.training.pairs import PairActor
from tests.infinite_id.face_photos import embedded, photo

Picture = NDArray[np.uint8]


@cache
def _person() -> Picture:
    image = decode_photo(sample_photo("person-1"))
    return cv2.resize(image, (256, 256), interpolation=cv2.INTER_LANCZOS4)


def _in_large(face: int, height: int, width: int) -> Picture:
    """A photo with a face of that many pixels at its side."""
    ((found, _),) = find_faces(_person(), embedded())
    scale = face / found.size
    small = cv2.resize(_person(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    large = np.full((height, width, 3), 128, np.uint8)
    top, left = height // 2, 2 * width // 3
    large[top : top + small.shape[0], left : left + small.shape[1]] = small
    return large


@cache
def _photos() -> dict[str, Picture]:
    ((face, _),) = find_faces(_person(), embedded())
    return {
        "upright": _person(),
        "on its side": np.ascontiguousarray(np.rot90(_person())),
        "on its head": np.ascontiguousarray(np.rot90(_person(), 2)),
        "small": _in_large(24, 1800, 2400),
        "cut": np.ascontiguousarray(_person()[int(face.landmarks[:2, 1].mean()) :]),
        "six": photo("t1.jpg"),
        "nobody": np.full((64, 64, 3), 90, np.uint8),
    }


# What every one of them says: a face, or the reason.
ANSWERS = {
    "upright": "face",
    "on its side": "face",
    "on its head": "face",
    "small": "face",
    "cut": "cut_off",
    "six": "several_faces",
    "nobody": "no_face",
}


def _png(image: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _same_person(crop: Picture, name: str) -> bool:
    ((_, wanted),) = find_faces(_person(), embedded())
    a, b = embedded().embed(np.stack([wanted, crop]))
    return bool(a @ b > (0.6 if name == "small" else 0.95))


def test_the_actors(tmp_path):
    people = [
        {"identity_id": name, "photos": [{"uri": f"{name}.png", "bytes": _png(image)}]}
        for name, image in _photos().items()
    ]
    store = Store(tmp_path)
    store.write_table("manifest.parquet", pa.Table.from_pylist(people, schema=IDENTITIES))
    actor = FaceActor(store, f"{store.url}/manifest.parquet", [(0, 0, len(people))], "embedded")
    actor(unit_table([0]))
    faces = store.read_folder("faces", FACES).to_pylist()
    rejects = store.read_folder("rejects", REJECTS).to_pylist()
    said = {row["identity_id"]: "face" for row in faces}
    assert said | {row["key"]: row["reason"] for row in rejects} == ANSWERS
    for row in faces:
        assert _same_person(decode_image(row["aligned"]), row["identity_id"]), row["identity_id"]


def _check(name: str, look: Callable[[], Picture], error: type[Exception], code: str) -> None:
    """What `look` gives, a crop or an error, is the answer to the photo of that name."""
    if ANSWERS[name] == "face":
        assert _same_person(look(), name), name
        return
    with pytest.raises(error) as caught:
        look()
    assert getattr(caught.value, code) == ANSWERS[name], name


@pytest.mark.parametrize("name", ANSWERS)
def test_python(name):
    def look() -> Picture:
        return _python().faces(_photos()[name], select="single")[0].aligned

    _check(name, look, FaceError, "reason")


@cache
def _python() -> People:
    from infinite_id.identity.encoders import load_identity_encoder

    return People(lambda: load_identity_encoder(preset("pocket").encoders))


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "small"])
def test_the_service(name):
    def look() -> Picture:
        person = _stage().embed([_png(_photos()[name])], "single", "person", "key")
        return person.identity.images[0]

    _check(name, look, ServiceError, "code")


@cache
def _stage() -> FaceStage:
    return FaceStage(preset("pocket"), PhotoLimits(), 20.0)


def test_the_service_does_not_search_strangers_photos_for_seconds():
    """The one difference: docs/faces.md tells it."""
    with pytest.raises(ServiceError, match="no face found") as caught:
        _stage().embed([_png(_photos()["small"])], "single", "person", "key")
    assert caught.value.code == "no_face"


def test_dreambooth():
    actor = DreamBoothActor(
        pa.Table.from_pylist([], schema=IDENTITIES), "loras", preset("pocket"), DreamBoothConfig()
    )
    names = list(ANSWERS)
    photos = [{"uri": name, "bytes": _png(_photos()[name])} for name in names]
    told = _Told([])
    person = {"identity_id": "ada", "face_index": None}
    shown = actor._photos({**person, "photos": photos}, told)
    assert len(shown) == list(ANSWERS.values()).count("face")
    for picture in shown:
        # Upright, and around the face: it is found there without a turn.
        ((face, _),) = find_faces(picture, embedded())
        centre = face.bbox.reshape(2, 2).mean(axis=0) / picture.shape[0]
        assert np.abs(centre - 0.5).max() < 0.25
    # What is lost is named, with its reason.
    assert [line.partition(": ")[0] for line in told.left_out] == names[-3:]
    assert told.left_out[0].endswith("the border of the picture cuts the face off at the eyes")
    with pytest.raises(ValueError, match="nobody: no face found in the 64 x 64 px picture"):
        actor._photos({**person, "photos": photos[-1:]}, _Told([]))
    # The six are not of this person; two photos are: who does not agree is told, or refused.
    both = [photos[0], {"uri": "other", "bytes": sample_photo("person-2")}]
    assert len(actor._photos({**person, "photos": both}, told)) == 2
    assert str(told.warning).startswith("the photos of 'ada' do not agree: ")
    actor._check = True
    with pytest.raises(ValueError, match="of 'ada' do not agree: upright and other"):
        actor._photos({**person, "photos": both}, _Told([]))
    told = _Told([])
    assert len(actor._photos({**person, "photos": [*photos[:3], both[1]]}, told)) == 3
    assert told.warning is None
    assert told.left_out[0].startswith("other: the photos of 'ada' do not agree: ")


def test_pairs():
    actor = PairActor(preset("pocket"))
    for name in ANSWERS:
        _check(name, lambda name=name: actor._photo(_png(_photos()[name]))[1], FaceError, "reason")
    for name in ("on its side", "on its head"):
        target, _ = actor._photo(_png(_photos()[name]))
        assert np.abs(target.astype(int) - actor._photo(_png(_person()))[0]).mean() < 1


def test_a_small_face_of_twelve_megapixels():
    """A face of 24 px is 8 px wide where the photo's long side is 1280: it was not found."""
    image = _in_large(24, 3000, 4000)
    ((face, crop),) = photo_faces(image, embedded())
    assert 18 <= face.size <= 34
    assert np.abs(face.bbox[:2] - [2666, 1500]).max() < 30
    assert _same_person(crop, "small")


@pytest.mark.parametrize("turns", [1, 2])
def test_a_small_face_of_a_photo_that_lies(turns):
    """A face of 30 px: none of the three sizes shows it, and none upright."""
    image = np.ascontiguousarray(np.rot90(_in_large(30, 1800, 2400), turns))
    ((face, crop),) = photo_faces(image, embedded())
    assert face.turned == 360 - 90 * turns
    assert _same_person(crop, "small")
