"""The identity loss: what it compares, which rows take part, and that it teaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infinite_id.faces import align_face, find_faces, load_face_backend
from infinite_id.training.adapter import clean_latents, noisy_and_target
from infinite_id.training.identity_loss import (
    LAST_TIMESTEP,
    MOST_ROWS,
    clean_identity_loss,
    face_latents,
    unlike_faces,
)
from infinite_id.training.world import FACE_WINDOW
from tests.infinite_id.face_photos import portraits

ROWS, COLUMNS = FACE_WINDOW


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, np.ndarray]:
    """Windows (4, 3, 40, 40) in [-1, 1] of faces 30 px wide, and landmarks in whole pictures."""
    backend = load_face_backend("embedded")
    windows, landmarks = [], []
    for image in portraits()[:4]:
        face = find_faces(image, backend)[0][0]
        # The aligned face of 112 px, shrunk to the window's 40.
        crop = align_face(image, face.landmarks)
        small = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
        windows.append(torch.nn.functional.interpolate(small, size=(40, 40), mode="area"))
        points = find_faces(crop, backend, sizes=(112, 256))[0][0].landmarks
        landmarks.append((points + 0.5) * 40 / 112 - 0.5 + [COLUMNS.start, ROWS.start])
    return torch.cat(windows), np.stack(landmarks).astype(np.float32)


def test_own_faces_are_alike_and_others_are_not(pictures: tuple):
    windows, landmarks = pictures
    unlike = unlike_faces(torch.device("cpu"))
    assert unlike is not None
    own = unlike(windows, landmarks, like=windows)
    other = unlike(windows, landmarks, like=windows[[2, 3, 0, 1]])
    assert own.item() == pytest.approx(0, abs=1e-5)
    assert other.item() > 0.3


def test_descending_it_makes_a_face_more_alike(pictures: tuple):
    windows, landmarks = pictures
    unlike = unlike_faces(torch.device("cpu"))
    assert unlike is not None
    blurred = torch.nn.functional.avg_pool2d(windows[:1], 5, 1, 2).requires_grad_()
    before = unlike(blurred, landmarks[:1], like=windows[:1])
    before.backward()
    assert blurred.grad is not None
    moved = blurred.detach() - 0.02 * blurred.grad.sign()
    assert unlike(moved, landmarks[:1], like=windows[:1]) < before.detach() - 0.01


def test_noisy_and_dropped_rows_take_no_part():
    seen: list[int] = []

    def unlike(made: torch.Tensor, landmarks: np.ndarray, *, like: torch.Tensor) -> torch.Tensor:
        seen[:] = [int(value) for value in landmarks[:, 0, 0]]
        assert made.shape == (len(seen), 4, 10, 10)
        assert like[:, 0].tolist() == seen
        return made.mean()

    loss = clean_identity_loss(lambda latents: latents, unlike, 0.5)
    count = 12
    clean = torch.ones(count, 4, 16, 16)
    timesteps = torch.zeros(count, dtype=torch.long)
    timesteps[0] = LAST_TIMESTEP
    kept = torch.ones(count, dtype=torch.bool)
    kept[1] = False
    numbers = np.arange(count, dtype=np.float32)
    landmarks = np.broadcast_to(numbers[:, None, None], (count, 5, 2))
    wanted = torch.from_numpy(numbers)[:, None]
    assert loss(clean, timesteps, kept, landmarks, wanted).item() == pytest.approx(0.5)
    assert seen == list(range(2, 2 + MOST_ROWS))
    assert loss(clean, timesteps + 1000, kept, landmarks, wanted).item() == 0


def test_face_latents_are_the_windows():
    latents = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 4, 16, 16)
    found = face_latents(latents)
    assert found.shape == (1, 4, 10, 10)
    assert found[0, 0, 0, 0] == 16 * (ROWS.start // 4) + COLUMNS.start // 4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_clean_latents_invert_the_target(prediction: str):
    g = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=g)
    alphas, timesteps = torch.linspace(0.99, 0.05, 10), torch.tensor([0, 5, 9])
    noisy, target = noisy_and_target(latents, noise, timesteps, alphas, prediction)
    found = clean_latents(noisy, target, alphas[timesteps], prediction)
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)
