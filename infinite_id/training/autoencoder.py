"""The stages "vae" and "decoder": 64 px pictures to latents 4 x 16 x 16 and back.

"vae" trains both halves. "decoder" goes on with the second half alone, so that base and adapters,
which know the latents, need no training afterwards; it also asks a face network whether the decoded
face is still the same person's, because the pixels that tell people apart are few.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinite_id.pocket import model as pocket
from infinite_id.training.context import (
    Context,
    Stage,
    load_stage,
    on_device,
    pixels_of,
    stage_file,
    stage_weights,
)
from infinite_id.training.identity_loss import changed_face, face_latents, face_observer
from infinite_id.training.loop import LoopConfig
from infinite_id.training.world import FACE_WINDOW

__all__ = [
    "build_decoder_stage",
    "build_vae_stage",
    "decoder_alone",
    "keep_latent_scale",
    "latent_scale",
    "latents_of",
    "load_autoencoder",
]

_SCALE = "latent_scale.safetensors"
# Of `changed_face` in the decoder's loss; pixels and edges start near 0.06 together.
FACE_WEIGHT = 0.3


def build_vae_stage(context: Context) -> Stage:
    """The stage "vae": both halves of the autoencoder, all of whose parameters are trained.

    The loss, a scalar of 0 or more, is the reconstruction of pixels in [-1, 1] and a faint pull of
    the posterior towards a standard normal; three steps of four see the faces' window alone.

    Returns:
        The autoencoder, pixels (B, 3, H, W) in [-1, 1] to latents (B, 4, H / 4, W / 4) and back;
        its loss; how to optimise.
    """
    vae = on_device(context, pocket.build_vae())
    images, size = context.pictures.images, 16 * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((1, step, part))
        chosen = images[rng.integers(len(images), size=size)]
        if step % 4:
            # A face costs two fifths of a picture, and is where detail matters.
            chosen = chosen[:, FACE_WINDOW[0], FACE_WINDOW[1]]
        pixels = pixels_of(chosen, context.device) * 2 - 1
        posterior = vae.encode(pixels).latent_dist
        difference = vae.decode(posterior.sample()).sample - pixels
        return _reconstruction(difference) + 2e-6 * posterior.kl().mean()

    config = LoopConfig(
        learning_rate=1e-3, weight_decay=0.0, ema_decay=0.995, precision=context.precision
    )
    return vae, loss, config


def build_decoder_stage(context: Context) -> Stage:
    """The stage "decoder": the second half of the autoencoder goes on, the first is frozen.

    The loss, a scalar of 0 or more, is the reconstruction from latents (B, 4, 16, 16) and, where
    the face network is installed, `FACE_WEIGHT` times `changed_face`.

    Returns:
        The autoencoder with gradients for its decoder alone; its loss; how to optimise.

    Raises:
        FileNotFoundError: the stage "vae" was not trained yet.
    """
    vae = decoder_alone(on_device(context, load_autoencoder(context.state)))
    latents, mean, deviation = latents_of(context, context.pictures.images)
    latents = latents * deviation.to(latents).view(1, -1, 1, 1) + mean.to(latents).view(1, -1, 1, 1)
    images, size = context.pictures.images, 16 * context.batch_scale
    see = face_observer(context.device)
    rows, columns = FACE_WINDOW

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((2, step, part))
        chosen = rng.integers(len(images), size=size)
        own = latents[torch.from_numpy(chosen).to(latents.device)]
        if step % 4 == 0:
            pixels = pixels_of(images[chosen], context.device) * 2 - 1
            return _reconstruction(vae.decode(own).sample - pixels)
        pixels = pixels_of(images[chosen][:, rows, columns], context.device) * 2 - 1
        made = vae.decode(face_latents(own)).sample
        loss = _reconstruction(made - pixels)
        if see is not None:
            generator = torch.Generator().manual_seed(step * 1009 + part)
            landmarks = context.pictures.landmarks[chosen]
            loss = loss + FACE_WEIGHT * changed_face(see, made, pixels, landmarks, generator)
        return loss

    config = LoopConfig(
        learning_rate=5e-4, weight_decay=0.0, ema_decay=0.998, precision=context.precision
    )
    return vae, loss, config


def decoder_alone(vae: Any) -> Any:
    """The autoencoder with gradients for its second half alone."""
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    return vae


def load_autoencoder(state: Path) -> Any:
    """The autoencoder of a state folder, with the decoder of the stage "decoder" where it was
    trained, frozen.

    Raises:
        FileNotFoundError: the stage "vae" was not trained yet.
    """
    vae = load_stage(state, "vae", pocket.build_vae())
    if (state / f"{stage_file('decoder')}.safetensors").is_file():
        vae.load_state_dict(stage_weights(state, "decoder")[0], strict=False)
    return vae


def _reconstruction(difference: Tensor) -> Tensor:
    """Mean absolute error; differences of neighbours weigh edges, which eyes and mouths are."""
    edges = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
    return difference.abs().mean() + edges


@torch.no_grad()
def latents_of(context: Context, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised posterior means (M, 4, 16, 16), and the mean and deviation of each channel.

    They are kept in the state folder, for these pictures and this autoencoder.

    Args:
        context: state folder and device.
        images: uint8 (M, 64, 64, 3).
    """
    path = context.state / "latents.safetensors"
    vae: Any = load_stage(context.state, "vae", pocket.build_vae()).to(context.device)
    pictures = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    key = f"{(context.state / 'vae.safetensors').stat().st_mtime_ns}-{pictures}"
    known = latent_scale(context.state)
    if known is not None and path.is_file():
        cached = load_file(path)
        if bytes(cached["key"].tolist()).decode() == key:
            return cached["latents"].to(context.device).float(), cached["mean"], cached["std"]
    parts = [
        vae.encode(pixels_of(images[i : i + 64], context.device) * 2 - 1).latent_dist.mean.half()
        for i in range(0, len(images), 64)
    ]
    latents = torch.cat(parts).float()
    scale = known or (latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)))
    if known is None:
        keep_latent_scale(context.state, *scale)
    mean, deviation = (part.to(latents) for part in scale)
    latents = (latents - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
    latents = latents.contiguous()
    stored = {"mean": mean.cpu(), "std": deviation.cpu(), "latents": latents.half().cpu()}
    save_file({**stored, "key": torch.tensor(list(key.encode()), dtype=torch.uint8)}, path)
    return latents, stored["mean"], stored["std"]


def latent_scale(state: Path) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of the latents' channels, (4,) each; None where they are not known.

    They are those of the pictures that were there first. What was trained on latents of that scale
    would see them shifted if more pictures changed it; another autoencoder has a scale of its own.
    """
    path = state / _SCALE
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("step") != str(stage_weights(state, "vae")[1]):
            return None
        return file.get_tensor("mean"), file.get_tensor("std")


def keep_latent_scale(state: Path, mean: Tensor, deviation: Tensor) -> None:
    """Writes what `latent_scale` reads, for the autoencoder that the state folder has."""
    tensors = {"mean": mean.float().cpu().contiguous(), "std": deviation.float().cpu().contiguous()}
    step = stage_weights(state, "vae")[1]
    save_file(tensors, state / _SCALE, metadata={"step": str(step)})
