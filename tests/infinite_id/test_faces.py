from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

from infinite_id.faces.alignment import ARCFACE_TEMPLATE
from infinite_id.faces.detection import FaceError, align_face, find_faces
from infinite_id.faces.embedded import sface_path
from infinite_id.faces.loading import load_face_backend
from infinite_id.faces.onnx_files import onnx_session
from tests.infinite_id.face_photos import embedded, photo, portraits, resized, split

SIX, ONE = "t1.jpg", "Tom_Hanks_54745.png"


@pytest.mark.parametrize(("name", "count"), [(SIX, 6), (ONE, 1)])
def test_every_face_is_found(name: str, count: int) -> None:
    found = find_faces(photo(name), embedded(), select="all")
    assert len(found) == count
    centres = [float(face.bbox[[0, 2]].mean()) for face, _ in found]
    assert centres == sorted(centres)


def test_landmarks_lie_as_on_a_face() -> None:
    ((face, _),) = find_faces(photo(ONE), embedded())
    eye, other_eye, nose, mouth, other_mouth = face.landmarks
    assert eye[0] < other_eye[0]
    assert mouth[0] < other_mouth[0]
    assert max(eye[1], other_eye[1]) < nose[1] < min(mouth[1], other_mouth[1])


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_size_of_the_picture_scales_the_box(factor: float) -> None:
    reference = [face.bbox * factor for face, _ in find_faces(photo(SIX), embedded(), select="all")]
    found = [
        face.bbox for face, _ in find_faces(resized(photo(SIX), factor), embedded(), select="all")
    ]
    np.testing.assert_allclose(found, reference, atol=8 * factor)


def test_face_28_px_wide_in_a_64_px_picture() -> None:
    picture = np.full((64, 64, 3), 128, dtype=np.uint8)
    face = resized(photo(ONE), 40 / 112)
    picture[12:52, 12:52] = face
    ((small, aligned),) = find_faces(picture, embedded())
    assert 22 < small.size < 32
    ((_, original),) = find_faces(photo(ONE), embedded())
    a, b = embedded().embed(np.stack([aligned, original]))
    assert a @ b > 0.6


def test_same_and_different_people() -> None:
    """Same: one photo at full and half size. Different: six people of one photo, 0.36 at most."""
    faces = np.stack([crop for _, crop in find_faces(photo(SIX), embedded(), select="all")])
    half = resized(photo(SIX), 0.5)
    again = np.stack([crop for _, crop in find_faces(half, embedded(), select="all")])
    cosines = embedded().embed(faces) @ embedded().embed(again).T
    assert np.diag(cosines).min() > 0.63
    assert cosines[~np.eye(6, dtype=bool)].max() < 0.45


def test_portraits_of_synthetic_people() -> None:
    """Other light, expression and background: half the cosine is left, and it still tells apart."""
    faces = np.stack([find_faces(image, embedded())[0][1] for image in portraits()])
    features = embedded().embed(faces)
    same, different = split(features @ features.T)
    assert same.mean() > different.mean() + 0.25
    assert different.max() < 0.45


def test_batch_equals_one_by_one() -> None:
    faces = np.stack([crop for _, crop in find_faces(photo(SIX), embedded(), select="all")])
    single = np.concatenate([embedded().embed(face[None]) for face in faces])
    np.testing.assert_allclose(embedded().embed(faces), single, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(single, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        (SIX, {"select": "single"}, "several_faces"),
        (SIX, {"select": 6}, "face_index"),
        (SIX, {"select": -1}, "face_index"),
        (SIX, {"select": "all", "min_face": 400}, "face_too_small"),
    ],
)
def test_refused_faces(name: str, options: dict, reason: str) -> None:
    with pytest.raises(FaceError) as caught:
        find_faces(photo(name), embedded(), **options)
    assert caught.value.reason == reason


def test_picture_without_a_face() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    with pytest.raises(FaceError, match="300 x 200") as caught:
        find_faces(noise, embedded())
    assert caught.value.reason == "no_face"


@pytest.mark.parametrize("index", [0, 3, 5])
def test_selection_by_number_from_the_left(index: int) -> None:
    every = find_faces(photo(SIX), embedded(), select="all")
    ((face, _),) = find_faces(photo(SIX), embedded(), select=index)
    assert np.array_equal(face.bbox, every[index][0].bbox)


def test_largest() -> None:
    every = [face.size for face, _ in find_faces(photo(SIX), embedded(), select="all")]
    ((face, _),) = find_faces(photo(SIX), embedded(), select="largest")
    assert face.size == max(every)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((40, 40), dtype=np.uint8), {}, r"uint8 \(40, 40\)"),
        (np.zeros((40, 40, 3), dtype=np.float32), {}, "float32"),
        (np.zeros((40, 40, 3), dtype=np.uint8), {"select": "best"}, "select is 'best'"),
        (np.zeros((40, 40, 3), dtype=np.uint8), {"select": True}, "select is True"),
        (np.zeros((40, 40, 3), dtype=np.uint8), {"sizes": ()}, "sizes is"),
    ],
)
def test_wrong_arguments(image: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_faces(image, embedded(), **options)


def test_alignment_equals_insightface() -> None:
    from insightface.utils.face_align import norm_crop

    face, aligned = find_faces(photo(SIX), embedded(), select=2)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        expected = norm_crop(photo(SIX), face.landmarks)
    assert np.abs(aligned.astype(int) - expected).max() <= 1


def test_noise_of_a_large_photo_is_averaged() -> None:
    """Eight times as large with sensor noise: skipping pixels would leave 0.70 of the cosine."""
    ((face, clean),) = find_faces(photo(ONE), embedded())
    large = resized(photo(ONE), 8).astype(np.float32)
    large += np.random.default_rng(0).normal(0, 25, large.shape)
    crop = align_face(np.clip(large, 0, 255).astype(np.uint8), face.landmarks * 8)
    a, b = embedded().embed(np.stack([crop, clean]))
    assert a @ b > 0.95


@pytest.mark.parametrize("shift", [(0, 0), (-30, 20), (70, -70)])
def test_large_face_lies_where_a_small_one_does(shift: tuple[int, int]) -> None:
    """A ramp of x in red and y in green says for each pixel of the crop where it came from."""
    x, y = np.meshgrid(np.arange(1000), np.arange(800))
    ramp = np.stack([x / 4, y / 4, np.full_like(x, 200)], axis=2).astype(np.uint8)
    angle, scale = np.deg2rad(15), 5.0
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    origin = np.array([250.0, 60.0]) + np.multiply(shift, scale)
    aligned = align_face(ramp, (ARCFACE_TEMPLATE @ rotation.T + origin).astype(np.float32))
    column, row = np.meshgrid(np.arange(112), np.arange(112))
    source = np.stack([column, row], axis=2) @ rotation.T + origin
    inside = ((source > 5) & (source < (994, 794))).all(axis=2)
    outside = ((source < -5) | (source > (1004, 804))).any(axis=2)
    np.testing.assert_allclose(aligned[inside][:, :2], source[inside] / 4, atol=2)
    assert (aligned[outside] == 0).all()


def test_large_face_outside_the_picture_is_black() -> None:
    white = np.full((50, 50, 3), 255, dtype=np.uint8)
    assert not align_face(white, ARCFACE_TEMPLATE * 5 + np.float32(900)).any()


def test_alignment_of_coinciding_points() -> None:
    with pytest.raises(ValueError, match="coincide"):
        align_face(photo(ONE), np.ones((5, 2), dtype=np.float32))


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(FaceError("no_face", "none")))  # noqa: S301
    assert (error.reason, str(error)) == ("no_face", "none")


def test_unknown_provider() -> None:
    with pytest.raises(ValueError, match=r"provider is 'MagicExecutionProvider'.*CPUExecution"):
        load_face_backend("embedded", providers=["MagicExecutionProvider"])


@pytest.mark.parametrize("threads", [2, 3])
def test_embedding_does_not_depend_on_threads(threads: int) -> None:
    crops = np.stack([align_face(image, ARCFACE_TEMPLATE * 0.5) for image in portraits()[:7]])
    several = load_face_backend("embedded", threads=threads).embed(crops)
    np.testing.assert_allclose(several, embedded().embed(crops), atol=1e-6)


def test_embedding_of_no_face() -> None:
    assert embedded().embed(np.empty((0, 112, 112, 3), np.uint8)).shape == (0, 128)


def test_no_threads() -> None:
    with pytest.raises(ValueError, match="threads is 0, allowed: 1 or more"):
        load_face_backend("embedded", threads=0)


def test_the_form_for_cpus_gives_what_the_file_gives() -> None:
    """`split_prelus` against the network as it was published."""
    crops = np.stack([align_face(image, ARCFACE_TEMPLATE * 0.5) for image in portraits()[:4]])
    session = onnx_session(sface_path())
    pixels = crops.transpose(0, 3, 1, 2).astype(np.float32)
    (wanted,) = session.run(None, {"data": pixels})
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(embedded().embed(crops), wanted, atol=1e-5)
