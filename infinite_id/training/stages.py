"""The stages of the pocket model: autoencoder, image-text models, base, adapters.

Each stage is a `TrainingLoop` over a module; its averaged weights go to `<stage>.safetensors` in
the state folder, where the next stage reads them. Batches are drawn from a generator seeded by
the step, so that a resumed run continues the same sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infinite_id import pocket
from infinite_id.adapter import IdentityAdapter
from infinite_id.config import preset
from infinite_id.training.adapter import (
    AdapterBatch,
    AdapterTraining,
    diffusion_loss,
    noisy_and_target,
)
from infinite_id.training.dataset import Pictures
from infinite_id.training.loop import LocalStore, LoopConfig, Progress, TrainingLoop
from infinite_id.training.pack import Faces
from infinite_id.training.text import encode_texts, tokenize
from infinite_id.training.world import FACE_WINDOW

__all__ = ["STAGES", "Context", "load_stage", "pixels_of", "train_stage"]

STAGES = ("vae", "clip", "scorer", "base", *(f"adapter:{name}" for name in pocket.ADAPTERS))
TEXT_DROP = 0.1
IDENTITY_DROP = 0.05


@dataclass(frozen=True, slots=True)
class Context:
    """What every stage works with.

    Attributes:
        state: folder of checkpoints, weights and caches.
        device: torch device.
        precision: of the forward pass.
        batch_scale: factor of every stage's batch size; 1 suits two CPU cores.
        people, pictures: of the split "train".
        scorer_pictures: of the split "scorer".
        report: called as report(stage, progress).
        should_stop: asked between steps; True ends the stage in good order.
    """

    state: Path
    device: torch.device
    precision: Any
    batch_scale: int
    people: Faces
    pictures: Pictures
    scorer_pictures: Pictures
    report: Callable[[str, Progress], None]
    should_stop: Callable[[], bool] | None = None


def train_stage(
    context: Context, stage: str, *, seconds: float | None = None, steps: int | None = None
) -> int:
    """Trains one of `STAGES` further and writes its averaged weights; steps done in all.

    Raises:
        ValueError: unknown stage.
        FileNotFoundError: the weights of an earlier stage are missing.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, allowed: {', '.join(STAGES)}")
    kind, _, name = stage.partition(":")
    if kind == "vae":
        model, loss, config = _vae(context)
    elif kind in ("clip", "scorer"):
        model, loss, config = _image_text(context, stage)
    elif kind == "base":
        model, loss, config = _base(context)
    elif name == "photomaker":
        model, loss, config = _photomaker(context)
    else:
        model, loss, config = _adapter(context, name)
    loop = TrainingLoop(
        model,
        loss,
        config,
        store=LocalStore(context.state / f"{_file(stage)}.pt"),
        signature={"stage": stage},
        report=lambda progress: context.report(stage, progress),
    )
    if not loop.resume() and (context.state / f"{_file(stage)}.safetensors").is_file():
        loop.start_from(*_weights(context.state, stage))
    model.train()
    done = loop.run(seconds=seconds, steps=steps, should_stop=context.should_stop)
    with loop.averaged():
        tensors = {
            n: p.detach().float().cpu().contiguous()
            for n, p in model.named_parameters()
            if p.requires_grad
        }
        temporary = context.state / f".{_file(stage)}.tmp"
        save_file(tensors, temporary, metadata={"step": str(done)})
        temporary.replace(context.state / f"{_file(stage)}.safetensors")
    return done


def load_stage(state: Path, stage: str, model: nn.Module) -> Any:
    """The module with the averaged weights of a stage, frozen, in eval mode.

    Raises:
        FileNotFoundError: the stage was not trained yet.
    """
    tensors, _ = _weights(state, stage)
    missing, surplus = model.load_state_dict(tensors, strict=False)
    wanted = {name for name, _ in model.named_parameters()}
    if surplus or wanted & set(missing):
        raise ValueError(
            f"weights of stage {stage} in {state} do not fit: lack {missing[:3]}, "
            f"surplus {surplus[:3]}"
        )
    return model.requires_grad_(False).eval()


def _weights(state: Path, stage: str) -> tuple[dict[str, Tensor], int]:
    """The averaged weights of a stage and the steps they had."""
    path = state / f"{_file(stage)}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"stage {stage} has no weights in {state}; train it first")
    with safe_open(path, framework="pt") as file:
        return load_file(path), int((file.metadata() or {})["step"])


def pixels_of(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, 3, H, W) in [0, 1] of uint8 (B, H, W, 3)."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return tensor.permute(0, 3, 1, 2).float() / 255


def clip_pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, 3, 64, 64) as both image towers read them."""
    pixels = pixels_of(images, device)
    size = pocket.IMAGE_SIZE
    if pixels.shape[-1] != size:
        pixels = F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)
    mean = torch.tensor(pocket.CLIP_MEAN, device=device).view(1, 3, 1, 1)
    deviation = torch.tensor(pocket.CLIP_STD, device=device).view(1, 3, 1, 1)
    return (pixels.clamp(0, 1) - mean) / deviation


class ImageText(nn.Module):
    """A CLIP with what only its training needs.

    Args:
        model: image tower and text tower.
        first: a further text tower aligned to the same pictures (the base's first encoder).
    """

    def __init__(self, model: Any, first: Any | None) -> None:
        super().__init__()
        self.model, self.first = model, first
        width = model.config.projection_dim
        if first is not None:
            self.first_head = nn.Linear(first.config.hidden_size, width, bias=False)
            self.face_head = nn.Linear(width, width, bias=False)

    def forward(self, pixels: Tensor, ids: Tensor, faces: Tensor | None) -> Tensor:
        """Symmetric InfoNCE of pictures and texts, and of two photos (2 B faces) of a person."""
        images = self.model.visual_projection(self.model.vision_model(pixels).pooler_output)
        texts = self.model.text_projection(self.model.text_model(ids).pooler_output)
        scale = self.model.logit_scale.exp().clamp(max=100)
        loss = _contrast(images, texts, scale)
        if self.first is not None:
            loss = loss + _contrast(images, self.first_head(self.first(ids).pooler_output), scale)
        if faces is not None:
            tokens = self.model.vision_model(faces)
            seen = self.face_head(self.model.visual_projection(tokens.pooler_output))
            one, other = seen.chunk(2)
            loss = loss + 0.5 * _contrast(one, other, scale)
        return loss


def _contrast(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


Built = tuple[nn.Module, Callable[[int, int], Tensor], LoopConfig]


def _vae(context: Context) -> Built:
    vae = _on(context, pocket.build_vae())
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
        # Differences of neighbours weigh edges, which eyes and mouths are made of.
        edges = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
        return difference.abs().mean() + edges + 2e-6 * posterior.kl().mean()

    config = LoopConfig(
        learning_rate=1e-3, weight_decay=0.0, ema_decay=0.995, precision=context.precision
    )
    return vae, loss, config


def _image_text(context: Context, stage: str) -> Built:
    scorer = stage == "scorer"
    pictures = context.scorer_pictures if scorer else context.pictures
    first = None if scorer else pocket.build_text_encoder(first=True)
    model = ImageText(pocket.build_scorer() if scorer else pocket.build_clip(), first)
    model.to(context.device)
    ids = tokenize(pictures.captions)
    people, size = context.people, 64 * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((3 if scorer else 2, step, part))
        chosen = rng.integers(len(ids), size=size)
        pixels = clip_pixels(pictures.images[chosen], context.device)
        faces = None
        if not scorer:
            some = rng.choice(
                len(people.face), size=min(size // 4, len(people.face)), replace=False
            )
            both = np.concatenate([people.aligned[some, 0], people.aligned[some, 1]])
            faces = clip_pixels(both, context.device)
        return model(pixels, ids[chosen].to(context.device), faces)

    config = LoopConfig(
        learning_rate=1e-3, weight_decay=0.05, ema_decay=0.99, precision=context.precision
    )
    return model, loss, config


def load_vae(context: Context) -> Any:
    """The trained autoencoder."""
    return load_stage(context.state, "vae", pocket.build_vae()).to(context.device)


def load_clip(context: Context) -> ImageText:
    """The trained conditioning image-text model with both text towers."""
    model = ImageText(pocket.build_clip(), pocket.build_text_encoder(first=True))
    return load_stage(context.state, "clip", model).to(context.device)


@torch.no_grad()
def latents_of(context: Context, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised posterior means (M, 4, 16, 16), and the mean and deviation of each channel."""
    path = context.state / "latents.safetensors"
    vae = load_vae(context)
    key = f"{(context.state / 'vae.safetensors').stat().st_mtime_ns}-{len(images)}"
    if path.is_file():
        cached = load_file(path)
        if bytes(cached["key"].tolist()).decode() == key:
            return cached["latents"].to(context.device).float(), cached["mean"], cached["std"]
    parts = [
        vae.encode(pixels_of(images[i : i + 64], context.device) * 2 - 1).latent_dist.mean.half()
        for i in range(0, len(images), 64)
    ]
    latents = torch.cat(parts).float()
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    latents = (latents - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
    latents = latents.contiguous()
    stored = {"mean": mean.cpu(), "std": deviation.cpu(), "latents": latents.half().cpu()}
    save_file({**stored, "key": torch.tensor(list(key.encode()), dtype=torch.uint8)}, path)
    return latents, stored["mean"], stored["std"]


def _texts(context: Context, captions: NDArray[np.str_]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden (U, L, D) and pooled (U, P) of the unique captions, half precision; row of each."""
    unique, rows = np.unique(captions, return_inverse=True)
    clip = load_clip(context)
    hidden, pooled = encode_texts(clip.first, clip.model, tokenize(unique), context.device)
    return hidden, pooled, torch.from_numpy(rows)


def _base(context: Context) -> Built:
    unet = _on(context, pocket.build_unet())
    latents, _, _ = latents_of(context, context.pictures.images)
    hidden, pooled, rows = _texts(context, context.pictures.captions)
    alphas = pocket.build_scheduler().alphas_cumprod.to(context.device)
    region = face_region(context.device, weight=2.0)
    size = 16 * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        generator = torch.Generator().manual_seed(step * 1009 + part)
        chosen = torch.randint(len(latents), (size,), generator=generator)
        noise = torch.randn((size, *latents.shape[1:]), generator=generator).to(context.device)
        timesteps = torch.randint(len(alphas), (size,), generator=generator).to(context.device)
        kept = (torch.rand(size, generator=generator) >= TEXT_DROP).to(context.device)
        row, own = rows[chosen].to(hidden.device), chosen.to(latents.device)
        text = hidden[row].to(context.device).float() * kept[:, None, None]
        pool = pooled[row].to(context.device).float() * kept[:, None]
        noisy, target = noisy_and_target(latents[own], noise, timesteps, alphas, "v_prediction")
        time_ids = _time_ids(size, context.device)
        predicted = unet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pool, "time_ids": time_ids},
        ).sample
        weights = torch.ones(size, device=context.device)
        return diffusion_loss(predicted, target, weights, region)

    config = LoopConfig(
        learning_rate=5e-4, warmup_steps=200, ema_decay=0.998, precision=context.precision
    )
    return unet, loss, config


def _on(context: Context, model: nn.Module) -> Any:
    """The model on the device; convolutions run faster with channels last, on both kinds."""
    return model.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def face_region(device: torch.device, weight: float = 4.0) -> Tensor:
    """(16, 16) with a mean of 1: a latent of the faces' window weighs `weight` times another.

    What prompts name covers most of a picture; the face, which tells people apart, a quarter.
    """
    region = torch.ones(16, 16, device=device)
    rows, columns = (slice(w.start // 4, w.stop // 4) for w in FACE_WINDOW)
    region[rows, columns] = weight
    return region / region.mean()


def _time_ids(size: int, device: torch.device) -> Tensor:
    pixels = float(pocket.IMAGE_SIZE)
    return torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]], device=device).expand(size, -1)


@torch.no_grad()
def clip_tokens_of(context: Context, aligned: NDArray[np.uint8]) -> Tensor:
    """Half precision (N, P, T, C): image tokens of aligned faces uint8 (N, P, 112, 112, 3)."""
    tower = load_clip(context).model.vision_model
    flat = aligned.reshape(-1, *aligned.shape[2:])
    parts = [
        tower(clip_pixels(flat[i : i + 64], context.device)).last_hidden_state.half()
        for i in range(0, len(flat), 64)
    ]
    return torch.cat(parts).unflatten(0, aligned.shape[:2])


def _adapter(context: Context, name: str) -> Built:
    unet = _on(context, load_stage(context.state, "base", pocket.build_unet()))
    adapter = IdentityAdapter(preset("pocket").adapter, unet).to(context.device)
    scheduler = pocket.build_scheduler()
    text_active = name != "infinite_id"
    model = AdapterTraining(
        unet,
        adapter,
        scheduler.alphas_cumprod.to(context.device),
        scheduler.config.prediction_type,
        text_active=text_active,
        region=face_region(context.device),
    )
    latents, _, _ = latents_of(context, context.pictures.images)
    photos = torch.from_numpy(np.flatnonzero(context.pictures.style == "photo"))
    person = torch.from_numpy(context.pictures.person)
    portrait = torch.from_numpy(context.pictures.portrait)
    faces = torch.from_numpy(context.people.face)
    clip = clip_tokens_of(context, context.people.aligned)
    texts = _texts(context, context.pictures.captions) if text_active else None
    size = 16 * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        generator = torch.Generator().manual_seed(step * 1009 + part + 500_000_000)
        chosen = photos[torch.randint(len(photos), (size,), generator=generator)]
        # Another photo of the same person: identity is learnt, the picture is not copied.
        other = (portrait[chosen] + torch.randint(1, 3, (size,), generator=generator)) % 3
        face = faces[person[chosen], other].to(context.device)
        if name == "ip_adapter":
            face = torch.zeros_like(face)
        text = pooled = None
        if texts is not None:
            row = texts[2][chosen].to(texts[0].device)
            kept = (torch.rand(size, generator=generator) >= TEXT_DROP).to(context.device)
            text = texts[0][row].to(context.device).float() * kept[:, None, None]
            pooled = texts[1][row].to(context.device).float() * kept[:, None]
        batch = AdapterBatch(
            latents=latents[chosen.to(latents.device)],
            face=face,
            clip=clip[person[chosen].to(clip.device), other.to(clip.device)].float(),
            keep=(torch.rand(size, generator=generator) >= IDENTITY_DROP).to(context.device),
            noise=torch.randn((size, *latents.shape[1:]), generator=generator).to(context.device),
            timesteps=torch.randint(1000, (size,), generator=generator).to(context.device),
            time_ids=_time_ids(size, context.device),
            text=text,
            pooled=pooled,
        )
        return model(batch)

    config = LoopConfig(
        learning_rate=5e-4, warmup_steps=50, ema_decay=0.995, precision=context.precision
    )
    return model, loss, config


def _photomaker(context: Context) -> Built:
    from infinite_id.training.photomaker import PhotoMakerTraining, class_word_positions

    unet = load_stage(context.state, "base", pocket.build_unet())
    scheduler = pocket.build_scheduler()
    model = PhotoMakerTraining(
        unet,
        scheduler.alphas_cumprod,
        scheduler.config.prediction_type,
        region=face_region(torch.device("cpu")),
    )
    model.to(context.device)
    latents, _, _ = latents_of(context, context.pictures.images)
    photos = torch.from_numpy(np.flatnonzero(context.pictures.style == "photo"))
    person = torch.from_numpy(context.pictures.person)
    portrait = torch.from_numpy(context.pictures.portrait)
    clip = clip_tokens_of(context, context.people.aligned)[:, :, 0]
    hidden, pooled, rows = _texts(context, context.pictures.captions)
    places = class_word_positions(tokenize(context.pictures.captions))
    size = 16 * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        generator = torch.Generator().manual_seed(step * 1009 + part + 700_000_000)
        chosen = photos[torch.randint(len(photos), (size,), generator=generator)]
        other = (portrait[chosen] + torch.randint(1, 3, (size,), generator=generator)) % 3
        kept = torch.rand(size, generator=generator) >= TEXT_DROP
        noise = torch.randn((size, *latents.shape[1:]), generator=generator)
        timesteps = torch.randint(1000, (size,), generator=generator)
        row, keep = rows[chosen].to(hidden.device), kept.to(context.device)
        return model(
            latents[chosen.to(latents.device)],
            noise.to(context.device),
            timesteps.to(context.device),
            _time_ids(size, context.device),
            hidden[row].float() * keep[:, None, None],
            pooled[row].float() * keep[:, None],
            torch.where(kept, places[chosen], -1).to(context.device),
            clip[person[chosen].to(clip.device), other.to(clip.device)].float(),
        )

    config = LoopConfig(
        learning_rate=5e-4, warmup_steps=50, ema_decay=0.995, precision=context.precision
    )
    return model, loss, config


def _file(stage: str) -> str:
    return stage.replace(":", "-")
