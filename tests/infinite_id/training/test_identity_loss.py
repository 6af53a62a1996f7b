"""The identity loss: what it compares, which rows take part, and that it teaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infinite_id.faces.detection import align_face, find_faces
from infinite_id.faces.loading import load_face_backend
from infinite_id.pocket.weights import EDITIONS
from infinite_id.training.adapter import clean_latents, noisy_and_target
from infinite_id.training.identity_loss import (
    changed_face,
    clean_identity_loss,
    face_embedder,
    face_latents,
    face_observer,
    face_window,
    mistaken_identity,
    unlike,
    varied,
    window_corner,
)
from tests.infinite_id.face_photos import portraits


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, np.ndarray]:
    """Windows (4, 3, 40, 40) in [-1, 1] of faces 30 px wide, and landmarks in them."""
    backend = load_face_backend("embedded")
    windows, landmarks = [], []
    for image in portraits()[:4]:
        face = find_faces(image, backend)[0][0]
        # The aligned face of 112 px, shrunk to the window's 40.
        crop = align_face(image, face.landmarks)
        small = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
        windows.append(torch.nn.functional.interpolate(small, size=(40, 40), mode="area"))
        points = find_faces(crop, backend, sizes=(112, 256))[0][0].landmarks
        landmarks.append((points + 0.5) * 40 / 112 - 0.5)
    return torch.cat(windows), np.stack(landmarks).astype(np.float32)


def test_own_faces_are_alike_and_others_are_not(pictures: tuple):
    embed = face_embedder(torch.device("cpu"))
    assert embed is not None
    seen = embed(*pictures)
    own, other = unlike(seen, seen), unlike(seen, seen[[2, 3, 0, 1]])
    assert own.item() == pytest.approx(0, abs=1e-5)
    assert other.item() > 0.3


def test_descending_it_makes_a_face_more_alike(pictures: tuple):
    windows, landmarks = pictures
    embed = face_embedder(torch.device("cpu"))
    assert embed is not None
    people, person = embed(windows, landmarks), torch.tensor([0])
    blurred = torch.nn.functional.avg_pool2d(windows[:1], 5, 1, 2).requires_grad_()
    before = mistaken_identity(embed(blurred, landmarks[:1]), people, person)
    before.backward()
    assert blurred.grad is not None
    moved = embed(blurred.detach() - 0.02 * blurred.grad.sign(), landmarks[:1])
    assert mistaken_identity(moved, people, person) < before.detach()
    assert unlike(moved, people[:1]) < unlike(embed(blurred, landmarks[:1]), people[:1]) - 0.01


def test_a_face_like_everybody_is_as_good_as_a_guess():
    people = torch.eye(4)
    everybody = torch.full((2, 4), 0.5)
    person = torch.tensor([1, 3])
    assert mistaken_identity(everybody, people, person, 8.0).item() == pytest.approx(
        np.log(4) / 8, abs=1e-6
    )
    assert mistaken_identity(people[person], people, person, 8.0) < 1e-3
    assert mistaken_identity(people[person - 1], people, person, 8.0) > 0.9


def test_dropped_rows_take_no_part():
    given: list[int] = []
    people = torch.eye(12)

    def embed(windows: torch.Tensor, landmarks: np.ndarray) -> torch.Tensor:
        given[:] = [round(value / 100) for value in landmarks[:, 0, 0]]
        assert windows.shape == (len(given), 3, 10, 10)
        # The network sees the faces varied: elsewhere, and not as they were decoded.
        assert np.abs(landmarks[:, 0, 0] - 100 * np.array(given)).max() > 0.01
        assert (windows - 1).abs().mean() > 0.01
        return people[torch.tensor(given)]

    loss = clean_identity_loss(lambda z: z[:, :3], embed, people, 0.5, EDITIONS[64])
    clean, kept = torch.ones(12, 4, 16, 16), torch.ones(12, dtype=torch.bool)
    kept[1] = False
    person = torch.arange(12)
    landmarks = np.broadcast_to(100 * np.arange(12, dtype=np.float32)[:, None, None], (12, 5, 2))
    landmarks = landmarks + window_corner(EDITIONS[64])
    generator = torch.Generator()
    right = loss(clean, kept, landmarks, person, generator).item()
    assert given == [0, 2, 3, 4, 5, 6]
    assert right < 1e-3 < loss(clean, kept, landmarks, person.flip(0), generator).item()
    assert loss(clean, torch.zeros_like(kept), landmarks, person, generator).item() == 0


def test_a_varied_face_is_another_picture_of_the_same_person(pictures: tuple):
    windows, landmarks = pictures
    embed = face_embedder(torch.device("cpu"))
    assert embed is not None
    before = windows.clone(), landmarks.copy()
    made, moved = varied(windows, landmarks, torch.Generator().manual_seed(1))
    again, _ = varied(windows, landmarks, torch.Generator().manual_seed(1))
    torch.testing.assert_close(made, again)
    assert torch.equal(windows, before[0])
    assert np.array_equal(landmarks, before[1])
    assert (made - windows).abs().mean() > 0.05
    assert 0.1 < np.abs(moved - landmarks).mean() < 2
    cosines = embed(made, moved) @ embed(windows, landmarks).T
    assert cosines.diagonal().min() > 0.5
    assert cosines.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_a_changed_face_is_seen_in_all_layers(pictures: tuple):
    windows, landmarks = pictures
    see = face_observer(torch.device("cpu"))
    assert see is not None
    layers = see(windows, landmarks)
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (1024, 7, 7),
        (128,),
    ]

    def changed(made: torch.Tensor, seed: int = 1) -> torch.Tensor:
        return changed_face(see, made, windows, landmarks, torch.Generator().manual_seed(seed))

    # Both are varied alike: a face in other light is still itself.
    assert changed(windows).item() == pytest.approx(0, abs=1e-4)
    blurred = torch.nn.functional.avg_pool2d(windows, 3, 1, 1).requires_grad_()
    loss = changed(blurred)
    loss.backward()
    assert 0.05 < loss.item() < changed(windows[[1, 2, 3, 0]]).item()
    assert blurred.grad is not None
    assert blurred.grad.abs().sum() > 0
    assert loss.item() != changed(blurred, seed=2).item()


@pytest.mark.parametrize("size", sorted(EDITIONS))
def test_face_latents_are_the_windows(size: int):
    edition = EDITIONS[size]
    side, channels, factor = size // edition.factor, edition.channels, edition.factor
    latents = torch.arange(float(side**2)).view(1, 1, side, side).expand(1, channels, side, side)
    found = face_latents(latents, edition)
    images = np.arange(size**2).reshape(1, size, size, 1)
    window = face_window(images, edition)
    assert found.shape == (1, channels, window.shape[1] // factor, window.shape[2] // factor)
    left, top = window_corner(edition)
    assert found[0, 0, 0, 0] == side * (top // factor) + left // factor
    assert window[0, 0, 0, 0] == size * top + left


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_clean_latents_invert_the_target(prediction: str):
    g = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=g)
    alphas, timesteps = torch.linspace(0.99, 0.05, 10), torch.tensor([0, 5, 9])
    noisy, target = noisy_and_target(latents, noise, timesteps, alphas, prediction)
    found = clean_latents(noisy, target, alphas[timesteps], prediction)
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)
