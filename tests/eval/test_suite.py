"""The scoring suite on the photos that insightface ships, with the pocket preset's networks."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from eval.judges.control import control_auc, control_people
from eval.judges.networks import FeatureCache
from eval.metrics import DEFAULT_METRICS, METRICS
from eval.run_data import read_run
from eval.suite import load_suite
from infinite_id.faces.detection import find_faces
from infinite_id.faces.loading import load_face_backend
from infinite_id.identity.encoders import CLIP_MEAN, CLIP_STD
from infinite_id.pocket.image_text import load_scorer
from infinite_id.prompts import shipped_styles
from pipelines.tables import schemas
from tests.eval.runs import write_run, write_table

PROMPTS = ["a woman on the beach", "a man in the snow, anime"]


@pytest.fixture(scope="module")
def suite():
    return load_suite()


@pytest.fixture(scope="module")
def people() -> list[tuple[np.ndarray, np.ndarray]]:
    """(64 px picture, aligned reference) of the six people of t1.jpg, left to right."""
    folder = Path(str(find_spec("insightface").origin)).parent / "data/images"
    photo = np.asarray(Image.open(folder / "t1.jpg").convert("RGB"))
    found = []
    for face, crop in find_faces(photo, load_face_backend("embedded"), select="all"):
        x0, y0, x1, y1 = face.bbox
        half, (x, y) = 0.9 * max(x1 - x0, y1 - y0), ((x0 + x1) / 2, (y0 + y1) / 2)
        box = photo[max(0, int(y - half)) : int(y + half), max(0, int(x - half)) : int(x + half)]
        found.append((cv2.resize(box, (64, 64), interpolation=cv2.INTER_AREA), crop))
    return found


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def own(suite, people):
    """Scores of each picture against its own person, the last style without words."""
    pictures, crops = zip(*people, strict=True)
    styles = ["anime"] * 5 + [""]
    return suite.score(pictures, PROMPTS * 3, [[crop] for crop in crops], styles)


def test_the_columns_are_the_default_metrics(own):
    assert tuple(own) == DEFAULT_METRICS
    assert all(values.dtype == np.float32 and values.shape == (6,) for values in own.values())


def test_every_person_is_found_once(own):
    assert own["face_found"].tolist() == [1.0] * 6
    assert own["face_count"].tolist() == [1.0] * 6


@pytest.mark.parametrize("metric", ["identity_facenet", "identity_sface"])
def test_a_person_is_nearer_to_the_own_reference_than_to_any_other(suite, people, own, metric):
    pictures = [picture for picture, _ in people]
    crops = [crop for _, crop in people]
    batch, others = suite.batch(pictures, PROMPTS * 3, [[crop] for crop in crops]), []
    for k, crop in enumerate(crops):
        batch.references = [[crop]] * 6  # the faces are found once
        others.append(METRICS[metric].compute(batch)[[n for n in range(6) if n != k]])
    assert own[metric].min() > np.max(others)
    # Two people reach 0.36 with SFace and 0.53 with FaceNet.
    assert own[metric].mean() > 0.6


def test_several_references_count_as_their_mean(suite, people):
    (picture, first), (_, second) = people[:2]
    faces = load_face_backend("embedded")
    found = suite.score([picture], ["x"], [[first, second]])["identity_sface"][0]
    (_, crop), *_ = find_faces(picture, faces, sizes=(256,), min_face=5)
    a, b, c = faces.embed(np.stack([crop, first, second])).astype(np.float64)
    assert found == pytest.approx(a @ (b + c) / np.linalg.norm(b + c), abs=1e-4)


def test_a_picture_without_a_face_is_unscorable_and_the_rest_is_not(suite, people, noise):
    picture, crop = people[0]
    found = suite.score([noise, picture], PROMPTS, [[crop], [crop]])
    assert found["face_found"].tolist() == [0.0, 1.0]
    for metric in ("identity_facenet", "identity_sface", "image_score"):
        assert np.isnan(found[metric]).tolist() == [True, False]
    assert np.isfinite(found["text_score"]).all()


@pytest.mark.parametrize("metric", ["identity_facenet", "identity_sface", "image_score"])
def test_without_a_reference_there_is_no_similarity(suite, people, metric):
    found = suite.score([people[0][0]], ["x"], [[]])
    assert np.isnan(found[metric][0])
    assert np.isfinite(found["text_score"][0])


def test_text_score_is_the_models_own_cosine(own, people):
    """Against CLIPModel's forward pass and torch's resizing-free pixels."""
    model, tokenizer, _ = load_scorer()
    pixels = torch.from_numpy(np.stack([picture for picture, _ in people])).movedim(-1, 1) / 255
    mean, std = (torch.tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
    tokens = tokenizer(PROMPTS * 3, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(pixel_values=(pixels - mean) / std, **tokens)
        expected = output.logits_per_image.diagonal() / model.logit_scale.exp()
    assert own["text_score"] == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_style_is_told_apart_from_the_shipped_ones(suite, own, people):
    assert np.isnan(own["style_score"]).tolist() == [False] * 5 + [True]
    assert np.isnan(own["style_first"]).tolist() == [False] * 5 + [True]
    words = ["anime", *(style.words for style in shipped_styles().values())]
    cosines = [suite.score([people[0][0]], [text], [[]])["text_score"][0] for text in words]
    assert own["style_score"][0] == pytest.approx(cosines[0] - np.mean(cosines[1:]), abs=1e-5)
    assert own["style_first"][0] == (cosines[0] > max(cosines[1:]))
    first = int(np.argmax(cosines[1:])) + 1
    for k in {1, first}:  # once the right answer, once a wrong one, unless the first is the right
        found = suite.score([people[0][0]], ["x"], [[]], [words[k]])["style_first"][0]
        assert found == (k == first)
    assert "8 styles; chance is 1 in 8" in suite.metrics["style_first"].note


def test_the_styles_of_a_run_are_told_apart_too():
    suite = load_suite(["style_first"], styles=["in crayon", "raw photo", ""])
    assert "9 styles" in suite.metrics["style_first"].note


def test_a_mix_is_what_its_weights_make_it(suite, people):
    (picture, first), (_, second) = people[:2]
    crops = [[first, second]] * 3
    found = suite.score([picture] * 3, ["x"] * 3, crops, weights=[[1, 0], [0.5, 0.5], [0, 1]])
    alone = suite.score([picture] * 2, ["x"] * 2, [[first], [second]])
    even = suite.score([picture], ["x"], [[first, second]])
    for metric in ("identity_facenet", "identity_sface", "image_score"):
        assert found[metric][0] == pytest.approx(alone[metric][0], abs=1e-6)
        assert found[metric][2] == pytest.approx(alone[metric][1], abs=1e-6)
        assert found[metric][1] == pytest.approx(even[metric][0], abs=1e-6)
    with pytest.raises(ValueError, match="has 1 references and 2 weights"):
        suite.score([picture], ["x"], [[first]], weights=[[1, 0]])


class Blind:
    """An image-text model to which all pictures look alike but for noise."""

    name, revision, note = "blind", "r", ""

    def embed_images(self, images):
        return np.random.default_rng(0).normal(size=(len(images), 64)).astype(np.float32)

    embed_texts = embed_images


def test_an_image_score_that_sees_no_people_is_left_out(people, tmp_path):
    suite = load_suite(["image_score", "text_score"], image_text=Blind())
    (picture, crop), *_ = people
    found = suite.score([picture], ["x"], [[crop]])
    assert np.isnan(found["image_score"][0])
    sentence = suite.metrics["image_score"].left_out
    assert sentence.startswith("image_score is left out: its network tells the people of the contr")
    samples = write_run(tmp_path / "run", people=2)
    write_table(
        tmp_path / "run", "scores",
        [sample | {"image_score": np.nan} for sample in samples],
        schemas.scores_schema(["text_score", "image_score"]),
    )  # fmt: skip
    run = json.loads((tmp_path / "run/run.json").read_text())
    run["metrics"] = {name: info.as_dict() for name, info in suite.metrics.items()}
    (tmp_path / "run/run.json").write_text(json.dumps(run))
    data = read_run(tmp_path / "run")
    assert list(data.metrics) == list(data.scores) == ["text_score"]
    assert sentence in data.missing


def test_the_control_people_are_the_synthetic_ones(suite):
    folder = Path(__file__).parents[1] / "assets"
    for person, portraits in enumerate(control_people()):
        for number, crop in enumerate(portraits):
            photo = np.asarray(Image.open(folder / f"person{person}_{number}.png").convert("RGB"))
            ((_, aligned),) = find_faces(photo, suite._networks.faces, sizes=(256,))
            assert np.abs(aligned.astype(int) - crop).mean() < 4
    assert control_auc(suite._networks.facenet_reference) > 0.95
    assert control_auc(lambda crops: np.ones((len(crops), 2), np.float32)) == 0.5
    # Against all pairs, one by one.
    features = np.random.default_rng(0).normal(size=(18, 4))
    pairs = [(i, j) for i in range(18) for j in range(i)]
    same = [features[i] @ features[j] for i, j in pairs if i // 3 == j // 3]
    other = [features[i] @ features[j] for i, j in pairs if i // 3 != j // 3]
    expected = np.mean([float(a > b) for a in same for b in other])
    assert control_auc(lambda crops: features) == pytest.approx(expected)


def test_a_score_does_not_depend_on_the_batch(suite, people, own):
    picture, crop = people[3]
    alone = suite.score([picture], [PROMPTS[1]], [[crop]], ["anime"])
    assert {name: values[0] for name, values in alone.items()} == pytest.approx(
        {name: values[3] for name, values in own.items()}, abs=1e-4
    )


def test_faces_are_found_once_for_all_metrics(suite, people, monkeypatch):
    faces = suite._networks.faces
    calls = []
    detect = faces.detect
    monkeypatch.setattr(faces, "detect", lambda image: calls.append(1) or detect(image))
    pictures, crops = zip(*people, strict=True)
    suite.score(pictures, PROMPTS * 3, [[crop] for crop in crops])
    assert len(calls) == 12  # each picture, and each face again in its crop: whether it stands


def test_only_the_networks_that_are_needed_are_loaded():
    suite = load_suite(["face_found"])
    assert suite._networks.image_text is None
    assert not hasattr(suite._networks, "facenet")
    assert list(suite.score([], [], [])) == ["face_found"]


def test_each_metric_says_its_network_and_the_conditioning_one_is_marked(suite):
    assert all(info.network and info.revision for info in suite.metrics.values())
    assert "CONDITION" in suite.metrics["identity_sface"].note
    assert "no method conditions" in suite.metrics["identity_facenet"].note
    assert "not CLIP" in suite.metrics["text_score"].note
    assert suite.metrics["face_count"].as_dict()["bounds"] == [0.0, None]
    # What they measure has changed: `compare --fail` refuses runs of before.
    model = suite.metrics["text_score"].revision
    assert suite.metrics["image_score"].revision == f"{model}, of aligned faces"
    assert suite.metrics["style_score"].revision == f"{model}, less the other styles"


@pytest.mark.parametrize(
    ("names", "preset", "message"),
    [
        (["identity_deepface"], "pocket", "metric is 'identity_deepface', allowed: face_found, "),
        (["face_found", "face_found"], "pocket", "each at most once"),
        ([], "pocket", "at least one"),
        (["text_score"], "sd15", "preset is 'sd15', allowed: pocket, sdxl"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(names, preset, message):
    with pytest.raises(ValueError, match=message):
        load_suite(names, preset)


@pytest.mark.parametrize(
    ("images", "prompts", "references", "message"),
    [
        ([np.zeros((8, 8, 3), np.uint8)], [], [[]], "1 images, 0 prompts, 1 references"),
        ([np.zeros((8, 8, 3))], ["x"], [[]], "picture is float64"),
        ([np.zeros((8, 8, 3), np.uint8)], ["x"], [[np.zeros((64, 64, 3), np.uint8)]], "112"),
    ],
)
def test_wrong_input_is_refused(suite, images, prompts, references, message):
    with pytest.raises(ValueError, match=message):
        suite.score(images, prompts, references)


def test_the_cache_embeds_once_and_forgets_the_oldest():
    seen: list[str] = []

    def embed(things: list[str]) -> np.ndarray:
        seen.extend(things)
        return np.array([[float(thing)] for thing in things], dtype=np.float32)

    cache = FeatureCache(embed, str, capacity=2)
    assert [float(v[0]) for v in cache(["1", "2", "1"])] == [1, 2, 1]
    assert [float(v[0]) for v in cache(["1", "3"])] == [1, 3]
    assert [float(v[0]) for v in cache(["1", "2"])] == [1, 2]
    assert seen == ["1", "2", "3", "2"]


def test_a_column_that_needs_one_network_loads_no_other(people):
    (picture, first), _ = people[:2]
    alone = load_suite(["identity_sface"])
    assert alone.score([picture], ["x"], [[first]])["identity_sface"][0] > 0.6
