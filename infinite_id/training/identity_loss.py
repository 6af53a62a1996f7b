"""How unlike a face is to whom it should be, as a loss: `1 - cosine` of SFace's embeddings.

Not part of Infinite-ID's training, whose loss is that of diffusion alone (METHOD section 2). The
decoder of the pocket model is trained with it, and its adapters may be (`--identity-loss`): a face
is some hundred numbers of a picture's latents, and a squared error learns slowly what tells two
people apart. PuLID (Guo et al. 2024) and PortraitBooth (Peng et al. 2024) train with such a term.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infinite_id.packages import PackageFileError
from infinite_id.training.world import FACE_WINDOW

__all__ = ["UnlikeFaces", "clean_identity_loss", "face_latents", "unlike_faces"]

logger = logging.getLogger(__name__)

# Above it a prediction from almost pure noise shows an average face, whoever is wanted.
LAST_TIMESTEP = 800
# Decoded and embedded a step: more cost more than the UNet's own pass.
MOST_ROWS = 8


class UnlikeFaces(Protocol):
    """Mean of `1 - cosine` over faces, a scalar with gradients."""

    def __call__(self, made: Tensor, landmarks: NDArray[np.float32], *, like: Tensor) -> Tensor:
        """Compares faces in windows (B, 3, 40, 40) of pictures, in [-1, 1].

        Args:
            made: windows as `FACE_WINDOW` cuts them.
            landmarks: (B, 5, 2), x y in pixels of the whole pictures.
            like: windows of the same faces, or unit vectors (B, 128) of SFace.
        """
        ...


def unlike_faces(device: torch.device) -> UnlikeFaces | None:
    """The loss, or None, and a line in the log, on a machine that lacks the face network.

    Such a machine trains on a data pack; what is left of the loss is then pixels alone.
    """
    try:
        from infinite_id.training.face_network import TorchSFace, align, align_matrices

        network = TorchSFace().to(device)
    except (ImportError, PackageFileError) as error:
        logger.warning("no identity loss, the face network is missing: %s", error)
        return None
    corner = np.array([FACE_WINDOW[1].start, FACE_WINDOW[0].start], dtype=np.float32)

    def unlike(made: Tensor, landmarks: NDArray[np.float32], *, like: Tensor) -> Tensor:
        matrices = align_matrices(landmarks - corner)
        if like.ndim == 4:
            with torch.no_grad():
                like = network(align((like + 1) * 127.5, matrices))
        seen = network(align((made.float() + 1) * 127.5, matrices))
        return 1 - (seen * like).sum(dim=-1).mean()

    return unlike


def face_latents(latents: Tensor) -> Tensor:
    """(B, 4, 10, 10): the part of latents (B, 4, 16, 16) that `FACE_WINDOW` shows."""
    rows, columns = (slice(w.start // 4, w.stop // 4) for w in FACE_WINDOW)
    return latents[:, :, rows, columns]


def clean_identity_loss(
    decode: Callable[[Tensor], Any], unlike: UnlikeFaces, weight: float
) -> Callable[[Tensor, Tensor, Tensor, NDArray[np.float32], Tensor], Tensor]:
    """(clean latents, timesteps, kept, landmarks, wanted) -> weighted mean of `1 - cosine`.

    Rows with much noise, and those whose identity was dropped, take no part.

    Args:
        decode: (B, 4, 10, 10) as the UNet has them to windows (B, 3, 40, 40) in [-1, 1].
        unlike: of `unlike_faces`.
        weight: of the loss.
    """

    def loss(
        clean: Tensor,
        timesteps: Tensor,
        kept: Tensor,
        landmarks: NDArray[np.float32],
        wanted: Tensor,
    ) -> Tensor:
        rows = torch.nonzero(kept & (timesteps < LAST_TIMESTEP)).flatten()[:MOST_ROWS]
        if not len(rows):
            return clean.new_zeros(())
        made = decode(face_latents(clean[rows]))
        return weight * unlike(made, landmarks[rows.cpu().numpy()], like=wanted[rows])

    return loss
