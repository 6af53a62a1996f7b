"""Whom a face shows, as a loss through SFace's embeddings.

Not part of Infinite-ID's training, whose loss is that of diffusion alone (arXiv 2403.11781). The
decoder of the pocket model is trained with it, and its adapters may be (`--identity-loss`): a face
is some hundred numbers of a picture's latents, and a squared error learns slowly what tells two
people apart. PuLID (Guo et al. 2024) and PortraitBooth (Peng et al. 2024) train with `1 - cosine`
to the right person. That is soon content with a face that is a little like everybody; so a face has
to be taken for the right one among all people of the training data, by a softmax over scaled
cosines (NormFace, Wang et al. 2017). Without variation a picture soon shows what only this network
takes for the person (docs/pocket.md has the figures): it sees each face in other light, with grain,
and not quite where it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from infinite_id.packages import PackageFileError
from infinite_id.pocket.weights import Edition
from infinite_id.training.face_network import TorchSFace, align, align_matrices

__all__ = [
    "EmbedFaces",
    "IdentityLoss",
    "SeeFaces",
    "changed_face",
    "clean_identity_loss",
    "face_embedder",
    "face_latents",
    "face_observer",
    "face_window",
    "mistaken_identity",
    "unlike",
    "varied",
    "window_corner",
]

logger = logging.getLogger(__name__)

# Of a batch's rows, decoded and embedded a step: more cost more than the UNet's own pass.
ROW_SHARE = 0.5

EmbedFaces = Callable[[Tensor, NDArray[np.float32]], Tensor]
"""Windows (B, 3, h, w) in [-1, 1], as `face_window` cuts them, and landmarks (B, 5, 2), x y in
their pixels -> unit vectors (B, 128), with gradients."""

SeeFaces = Callable[[Tensor, NDArray[np.float32]], list[Tensor]]
"""As `EmbedFaces`, but -> what the network's layers saw, from shallow to deep, (B, ...) each, the
unit vectors last."""

IdentityLoss = Callable[[Tensor, Tensor, NDArray[np.float32], Tensor, torch.Generator], Tensor]
"""Clean latents (B, C, h, w), rows that kept their identity (bool, B), landmarks (B, 5, 2) of the
targets, numbers of the people (int64, B), generator on the CPU -> a scalar."""


def face_embedder(device: torch.device, network: TorchSFace | None = None) -> EmbedFaces | None:
    """The embeddings of `face_observer`."""
    see = face_observer(device, network)
    return None if see is None else lambda windows, landmarks: see(windows, landmarks)[-1]


def face_observer(device: torch.device, network: TorchSFace | None = None) -> SeeFaces | None:
    """SFace, or None, and a line in the log, where there is neither a network nor its file.

    Args:
        device: of the network.
        network: of a data pack; None: the embedded one's file is read.
    """
    if network is None:
        try:
            from infinite_id.training.face_network_file import load_face_network

            network = load_face_network()
        except (ImportError, PackageFileError) as error:
            logger.warning("no identity loss, the face network is missing: %s", error)
            return None
    network = network.to(device)

    def see(windows: Tensor, landmarks: NDArray[np.float32]) -> list[Tensor]:
        matrices = align_matrices(landmarks)
        return network.seen(align((windows.float() + 1) * 127.5, matrices))

    return see


def face_window(images: NDArray[np.uint8], edition: Edition) -> NDArray[np.uint8]:
    """The part of pictures (B, S, S, 3) that holds every face."""
    (top, bottom), (left, right) = edition.window
    return images[:, top:bottom, left:right]


def window_corner(edition: Edition) -> NDArray[np.float32]:
    """x y of the window in pixels of the picture."""
    return np.array([edition.window[1][0], edition.window[0][0]], dtype=np.float32)


def face_latents(latents: Tensor, edition: Edition) -> Tensor:
    """The part of latents (B, C, h, w) that `face_window` shows."""
    rows, columns = edition.latent_window
    return latents[:, :, rows, columns]


def unlike(seen: Tensor, like: Tensor) -> Tensor:
    """Mean of `1 - cosine` of unit vectors (B, D), a scalar."""
    return 1 - (seen * like).sum(dim=-1).mean()


def changed_face(
    see: SeeFaces,
    made: Tensor,
    photo: Tensor,
    landmarks: NDArray[np.float32],
    generator: torch.Generator,
) -> Tensor:
    """How differently a face network sees two pictures of one face, a scalar near 0 to 2.

    Embeddings alone leave the rest of the picture free: what a decoder then paints is a person to
    this network only. So all layers are compared (Johnson et al. 2016), each by its mean absolute
    difference over the mean absolute value, both pictures `varied` alike, and `unlike` is added.

    Args:
        see: of `face_observer`.
        made, photo: windows (B, 3, h, w) in [-1, 1]; gradients reach `made` alone.
        landmarks: (B, 5, 2), of both, in pixels of the windows.
        generator: on the CPU.
    """
    draws = generator.get_state()
    own = see(*varied(made, landmarks, generator))
    generator.set_state(draws)
    with torch.no_grad():
        like = see(*varied(photo, landmarks, generator))
    inner = [
        (a.float() - b.float()).abs().mean() / b.float().abs().mean()
        for a, b in zip(own[:-1], like[:-1], strict=True)
    ]
    return torch.stack(inner).mean() + unlike(own[-1], like[-1])


def mistaken_identity(seen: Tensor, people: Tensor, person: Tensor, scale: float = 20.0) -> Tensor:
    """Cross-entropy of the right person among all, over `scale`: a scalar of `unlike`'s size.

    Args:
        seen: unit vectors (B, D).
        people: unit vectors (P, D), one a person.
        person: int64 (B,), the right ones' numbers.
        scale: of the cosines: what a person must stand out by is some `log(P) / scale`.
    """
    return F.cross_entropy(scale * (seen @ people.T), person) / scale


def clean_identity_loss(
    decode: Callable[[Tensor], Any],
    embed: EmbedFaces,
    people: Tensor,
    weight: float,
    edition: Edition,
) -> IdentityLoss:
    """`mistaken_identity` of the faces in the clean latents that a prediction stands for.

    Rows whose identity was dropped take no part; of the others, as many as half the batch do.

    Args:
        decode: (B, C, h, w) as the UNet has them to windows (B, 3, f h, f w) in [-1, 1].
        embed: of `face_embedder`.
        people: unit vectors (P, 128), one a person.
        weight: of the loss.
        edition: says where in a picture the windows lie.
    """
    corner = window_corner(edition)

    def loss(
        clean: Tensor,
        kept: Tensor,
        landmarks: NDArray[np.float32],
        person: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        rows = torch.nonzero(kept).flatten()[: math.ceil(ROW_SHARE * len(kept))]
        if not len(rows):
            return clean.new_zeros(())
        windows = decode(face_latents(clean[rows], edition))
        seen = embed(*varied(windows, landmarks[rows.cpu().numpy()] - corner, generator))
        return weight * mistaken_identity(seen, people, person[rows])

    return loss


def varied(
    windows: Tensor, landmarks: NDArray[np.float32], generator: torch.Generator
) -> tuple[Tensor, NDArray[np.float32]]:
    """Windows (B, 3, h, w) in other light and with grain, landmarks (B, 5, 2) some half pixel off.

    Args:
        windows: in [-1, 1]; what comes out may leave that range.
        landmarks: x y in pixels.
        generator: on the CPU.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    count = len(windows)
    contrast = 1 + 0.25 * normal(count, 1, 1, 1)
    light = 0.1 * normal(count, 1, 1, 1) + 0.1 * normal(count, 3, 1, 1)
    grain = 0.08 * normal(*windows.shape)
    device = windows.device
    off = 0.6 * (normal(count, 5, 2) + normal(count, 1, 2)).numpy()
    made = windows.float() * contrast.to(device) + (light + grain).to(device)
    return made, (landmarks + off).astype(np.float32)
