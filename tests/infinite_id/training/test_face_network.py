"""SFace in torch against onnxruntime, alignment against OpenCV, and gradients through both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from infinite_id.faces.detection import align_face, find_faces
from infinite_id.faces.loading import load_face_backend
from infinite_id.training.face_network import TorchSFace, align, align_matrices
from infinite_id.training.face_network_file import load_face_network
from tests.infinite_id.face_photos import photo


@pytest.fixture(scope="module")
def found() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo, the landmarks of its six faces, and the aligned faces."""
    image = photo("t1.jpg")
    faces = find_faces(image, load_face_backend("embedded"), select="all")
    return image, np.stack([f.landmarks for f, _ in faces]), np.stack([crop for _, crop in faces])


def planes(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def test_embeddings_equal_onnxruntime(found: tuple):
    _, _, aligned = found
    wanted = load_face_backend("embedded").embed(aligned)
    np.testing.assert_allclose(load_face_network()(planes(aligned)).numpy(), wanted, atol=1e-5)


def test_alignment_equals_opencv(found: tuple):
    image, landmarks, _ = found
    small = np.ascontiguousarray(image[::4, ::4])
    matrices = align_matrices(landmarks / 4)
    made = align(planes(small[None]).expand(len(matrices), -1, -1, -1), matrices)
    wanted = np.stack([align_face(small, points / 4) for points in landmarks])
    # OpenCV rounds positions to 1/32 of a pixel.
    difference = (made - planes(wanted)).abs()
    assert difference.mean() < 1
    assert difference.max() < 12


def test_gradients_reach_the_picture_and_no_weight(found: tuple):
    image, landmarks, aligned = found
    network = load_face_network()
    picture = planes(image[None]).requires_grad_()
    features = network(align(picture, align_matrices(landmarks[:1])))
    (features @ network(planes(aligned[1:2])).T).sum().backward()
    assert picture.grad is not None
    assert torch.isfinite(picture.grad).all()
    assert picture.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())


def test_a_network_is_whole_as_arrays(found: tuple):
    _, _, aligned = found
    network = load_face_network()
    arrays = network.arrays()
    assert sum(array.nbytes for array in arrays.values()) < 20_000_000
    again = TorchSFace.from_arrays(arrays)
    # Weights are kept in half precision.
    cosines = (network(planes(aligned)) * again(planes(aligned))).sum(dim=-1)
    assert cosines.min() > 0.9999
    assert [a.shape for a in again.seen(planes(aligned))] == [
        a.shape for a in network.seen(planes(aligned))
    ]
    with pytest.raises(ValueError, match="layer is 'Softmax', allowed: Affine"):
        TorchSFace.from_arrays({"kinds": np.array(["Softmax"])})


def test_an_unknown_operation_is_named(tmp_path: Path):
    node = helper.make_node("Softmax", ["data"], ["out"])
    graph = helper.make_graph([node], "g", [], [])
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx holds the operation 'Softmax'"):
        load_face_network(tmp_path / "other.onnx")
