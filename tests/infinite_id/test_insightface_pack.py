"""insightface packs, through tiny ONNX files in the form that insightface routes by."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from infinite_id.faces.detection import find_faces
from infinite_id.faces.loading import load_face_backend

CELL = 21  # of the 64 px input's 8 x 8 stride-8 grid with two anchors: column 2, row 1
POINTS = np.array([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]], dtype=np.float32)


def save(path: Path, inputs: list, constants: list[np.ndarray]) -> None:
    """A network whose outputs are constants plus 0 times the input."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    weights = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    outputs = []
    for number, constant in enumerate(constants):
        weights.append(numpy_helper.from_array(constant, f"c{number}"))
        nodes.append(helper.make_node("Add", [f"c{number}", "nothing"], [f"y{number}"]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", 1, constant.shape))
    value = helper.make_tensor_value_info("x", 1, inputs)
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", [value], outputs, weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, path)


def save_detector(folder: Path) -> None:
    """SCRFD's nine outputs: scores, distances to the box's sides, landmarks, at three strides."""
    scores, boxes, points = [], [], []
    for stride in (8, 16, 32):
        cells = 2 * (64 // stride) ** 2
        score = np.zeros((cells, 1), np.float32)
        score[CELL if stride == 8 else slice(0)] = 0.9
        scores.append(score)
        boxes.append(np.full((cells, 4), 2, np.float32))
        points.append(np.tile(POINTS.reshape(1, 10), (cells, 1)))
    save(folder / "det.onnx", [1, 3, 64, 64], scores + boxes + points)


def save_recogniser(folder: Path) -> None:
    feature = np.zeros((1, 512), np.float32)
    feature[0, :2] = (3, 4)
    save(folder / "rec.onnx", [1, 3, 112, 112], [feature])


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    save_detector(folder)
    save_recogniser(folder)
    return folder


IMAGE = np.full((64, 64, 3), 100, dtype=np.uint8)


def test_detection_is_where_the_network_says(pack: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        ((face, aligned),) = find_faces(IMAGE, load_face_backend(str(pack)), sizes=(64,))
    centre = np.array([2, 1]) * 8
    np.testing.assert_allclose(face.bbox, [*(centre - 16), *(centre + 16)], atol=1e-4)
    np.testing.assert_allclose(face.landmarks, centre + POINTS * 8, atol=1e-4)
    assert face.det_score == pytest.approx(0.9)
    assert aligned.shape == (112, 112, 3)


def test_embedding_is_normalised(pack: Path) -> None:
    backend = load_face_backend("tiny", root=pack.parent.parent)
    features = backend.embed(np.zeros((3, 112, 112, 3), dtype=np.uint8))
    assert features.shape == (3, backend.face_width) == (3, 512)
    np.testing.assert_allclose(features[:, :2], [[0.6, 0.8]] * 3, atol=1e-6)


def test_nested_archive(pack: Path) -> None:
    inner = pack / "tiny"
    inner.mkdir()
    for path in pack.glob("*.onnx"):
        path.rename(inner / path.name)
    assert load_face_backend(str(pack)).name == "tiny"


@pytest.mark.parametrize(("missing", "task"), [("det", "detection"), ("rec", "recognition")])
def test_lacking_network_is_named(pack: Path, missing: str, task: str) -> None:
    (pack / f"{missing}.onnx").unlink()
    with pytest.raises(ValueError, match=f"holds no {task} network"):
        load_face_backend(str(pack))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no .onnx file"):
        load_face_backend(str(tmp_path))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_face_backend(str(tmp_path / "none"))


def test_failed_download_names_the_pack_and_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ValueError, match=r"'no-such-pack'.*could not be downloaded"),
    ):
        load_face_backend("no-such-pack", root=tmp_path)
    assert "NON-COMMERCIAL" in caplog.text
