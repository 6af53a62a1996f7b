"""The stages "vae" and "decoder": pictures to latents and back, as an edition has them.

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
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
from infinite_id.training.identity_loss import (
    changed_face,
    face_latents,
    face_observer,
    face_window,
    window_corner,
)
from infinite_id.training.loop_config import LoopConfig

__all__ = [
    "build_decoder_stage",
    "build_vae_stage",
    "decoder_alone",
    "fold_latent_scale",
    "keep_latent_scale",
    "latent_scale",
    "latents_of",
    "load_autoencoder",
    "ready_to_train",
]

_SCALE = "latent_scale.safetensors"
# Of `changed_face` in both losses.
FACE_WEIGHT = 0.15
KL_WEIGHT = 2e-6
MUON_RATE = 0.02
# Of the stage "vae", in steps. Faces from the first step spoil the colours.
CROP_UNTIL, SQUARE_UNTIL, FACE_FROM = 300, 500, 800
# Of a latent's deviation.
LATENT_NOISE = 0.04


def build_vae_stage(context: Context) -> Stage:
    """The stage "vae": both halves of the autoencoder, all of whose parameters are trained.

    The loss, a scalar of 0 or more, is the reconstruction of pixels in [-1, 1], a faint pull of the
    posterior towards a standard normal and, after `FACE_FROM` steps, `FACE_WEIGHT` times
    `changed_face`. The first `CROP_UNTIL` steps see twice as many crops of a third of the width;
    later five of six see the faces' window.

    Returns:
        The autoencoder, pixels (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) and back;
        its loss; how to optimise.
    """
    edition = context.edition
    vae = on_device(context, ready_to_train(pocket.build_vae(context.size)))
    images, size = context.pictures.images, 16 * context.batch_scale
    landmarks, corner = context.pictures.landmarks, window_corner(edition)
    see = face_observer(context.device, context.network)
    area = edition.size**2
    # Of two people none lies in the window.
    alone = np.flatnonzero(context.pictures.other < 0)
    crop = edition.factor * (edition.size // (3 * edition.factor))

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((1, step, part))
        if step < CROP_UNTIL:
            chosen = _crops(images, 2 * size, crop, rng)
            own, sees_face = None, False
        else:
            sees_face = see is not None and step >= FACE_FROM and step % 3 == 1
            numbers = alone if sees_face else np.arange(len(images))
            own = rng.choice(numbers, size=size)
            chosen = images[own]
            if step % 6:
                # Where detail matters.
                chosen = face_window(chosen, edition)
        pixels = pixels_of(chosen, context.device) * 2 - 1
        posterior = vae.encode(pixels).latent_dist
        made = vae.decode(posterior.sample()).sample
        loss = _reconstruction(made - pixels, early=1 - step / SQUARE_UNTIL)
        # Of a whole picture's latents, whatever the crop.
        loss = loss + KL_WEIGHT * posterior.kl().mean() * area / (pixels.shape[-1] ** 2)
        if see is not None and own is not None and sees_face:
            few = max(4, size // 2)
            generator = torch.Generator().manual_seed(step * 1009 + part)
            own = own[:few]
            changed = changed_face(
                see, made[:few], pixels[:few], landmarks[own] - corner, generator
            )
            loss = loss + FACE_WEIGHT * changed
        return loss

    config = LoopConfig(
        learning_rate=1e-3,
        warmup_steps=150,
        muon_rate=MUON_RATE,
        total_steps=context.total_steps(size),
        weight_decay=0.0,
        ema_decay=0.998,
        precision=context.precision,
    )
    return vae, loss, config


def ready_to_train(vae: Any) -> Any:
    """The autoencoder with weights of gain 1, every residual path at zero, and little noise.

    diffusers' own initialisation needs four times the steps.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for module in vae.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in vae.modules():
            if isinstance(module, ResnetBlock2D):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Attention):
                nn.init.zeros_(module.to_out[0].weight)
        # The second half of the moments is the posterior's log variance.
        channels = vae.config.latent_channels
        vae.quant_conv.bias[channels:] = -5.0
        vae.quant_conv.weight[channels:] *= 0.1
    return vae


def build_decoder_stage(context: Context) -> Stage:
    """The stage "decoder": the second half of the autoencoder goes on, the first is frozen.

    The loss, a scalar of 0 or more, is the reconstruction from latents (B, C, h, w), with the
    little noise that a sampler leaves, and, where the face network is installed, `FACE_WEIGHT`
    times `changed_face`.

    Returns:
        The autoencoder with gradients for its decoder alone; its loss; how to optimise.

    Raises:
        FileNotFoundError: the stage "vae" was not trained yet.
    """
    edition = context.edition
    vae = decoder_alone(on_device(context, load_autoencoder(context.state, context.size)))
    latents, mean, deviation = latents_of(context, context.pictures.images)
    mean, deviation = (part.to(context.device).view(1, -1, 1, 1) for part in (mean, deviation))
    images, size = context.pictures.images, 16 * context.batch_scale
    see, corner = face_observer(context.device, context.network), window_corner(edition)
    alone = np.flatnonzero(context.pictures.other < 0)

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((2, step, part))
        sees_face = see is not None and step % 3 == 1
        chosen = rng.choice(alone if sees_face else np.arange(len(images)), size=size)
        own = latents[torch.from_numpy(chosen).to(latents.device)].to(context.device).float()
        generator = torch.Generator().manual_seed(step * 1009 + part)
        noise = torch.randn(own.shape, generator=generator).to(context.device)
        own = (own + LATENT_NOISE * noise) * deviation + mean
        if step % 6 == 0:
            pixels = pixels_of(images[chosen], context.device) * 2 - 1
            return _reconstruction(vae.decode(own).sample - pixels)
        pixels = pixels_of(face_window(images[chosen], edition), context.device) * 2 - 1
        made = vae.decode(face_latents(own, edition)).sample
        loss = _reconstruction(made - pixels)
        if see is not None and sees_face:
            few = max(4, size // 2)
            landmarks = context.pictures.landmarks[chosen[:few]] - corner
            changed = changed_face(see, made[:few], pixels[:few], landmarks, generator)
            loss = loss + FACE_WEIGHT * changed
        return loss

    config = LoopConfig(
        learning_rate=5e-4,
        total_steps=context.total_steps(size),
        weight_decay=0.0,
        ema_decay=0.998,
        precision=context.precision,
    )
    return vae, loss, config


def _crops(
    images: NDArray[np.uint8], count: int, side: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """uint8 (count, side, side, 3) from anywhere."""
    chosen = rng.integers(len(images), size=count)
    corners = rng.integers(images.shape[1] - side + 1, size=(count, 2))
    return np.stack(
        [images[i, r : r + side, c : c + side] for i, (r, c) in zip(chosen, corners, strict=True)]
    )


def decoder_alone(vae: Any) -> Any:
    """The autoencoder with gradients for its second half alone."""
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    return vae


def load_autoencoder(state: Path, size: int) -> Any:
    """The autoencoder of a state folder, with the decoder of the stage "decoder" where it was
    trained, frozen.

    Raises:
        FileNotFoundError: the stage "vae" was not trained yet.
    """
    vae = load_stage(state, "vae", pocket.build_vae(size))
    if (state / f"{stage_file('decoder')}.safetensors").is_file():
        vae.load_state_dict(stage_weights(state, "decoder")[0], strict=False)
    return vae


def _reconstruction(difference: Tensor, early: float = 0.0) -> Tensor:
    """Mean absolute error; differences of neighbours weigh edges, which eyes and mouths are.

    Args:
        difference: (B, 3, H, W).
        early: three times this share of the squared error is added; below 0: none.
    """
    difference = difference.float()
    edges = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
    loss = difference.abs().mean() + edges
    return loss + 3 * early * difference.square().mean() if early > 0 else loss


@torch.no_grad()
def latents_of(context: Context, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised posterior means (M, C, h, w), and the mean and deviation of each channel.

    They are kept in the state folder, for these pictures and this autoencoder.

    Args:
        context: state folder and device.
        images: uint8 (M, S, S, 3).
    """
    path = context.state / "latents.safetensors"
    vae: Any = load_stage(context.state, "vae", pocket.build_vae(context.size))
    vae = on_device(context, vae)
    pictures = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    key = f"{(context.state / 'vae.safetensors').stat().st_mtime_ns}-{pictures}"
    known = latent_scale(context.state)
    if known is not None and path.is_file():
        cached = load_file(path)
        if bytes(cached["key"].tolist()).decode() == key:
            return cached["latents"].to(context.device).float(), cached["mean"], cached["std"]
    parts = []
    lean = context.precision == "bfloat16"
    with torch.autocast(context.device.type, torch.bfloat16, enabled=lean):
        for i in range(0, len(images), 64):
            pixels = pixels_of(images[i : i + 64], context.device) * 2 - 1
            parts.append(vae.encode(pixels).latent_dist.mean.half())
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
    """Mean and deviation of the latents' channels, (C,) each; None where they are not known.

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


@torch.no_grad()
def fold_latent_scale(vae: Any, mean: Tensor, deviation: Tensor) -> None:
    """Lets the autoencoder itself give latents of mean 0 and deviation 1 a channel.

    diffusers' pipelines read a configured scale for four channels alone.

    Args:
        vae: changed in its two 1 x 1 convolutions between moments and latents.
        mean, deviation: of its latents, (C,).
    """
    channels = len(mean)
    out, back = vae.quant_conv, vae.post_quant_conv
    # Moments are means, then log variances.
    out.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    out.bias[:channels] = (out.bias[:channels] - mean) / deviation
    out.bias[channels:] -= 2 * deviation.log()
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(dim=1)
    back.weight *= deviation.view(1, -1, 1, 1)


def keep_latent_scale(state: Path, mean: Tensor, deviation: Tensor) -> None:
    """Writes what `latent_scale` reads, for the autoencoder that the state folder has."""
    tensors = {"mean": mean.float().cpu().contiguous(), "std": deviation.float().cpu().contiguous()}
    step = stage_weights(state, "vae")[1]
    save_file(tensors, state / _SCALE, metadata={"step": str(step)})
