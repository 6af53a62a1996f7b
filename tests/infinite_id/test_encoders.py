from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from infinite_id.config import preset
from infinite_id.faces.detection import find_faces
from infinite_id.identity.encoders import ClipImageEncoder, IdentityEncoder, load_identity_encoder
from tests.infinite_id.face_photos import embedded, photo


@pytest.fixture(scope="module")
def clip() -> ClipImageEncoder:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
    )
    return ClipImageEncoder(CLIPVisionModelWithProjection(config), 64, "tiny", batch_size=4)


@pytest.fixture(scope="module")
def encoder(clip: ClipImageEncoder) -> IdentityEncoder:
    return IdentityEncoder(embedded(), clip)


@pytest.fixture(scope="module")
def faces() -> list[np.ndarray]:
    return [crop for _, crop in find_faces(photo("t1.jpg"), embedded(), select="all")]


def test_clip_states_equal_the_model_on_normalised_pixels(clip: ClipImageEncoder) -> None:
    grey = np.full((2, 112, 112, 3), 128, dtype=np.uint8)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((128 / 255 - mean) / std).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    with torch.no_grad():
        expected = clip.model(pixel_values=pixels).last_hidden_state
    states = clip.embed(grey)
    assert (states.dtype, states.shape) == (np.float16, (2, 17, 32))
    np.testing.assert_allclose(states, expected.numpy(), atol=2e-3)


def test_no_pictures(clip: ClipImageEncoder) -> None:
    assert clip.embed(np.empty((0, 112, 112, 3), dtype=np.uint8)).shape == (0, 17, 32)


def test_one_photo_keeps_the_face_embedding(
    encoder: IdentityEncoder, faces: list[np.ndarray]
) -> None:
    (expected,) = embedded().embed(faces[0][None])
    np.testing.assert_allclose(encoder.embed(faces[:1]).face, expected, atol=1e-6)


def test_several_photos_are_averaged_and_stacked(
    encoder: IdentityEncoder, faces: list[np.ndarray]
) -> None:
    parts = [encoder.embed([face]) for face in faces[:3]]
    whole = encoder.embed(faces[:3])
    total = sum(part.face.astype(np.float64) for part in parts)
    np.testing.assert_allclose(whole.face, total / np.sqrt((total**2).sum()), atol=1e-5)
    np.testing.assert_allclose(whole.clip, np.vstack([part.clip for part in parts]), atol=2e-3)


def test_batch_over_people_equals_one_by_one(
    encoder: IdentityEncoder, faces: list[np.ndarray]
) -> None:
    people = [faces[:1], faces[1:4], faces[4:]]
    together = encoder.embed_many(people)
    alone = [encoder.embed(person) for person in people]
    assert [e.clip.shape for e in together] == [(17, 32), (51, 32), (34, 32)]
    np.testing.assert_allclose([e.face for e in together], [e.face for e in alone], atol=1e-5)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([[]], "person number 0 has no face"),
        ([[np.zeros((64, 64, 3), np.uint8)]], r"uint8 \(64, 64, 3\)"),
        ([[np.zeros((112, 112, 3), np.float32)]], "float32"),
    ],
)
def test_wrong_faces(encoder: IdentityEncoder, people: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.embed_many(people)


def test_pocket_preset_has_the_configured_shapes(faces: list[np.ndarray]) -> None:
    config = preset("pocket").encoders
    embedding = load_identity_encoder(config).embed(faces[:1])
    assert embedding.face.shape == (config.face_width,)
    assert embedding.clip.shape == (config.clip_tokens, config.clip_width)


def test_configured_width_must_match() -> None:
    config = replace(preset("pocket").encoders, face_width=512)
    with pytest.raises(ValueError, match=r"widths 128 and 192.*512 and 192"):
        load_identity_encoder(config)
